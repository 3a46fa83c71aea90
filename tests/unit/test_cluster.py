"""What a worker's environment follows from."""

from __future__ import annotations

import pytest

from archer.config.keys import ClusterConfig
from archer.errors import ConfigError
from archer.runtime.cluster import Placement, start_ray


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The integration tests before these keep a Ray, which would be joined."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


@pytest.mark.parametrize(("cpus", "threads"), [(0.1, "1"), (1.0, "1"), (3.5, "3"), (8, "8")])
def test_a_cpu_worker_computes_on_the_cpus_it_reserves(cpus: float, threads: str):
    placement = Placement(ClusterConfig(cpus_per_worker=cpus))
    for options in (placement.rank("policy", 0), placement.engine(0)):
        assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("environment", "address", "key"),
    [
        ("127.0.0.1:1", "auto", "RAY_ADDRESS"),
        ("127.0.0.1:1", None, "RAY_ADDRESS"),
        ("", "127.0.0.1:1", "cluster.address"),
    ],
)
def test_a_ray_where_nothing_listens_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, environment: str, address: str | None, key: str
):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray would try for minutes"))
    monkeypatch.setenv("RAY_ADDRESS", environment)
    with pytest.raises(ConfigError, match=r"refused\. Start it on the first node") as caught:
        start_ray(ClusterConfig(address=address))
    assert (caught.value.key, caught.value.value) == (key, "127.0.0.1:1")


@pytest.mark.parametrize(("address", "words"), [("auto", "ray start --head"), (None, "/tmp/ray")])
def test_what_ray_raises_is_one_message(
    monkeypatch: pytest.MonkeyPatch, address: str | None, words: str
):
    def fail(**_: object) -> None:
        raise ConnectionError("Could not find any\nrunning Ray instance.")

    monkeypatch.setattr("ray.init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="Could not find any running Ray") as caught:
        start_ray(ClusterConfig(address=address))
    assert words in caught.value.mend
