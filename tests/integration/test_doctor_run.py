"""`python -m archer.doctor` with a real Ray."""

import json
import subprocess
import sys
import time

import ray

from archer.doctor import CHECKS


def doctor(*words: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "archer.doctor", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_every_check_answers_within_a_minute():
    began = time.monotonic()
    _, report = doctor()
    assert time.monotonic() - began < 60
    assert list(report) == list(CHECKS)
    assert report["ray"]["status"] == "ok", report["ray"]
    assert f"Ray {ray.__version__} starts here: 1 nodes" in report["ray"]["lines"][0]["found"]


def test_a_cluster_is_joined_and_compared_with_what_the_run_places(local_ray: None):
    address = f"cluster.address={ray.get_runtime_context().gcs_address}"
    status, report = doctor("ray", address)
    assert (status, report["ray"]["status"]) == (0, "ok"), report
    assert "joined" in report["ray"]["lines"][0]["found"]
    status, report = doctor("ray", "cluster=1x8", address)
    assert status == 1
    assert report["ray"]["lines"][1]["found"] == "no room for 8 x (1 GPU + 4 CPU)"
    status, report = doctor("ray", "cluster.cpus_per_worker=9", address)
    assert status == 1
    # 16 CPUs hold one of the engine, the policy and the reference.
    assert report["ray"]["lines"][1]["found"] == "no room for 2 x (9 CPU)"
