"""Writes the job of a run for Slurm or Kubernetes; it submits nothing.

    python -m archer.launch slurm experiment=archer_math_1.5b cluster=2x8 output=job.sbatch
    python -m archer.launch kuberay experiment=archer_math_1.5b cluster=2x8 launch.image=REGISTRY/archer:cuda
    sbatch job.sbatch                  # or: kubectl apply -f job.yaml

Takes the overrides of archer.main, checks them, and puts that very command into the job; nodes and
GPUs come from the composed cluster=. Keys of its own:
    output=FILE               where to write; empty prints
    launch.KEY=VALUE          what the run does not know of the cluster; docs/cluster.md lists them

Exit status: 0, or 2 for settings that the run or the job cannot have.
"""  # noqa: E501

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

from hydra.core.override_parser.overrides_parser import OverridesParser
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import DictConfig, OmegaConf
from pydantic import field_validator

from archer.config.command_line import run_or_explain
from archer.config.compose import compose_training
from archer.config.keys import ShapeConfig, TrainConfig
from archer.config.schema import NonNegativeInt, PositiveInt, Section, suggestion, validate
from archer.errors import ConfigError
from archer.metrics import write_atomically
from archer.planning.memory_model import GIB, engine
from archer.planning.memory_plan import check_plan
from archer.planning.shape import check_shape, known_shape
from archer.planning.time_model import GPUS, step_time

TEMPLATES = Path(__file__).parent / "templates"
TARGETS = {"slurm": "slurm.sbatch", "kuberay": "kuberay.yaml"}
RESTARTS = {"slurm": 5, "kuberay": 0}
"""Slurm's job begins again only when its time is up; KubeRay's after any failure."""
SLURM_TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2}")
"""As ``sbatch --time`` takes it (https://slurm.schedmd.com/sbatch.html#OPT_time)."""
WORKDIR = PurePosixPath("/opt/archer")
"""Of the images."""
HOME = "/home/archer"
CPUS_OF_THE_DRIVER = 4
"""For the driver, Ray's own processes and the reward actor, on every node alike."""
LONGEST_NAME = 47
"""Of a RayJob: KubeRay names pods and services after it
(https://github.com/ray-project/kuberay/pull/3083)."""


class LaunchConfig(Section):
    """What a job says that its run does not know."""

    time: str = "2-00:00:00"
    """Slurm: the time limit. The run saves a checkpoint ten minutes before it."""
    partition: str | None = None
    """Slurm: the partition; empty is the cluster's default."""
    account: str | None = None
    """Slurm: who pays; empty is your default."""
    prefix: str = ""
    """Slurm: put before every command on a node, such as `apptainer exec --nv archer.sif`. Empty
    runs them in the environment that wrote the job."""
    image: str = "archer:cuda"
    """Kubernetes: the image, with its registry."""
    volume: str = "archer"
    """Kubernetes: the persistent volume claim, for all nodes to write, with runs and caches."""
    secret: str = "archer"
    """Kubernetes: the secret with HF_TOKEN, WANDB_API_KEY and the like; may be absent."""
    cpus: PositiveInt | None = None
    """CPUs of a node; empty is what the run places there, and a few for Ray and the driver."""
    memory_gb: PositiveInt | None = None
    """Kubernetes: memory of a node; empty is 96 GB for each GPU, or 16 GB."""
    shm_gb: PositiveInt | None = None
    """Kubernetes: size of /dev/shm, a part of the memory; empty is a quarter of it."""
    restarts: NonNegativeInt | None = None
    """How often the job may begin again, continuing the run from its last checkpoint: when its time
    is up (Slurm, 5 where empty), when it has failed (Kubernetes, 0 where empty)."""

    @field_validator("time", mode="before")
    @classmethod
    def _slurm_time(cls, value: object) -> str:
        if not SLURM_TIME.fullmatch(str(value)):
            raise ValueError("D-HH:MM:SS, HH:MM:SS or minutes")
        return str(value)


class JobConfig(Section):
    """What ``python -m archer.launch`` takes beside the overrides of the run."""

    output: str | None = None
    launch: LaunchConfig = LaunchConfig()


@dataclass(frozen=True)
class Job:
    """A run and its place, as the templates read them."""

    name: str
    """The run's, in letters, digits and dashes, as Kubernetes asks for."""
    command: str
    """The training command, quoted for a shell."""
    nodes: int
    gpus: int
    """Of one node."""
    cpus: int
    memory_gb: int
    shm_gb: int
    start_timeout_s: int
    run_root: str
    """``run.root`` in a pod, where the volume is mounted; so is ``cache``."""
    cache: str
    hours: float | None
    """Of the whole run on H800 GPUs, by the plan; None where it has no GPU or its model's sizes are
    not known."""
    checkout: str
    """Folder of archer and its conf/, where the command runs."""
    bin: str
    """Folder of the interpreter."""
    ray_version: str
    launch: LaunchConfig


def main(argv: Sequence[str]) -> None:
    if not argv or any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return
    output, text, note = run_or_explain(lambda: _render(argv))
    if note:
        print(note, file=sys.stderr)
    if output is None:
        print(text, end="")
        return
    run_or_explain(lambda: _write(Path(output), text))
    print(f"{output} is written. Read it, then submit it.", file=sys.stderr)


def _render(argv: Sequence[str]) -> tuple[str | None, str, str]:
    """The file to write, its text, and what to say about it."""
    target, *words = argv
    if target not in TARGETS:
        known = ", ".join(TARGETS)
        mend = (
            f"Name it first: python -m archer.launch slurm ...{suggestion(target, list(TARGETS))}"
        )
        raise ConfigError("the target", target, f"one of {known}", mend)
    own = [word for word in words if word.partition("=")[0].split(".")[0] in ("launch", "output")]
    settings = validate(JobConfig, _parsed(own))
    overrides = [word for word in words if word not in own]
    job = plan_job(overrides, settings.launch)
    note = _length(job) if target == "slurm" else ""
    return settings.output, render(target, job), note


def _length(job: Job) -> str:
    if job.hours is None:
        return ""
    digits = 1 if job.hours < 10 else 0
    return (
        f"By the plan the run takes {job.hours:.{digits}f} hours on H800 GPUs; the paper's runs "
        "took over twice their estimate (docs/plan.md). "
        f"The job has launch.time={job.launch.time}, and begins again when "
        f"that is up, at most {_restarts('slurm', job.launch)} times (launch.restarts)."
    )


def _restarts(target: str, launch: LaunchConfig) -> int:
    return RESTARTS[target] if launch.restarts is None else launch.restarts


def _parsed(words: Sequence[str]) -> DictConfig:
    """Settings by Hydra's grammar, which takes 1:00:00 for a text; YAML's takes it for 3600."""
    settings = OmegaConf.create()
    for override in OverridesParser.create().parse_overrides(list(words)):
        OmegaConf.update(settings, override.key_or_group, override.value())
    return settings


def plan_job(overrides: Sequence[str], launch: LaunchConfig) -> Job:
    """The job of a run.

    Args:
        overrides: of the training command; checked as that checks them.

    Raises:
        ConfigError: the run would be refused, or two parts of it do not fit.
    """
    config = compose_training(overrides)
    cluster = config.cluster
    gpus = cluster.gpus_per_node
    if cluster.device == "cuda" and not gpus:
        mend = "Choose a preset such as cluster=1x8."
        raise ConfigError("cluster.gpus_per_node", gpus, "the GPUs of a node", mend)
    # The nodes would refuse it too, after the wait.
    shape = known_shape(config.model)
    if shape is not None:
        check_shape(config, shape)
        if cluster.gpu_memory_gb is not None:
            check_plan(config, shape)
    memory_gb = launch.memory_gb or (96 * gpus or 16)
    shm_gb = launch.shm_gb or max(1, memory_gb // 4)
    if shm_gb >= memory_gb:
        mend = "Raise launch.memory_gb: shared memory counts towards it."
        raise ConfigError("launch.shm_gb", shm_gb, f"less than the memory, {memory_gb} GB", mend)
    # The job starts Ray, and the run joins it, whatever the preset says.
    words = [*overrides, *(["cluster.address=auto"] if cluster.address != "auto" else [])]
    return Job(
        name=_job_name(config.run_name),
        command=shlex.join(["python", "-u", "-m", "archer.main", *words]),
        nodes=cluster.num_nodes,
        gpus=gpus,
        cpus=launch.cpus or _cpus_of_a_node(config),
        memory_gb=memory_gb,
        shm_gb=shm_gb,
        start_timeout_s=int(cluster.start_timeout_s),
        run_root=str(WORKDIR / config.run.root),
        cache=str(WORKDIR / re.sub("^~", HOME, config.run.cache)),
        hours=_hours(config, shape),
        checkout=str(Path(__file__).parent.parent),
        bin=str(Path(sys.executable).parent),
        ray_version=_ray_version(),
        launch=launch,
    )


def _hours(config: TrainConfig, shape: ShapeConfig | None) -> float | None:
    cluster, gpu = config.cluster, GPUS["h800"]
    if cluster.device == "cpu" or shape is None:
        return None
    found = engine(config, shape, (cluster.gpu_memory_gb or gpu.memory_gib) * GIB)
    if not found.full_sequences:
        return None
    return step_time(config, shape, found, gpu).total * config.trainer.num_steps / 3600


def _job_name(run_name: str) -> str:
    """The run's, as KubeRay allows it: it begins with a letter, and a long one loses its middle,
    since data and seed, which tell runs apart, come last."""
    name = re.sub(r"[^a-z0-9]+", "-", run_name.lower()).strip("-")
    if not name.startswith("archer-"):
        name = f"archer-{name}"
    if len(name) > LONGEST_NAME:
        half = (LONGEST_NAME - 1) // 2
        name = f"{name[:half].strip('-')}-{name[-half:].strip('-')}"
    return name


def _cpus_of_a_node(config: TrainConfig) -> int:
    from archer.runtime.machine import num_workers

    cluster = config.cluster
    # Each worker's share, four roles to a GPU as cluster.reserved_bundles has it.
    workers = 4 * cluster.gpus_per_node or math.ceil(num_workers(config) / cluster.num_nodes)
    return (
        math.ceil(workers * cluster.cpus_per_worker)
        + config.reward.num_workers
        + CPUS_OF_THE_DRIVER
    )


def _ray_version() -> str:
    try:
        return version("ray")
    except PackageNotFoundError as error:
        mend = "Install the stack (make setup): the job names Ray's version."
        raise ConfigError("ray", None, "the installed package", mend) from error


def render(target: str, job: Job) -> str:
    """The text of a job for ``slurm`` or ``kuberay``."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = shlex.quote
    restarts = _restarts(target, job.launch)
    return environment.get_template(TARGETS[target]).render(job=job, restarts=restarts)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        mend = "Choose another file."
        raise ConfigError(
            "output", str(path), f"a file that can be written ({error})", mend
        ) from error


if __name__ == "__main__":
    main(sys.argv[1:])
