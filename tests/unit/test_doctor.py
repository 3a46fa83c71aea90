"""`python -m archer.doctor` as people run it."""

import ctypes
import ctypes.util
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from archer.config.compose import compose_training
from archer.diagnosis.finding import Diagnosis, Line
from archer.diagnosis.ray import unplaced
from archer.doctor import CHECKS, main, run_checks
from archer.rewards.sandbox.host import Host
from archer.runtime.cluster import reserved_bundles

ROOT = Path(__file__).parents[2]
needs_landlock = pytest.mark.skipif(not Host.read().landlock_abi, reason="no Landlock here")


def run(python, *words, user=None, **environment):
    """Exit status, output and errors of the command, in an environment of its own."""
    done = subprocess.run(
        [*python, "-m", "archer.doctor", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environment},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def here(in_process, monkeypatch):
    """The command in this process, on a wide screen."""
    monkeypatch.setenv("COLUMNS", "200")
    return partial(in_process, main)


def test_help_names_the_checks(here):
    for words in (["--help"], ["sandbox", "-h"]):
        status, output, _ = here(*words)
        assert status == 0
        assert "tries to break out of the sandbox" in output
        assert [name for name in CHECKS if f"\n    {name} " not in output] == []


def test_the_sandbox_of_this_machine(here):
    status, output, _ = here("sandbox", "--json")
    report = json.loads(output)["sandbox"]
    assert [level["level"] for level in report["levels"]] == ["A", "B"]
    for level in report["levels"]:
        if level["failure"]:
            assert level["findings"] == []
        else:
            assert [found for found in level["findings"] if not found["has_held"]] == []
            assert len(level["findings"]) > 10
    started = [level["level"] for level in report["levels"] if not level["failure"]]
    if Host.read().landlock_abi:
        assert "B" in started, output
    assert report["level"] == (started or [None])[0]
    assert status == (0 if started else 1)


@needs_landlock
def test_the_page_for_people(here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, output, _ = here("sandbox")
    assert status == 0, output
    assert "BROKEN" not in output
    assert max(map(len, output.splitlines())) <= 80
    held = [line for line in output.splitlines() if re.fullmatch(r" *[a-z]+  .*  holds *", line)]
    assert any("no socket can be opened" in line for line in held)
    assert len(held) >= 15  # one line each
    assert "Not hidden at this level" in output
    column = re.search(r'run at level (A|B): column "(\1, \w+)"', " ".join(output.split()))
    assert column and f"| {column[2]} |" in (ROOT / "docs" / "sandbox.md").read_text()


def test_a_level_that_cannot_start_says_what_to_install(here, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    status, output, _ = here("sandbox", "reward.sandbox.level=A")
    assert status == 1
    assert "does not start" in output
    assert "bubblewrap" in output
    assert "allow_unsafe_code_execution=true" in output


def test_an_accepted_risk_is_no_safety(here, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    accepted = "reward.sandbox.allow_unsafe_code_execution=true"
    status, _, _ = here("sandbox", "reward.sandbox.level=A", accepted)
    assert status == 1


def test_a_service_that_is_not_there(here):
    words = ("reward.sandbox.level=remote", "reward.sandbox.url=http://127.0.0.1:9")
    status, output, _ = here("sandbox", *words)
    assert status == 1
    assert "Connection refused" in output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sandbx"], "Did you mean 'sandbox'"),
        (["sandbox", "reward.sandbox.levl=A"], "Did you mean 'reward.sandbox.level'"),
        (["sandbox", "reward.sandbox.level=C"], "'A', 'B' or 'remote'"),
        (["sandbox", "reward.sandbox.level=remote"], "the address of a service"),
        (["sandbox", "reward.sandbox.url=http://sandbox:8080"], "level=remote"),
        (["sandbox", "reward.sandbox.python=/bin/false"], "reward.sandbox.python "),
        (["sandbox", "--jsn"], "--json"),
        (["sandbox", "-v"], "a check, KEY=VALUE or --json"),
        (["shm", "cluster=9x9"], "2x8_disaggregated"),
    ],
)
def test_a_wrong_command_line(here, words, expected):
    status, _, errors = here(*words)
    assert status == 2
    assert expected in errors


def lines(output, check):
    """Status and text of a check's lines, of ``--json``."""
    return [(line["status"], line["found"]) for line in json.loads(output)[check]["lines"]]


def in_namespace(*flags, prepare="true", words):
    """The command in mount and network namespaces of its own, after some preparation."""
    if os.geteuid() != 0 or subprocess.run(["unshare", *flags, "true"]).returncode:
        pytest.skip("needs the right to make namespaces")
    command = shlex.join([sys.executable, "-m", "archer.doctor", *words, "--json"])
    done = subprocess.run(
        ["unshare", *flags, "sh", "-c", f"{prepare} && exec {command}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_machine_as_it_should_be(here):
    names = ["python", "machine", "gpus", "network"]
    status, output, _ = here(*names, "--json")
    assert status == 0, output
    assert list(json.loads(output)) == names
    assert "cluster.device=cpu" in lines(output, "gpus")[0][1]
    assert "CPUs" in lines(output, "machine")[0][1]


def test_a_package_of_the_wrong_version(here, monkeypatch, tmp_path):
    (tmp_path / "cpu.txt").write_text("ray==1.0.0\nrich==0.1\nno-such-package==2\nhydra-core==1\n")
    monkeypatch.setattr("archer.diagnosis.software.LOCKS", tmp_path)
    status, output, _ = here("packages", "--json")
    assert status == 1
    (first, ray), (second, others) = lines(output, "packages")
    assert (first, second) == ("fail", "warning")
    assert ray == f"ray {version('ray')} (lock: 1.0.0)"
    assert "no-such-package is missing (lock: 2)" in others
    assert "make setup STACK=cpu" in output


def test_builds_of_one_version_are_the_same(here, monkeypatch, tmp_path):
    (tmp_path / "cpu.txt").write_text(f"torch=={version('torch').partition('+')[0]}+other\n")
    monkeypatch.setattr("archer.diagnosis.software.LOCKS", tmp_path)
    _, output, _ = here("packages", "--json")
    assert lines(output, "packages") == [("ok", "1 packages as in cpu.txt")]


def test_torch_for_cpus_is_no_torch_for_gpus(here, monkeypatch, tmp_path):
    (tmp_path / "cuda.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr("archer.diagnosis.software.LOCKS", tmp_path)
    installed = {"torch": "2.13.0+cpu"}
    monkeypatch.setattr("archer.diagnosis.software.version", installed.__getitem__)
    _, output, _ = here("packages", "cluster=1x1", "--json")
    assert lines(output, "packages") == [("fail", "torch 2.13.0+cpu (lock: 2.13.0)")]
    installed["torch"] = "2.13.0+cu130"
    _, output, _ = here("packages", "cluster=1x1", "--json")
    assert lines(output, "packages") == [("ok", "1 packages as in cuda.txt")]


def test_more_workers_than_the_machine_has_cpus(here):
    status, output, _ = here("machine", "cluster.cpus_per_worker=4000")
    assert status == 1
    assert "cluster.cpus_per_worker" in output


def test_a_machine_without_a_library_of_vllm():
    ctypes.CDLL("libnuma.so.1")
    maps = Path("/proc/self/maps").read_text()
    library = re.search(r"/\S*libnuma\S*", maps)[0]
    hide = f"mount --bind /dev/null {library}"
    code, output, errors = in_namespace("-m", prepare=hide, words=["machine"])
    assert code == 1, errors
    assert "apt-get install libnuma1" in output


def test_gpus_that_are_not_there(here, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    status, output, _ = here("gpus", "cluster=1x1", "--json")
    assert status == 1
    assert "nvidia-smi does not work" in lines(output, "gpus")[0][1]


@pytest.mark.parametrize(
    ("driver", "used", "expected"),
    [
        ("580.65.06", 400, [("ok", "2 x NVIDIA H100, driver 580.65.06")]),
        ("570.10", 400, [("ok", "2 x NVIDIA H100, driver 570.10"), ("fail", "driver 570.10")]),
        ("580.65.06", 40000, [("ok", "2 x NVIDIA H100, driver 580.65.06"),
                              ("warning", "2 of 2 GPUs are in use")]),
    ],
)  # fmt: skip
def test_gpus_as_their_driver_describes_them(here, monkeypatch, tmp_path, driver, used, expected):
    row = f"NVIDIA H100, {driver}, 81559, {used}"
    fake = tmp_path / "nvidia-smi"
    fake.write_text(
        "#!/bin/sh\ncase $1 in\n--list-gpus) echo 'GPU 0: a'; echo 'GPU 1: b' ;;\n"
        f"*) echo '{row}'; echo '{row}' ;;\nesac\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    two = [f"cluster.{key}=2" for key in ("gpus_per_node", "policy_workers", "rollout_replicas")]
    _, output, _ = here("gpus", "cluster=1x1", *two, "--json")
    assert lines(output, "gpus") == expected
    status, output, _ = here("gpus", "cluster=1x8", "--json")
    assert status == 1
    assert "cluster.gpus_per_node=8" in lines(output, "gpus")[0][1]


@pytest.mark.parametrize(("device", "status"), [("cpu", "warning"), ("cuda", "fail")])
def test_shared_memory_of_a_container(device, status):
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    words = ["shm", f"cluster={'1x1' if device == 'cuda' else 'local'}"]
    code, output, errors = in_namespace("-m", prepare=mount, words=words)
    assert code == (1 if status == "fail" else 0), errors
    (found,) = lines(output, "shm")
    assert found[0] == status
    assert found[1].startswith("0.1 of 0.1 GB free")
    assert "--shm-size" in output


def test_a_disk_that_is_full(tmp_path):
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path} && head -c 64k /dev/zero > {tmp_path}/a"
    code, output, errors = in_namespace("-m", prepare=mount, words=["disk", f"run.root={tmp_path}"])
    assert code == 1, errors
    status, found = lines(output, "disk")[0]
    assert status == "fail"
    assert "run.root: nothing can be written" in found
    assert "No space left" in found


def test_a_folder_of_somebody_else(tmp_path):
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path}"
    words = ["disk", f"run.cache={tmp_path}/cache"]
    code, output, errors = in_namespace("-m", prepare=mount, words=words)
    assert code == 1, errors
    assert "run.cache: nothing can be written" in lines(output, "disk")[1][1]
    assert not (tmp_path / "cache").exists()


def test_a_look_at_the_disk_leaves_nothing_behind(here, tmp_path):
    status, _, _ = here("disk", f"run.root={tmp_path}/runs", f"run.cache={tmp_path}/cache")
    assert status == 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_for_the_checkpoints(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"vocab_size": 8}')
    with (model / "pytorch_model.bin").open("wb") as weights:
        weights.truncate(2 * 10**12)  # a file without blocks that says it has a trillion weights
    words = ["disk", f"model.path={model}", "model.warm_start=null", f"run.root={tmp_path}/runs"]
    status, output, errors = run([sys.executable], *words, "--json")
    assert status == 1, errors
    assert any("MB free for 3 checkpoints" in found for _, found in lines(output, "disk"))


def test_a_machine_without_loopback():
    code, output, errors = in_namespace("-n", words=["network"])
    assert code == 1, errors
    assert lines(output, "network")[0][0] == "fail"
    assert "ip link set lo up" in output


def test_too_few_open_files():
    limited = ["/bin/sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", sys.executable]
    status, output, _ = run(limited, "network", "--json")
    assert status == 0
    assert ("warning", "256 open files allowed, Ray may need 4096") in lines(output, "network")


HUB_MODEL = ("model=r1-distill-1.5b", "cluster=local")


def test_a_hub_out_of_reach(tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    status, output, errors = run([sys.executable], "hub", *HUB_MODEL, "--json", **nowhere)
    assert status == 1, errors
    ((_, found),) = lines(output, "hub")
    assert "http://127.0.0.1:1 does not answer" in found
    assert "models/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B" in found
    assert "HF_ENDPOINT" in output
    status, output, _ = run([sys.executable], "hub", "--json", **nowhere)
    assert status == 0
    assert "the run needs nothing from it" in lines(output, "hub")[0][1]


def test_offline_with_and_without_the_model(here, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    status, output, _ = here("hub", *HUB_MODEL, "--json")
    assert status == 1
    assert "offline, and not here: models/deepseek-ai" in lines(output, "hub")[0][1]
    repository = tmp_path / "models--deepseek-ai--DeepSeek-R1-Distill-Qwen-1.5B"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    status, output, _ = here("hub", *HUB_MODEL, "--json")
    assert status == 0, output


@pytest.mark.parametrize(
    ("code", "status", "mend"),
    [(200, "ok", ""), (401, "fail", "hf auth login"), (403, "fail", "licence"), (500, "fail", "")],
)
def test_what_a_hub_answers(here, monkeypatch, tmp_path, code, status, mend):
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    asked = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        _, output, _ = here("hub", *HUB_MODEL, "--json")
        server.shutdown()
    ((found, _),) = lines(output, "hub")
    assert found == status
    assert mend in output
    assert "hf_secret" not in output
    path = "/api/models/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert asked == [(path, "Bearer hf_secret")]


def test_a_check_that_hangs_is_cut_off_with_what_it_started(tmp_path):
    def hang(config):
        child = subprocess.Popen(["sleep", "600"])
        (tmp_path / "pid").write_text(str(child.pid))
        time.sleep(600)

    def quick(config):
        return Diagnosis((Line("ok", "done"),))

    checks = {"slow": hang, "quick": quick}
    found = run_checks(checks, compose_training([]), deadline_s=1.0)
    assert found["quick"].status == "ok"
    assert found["slow"].status == "fail"
    assert "no answer after 1 s" in found["slow"].lines[0].found
    child = int((tmp_path / "pid").read_text())
    assert (
        not Path(f"/proc/{child}/cmdline").exists()
        or "sleep" not in Path(f"/proc/{child}/cmdline").read_text()
    )


def test_a_check_that_breaks_or_dies_is_a_failure():
    def breaks(config):
        raise ZeroDivisionError("of mine")

    def dies(config):
        os._exit(7)

    found = run_checks({"breaks": breaks, "dies": dies}, compose_training([]))
    assert "ZeroDivisionError: of mine" in found["breaks"].lines[0].found
    assert "exit status 7" in found["dies"].lines[0].found


def test_a_sandbox_that_nothing_needs_does_not_fail(monkeypatch):
    failed = Diagnosis((Line("fail", "no level holds", "Install one."), Line("ok", "else")))
    optional = failed.made_optional("reward=math runs no programs")
    assert failed.status == "fail"
    assert optional.status == "warning"
    assert optional.lines[0].found == "no level holds; not needed, as reward=math runs no programs"


def test_a_ray_that_is_not_there(here, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # The integration tests before this one keep a Ray, which would be joined.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    status, output, _ = here("ray", "cluster.address=127.0.0.1:1", "--json")
    assert status == 1
    assert "'127.0.0.1:1': expected a Ray cluster that can be joined" in lines(output, "ray")[0][1]
    assert "ray start --head" in output


def test_bundles_are_placed_where_they_fit():
    node = {"GPU": 8.0, "CPU": 64.0}
    colocated = compose_training(["cluster=2x8"]).cluster
    bundles = [b for group in reserved_bundles(colocated) for b in group]
    assert unplaced([node, node], bundles) == []
    assert unplaced([node], bundles) == [{"GPU": 1, "CPU": 4.0}] * 8
    # 16 GPUs are not 4 nodes' worth of 5: an engine lies on one node.
    engines = [{"GPU": 5.0, "CPU": 4.0}] * 3
    assert unplaced([node, node], engines) == [{"GPU": 5.0, "CPU": 4.0}]
    assert unplaced([{"GPU": 8.0, "CPU": 8.0}], bundles[:3]) == bundles[:1]


def behind_profile(*names):
    """An interpreter in something like a container."""
    if platform.machine() != "x86_64":
        pytest.skip("the profile is for x86_64")
    profile = str(Path(__file__).with_name("docker_profile.py"))
    return sys.executable, profile, ",".join(names), sys.executable


def test_a_container_without_namespaces_gets_level_b():
    status, output, _ = run(behind_profile("namespaces"), "sandbox")
    if "Landlock ABI" not in output:
        pytest.skip("the kernel has no Landlock")
    assert "level A: namespaces by bubblewrap, seccomp, limits\ndoes not start" in output
    assert "seccomp profile" in output or "Here that is" in output
    assert "run at level B" in output
    assert status == 0


def test_a_container_that_forbids_landlock_too_is_refused():
    status, output, _ = run(behind_profile("namespaces", "landlock"), "sandbox")
    assert status == 1
    assert "landlock_create_ruleset" in output
    assert "must not run here" in output


def test_the_profile_of_our_containers_lets_namespaces_through(here):
    """docker/sandbox/seccomp.json is what a container needs for level A."""
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("needs libseccomp")
    words = ("sandbox", "reward.sandbox.level=A", "--json")
    if here(*words)[0] != 0:
        pytest.skip("this machine has no level A to begin with")
    helper = str(Path(__file__).with_name("container_profile.py"))
    profile = str(ROOT / "docker" / "sandbox" / "seccomp.json")
    python = (sys.executable, helper, profile, sys.executable)
    status, output, errors = run(python, *words)
    assert status == 0, errors
    report = json.loads(output)["sandbox"]
    assert report["host"]["has_seccomp_filter"]
    assert report["level"] == "A"


def test_an_unprivileged_user_has_a_sandbox_too():
    if os.geteuid() != 0:
        pytest.skip("the other tests run as such a user")
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    nobody = 65534
    for python in (sys.executable, "/usr/bin/python3"):
        environment = {"PYTHONPATH": path, "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            status, output, errors = run([python], "sandbox", "--json", user=nobody, **environment)
        except PermissionError:  # an interpreter below /root
            continue
        if "ModuleNotFoundError" in errors or "PermissionError" in errors:
            continue
        assert status == 0, errors + output
        assert json.loads(output)["sandbox"]["host"]["uid"] == nobody
        return
    pytest.skip("no interpreter that another user can run has archer's packages")
