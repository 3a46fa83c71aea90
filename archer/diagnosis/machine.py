"""The checks ``machine``, ``gpus`` and ``shm``: CPUs, memory, GPUs and what lies between them."""

from __future__ import annotations

import platform
import resource
import shutil
import subprocess
from pathlib import Path

import psutil

from archer.config.keys import ClusterConfig, TrainConfig
from archer.diagnosis.finding import GB, Diagnosis, Line, tried
from archer.runtime import machine

LEAST_DRIVER = 580
"""Branch of the first NVIDIA driver for CUDA 13, which the lock's torch is built with
(https://docs.nvidia.com/cuda/cuda-toolkit-release-notes)."""
MEMORY_OF_A_RUN = 4 * GB
"""Memory below which even the embedded run gets into trouble: Ray, an engine, two ranks."""
SHM_OF_RAY = 0.5 * GB
"""Room in /dev/shm below which Ray's object store moves to the disk."""
SHM_OF_A_RANK = 1 * GB
"""NCCL's buffers between the GPUs of one node, with room to spare."""


def check_machine(config: TrainConfig) -> Diagnosis:
    """CPUs and memory, as this process and Ray see them."""
    cpus, memory = machine.available_cpus(), psutil.virtual_memory()
    described = (
        f"{cpus} CPUs, {memory.available / GB:.0f} of {memory.total / GB:.0f} GB memory free"
    )
    lines = [tried(lambda: machine.check_machine(config), described)]
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0] != "max" and int(quota[0]) / int(quota[1]) < cpus:
        share = int(quota[0]) / int(quota[1])
        mend = "Give it whole CPUs (cpuset), or more: threads are started for those it sees."
        lines.append(Line("warning", f"a quota of {share:g} CPUs, while {cpus} are visible", mend))
    limit = _cgroup("memory.max")
    if limit.isdecimal() and int(limit) < memory.total:
        amount, name = int(limit), "the memory limit of this container"
    else:
        amount, name = memory.available, "free memory"
    if amount < MEMORY_OF_A_RUN:
        mend = "End other programs, or raise the limit; `python -m archer.plan` accounts for a run."
        lines.append(Line("warning", f"{name} is {amount / GB:.1f} GB", mend))
    return Diagnosis(tuple(lines))


def _cgroup(name: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:  # no cgroup v2 here
        return ""


def check_gpus(config: TrainConfig) -> Diagnosis:
    """GPUs, their driver and who else uses them; InfiniBand where a run has several nodes."""
    cluster = config.cluster
    if cluster.device == "cpu":
        return Diagnosis((Line("ok", "none needed: cluster.device=cpu"),))
    lines = _gpu_lines(cluster)
    if cluster.num_nodes > 1:
        lines.append(_infiniband())
    return Diagnosis(tuple(lines))


def _gpu_lines(cluster: ClusterConfig) -> list[Line]:
    query = "--query-gpu=name,driver_version,memory.total,memory.used"
    try:
        listing = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        # The driver of a run may start on a login node; Ray's nodes are looked at by another check.
        is_here = cluster.address is None
        mend = "Install NVIDIA's driver; in a container, its toolkit and --gpus all."
        return [Line("fail" if is_here else "warning", f"nvidia-smi does not work: {error}", mend)]
    gpus = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines() if line]
    visible, wanted = machine.visible_gpus(), cluster.gpus_per_node
    described = f"{visible} x {gpus[0][0]}, driver {gpus[0][1]}" if gpus else "no GPU"
    lines = [Line("ok", described)]
    if visible < wanted:
        mend = f"Set cluster.gpus_per_node={visible}, or check CUDA_VISIBLE_DEVICES."
        lines = [Line("fail", f"{described}; cluster.gpus_per_node={wanted}", mend)]
    if gpus and int(gpus[0][1].partition(".")[0]) < LEAST_DRIVER:
        mend = f"torch of the lock is built for CUDA 13: install driver {LEAST_DRIVER} or newer."
        lines.append(Line("fail", f"driver {gpus[0][1]}", mend))
    # A GPU without processes still reports some hundred MB.
    busy = [gpu for gpu in gpus if gpu[3].isdecimal() and int(gpu[3]) > 0.05 * int(gpu[2])]
    if busy:
        mend = "Other processes hold it: see nvidia-smi. vLLM takes its share of the whole memory."
        lines.append(Line("warning", f"{len(busy)} of {len(gpus)} GPUs are in use", mend))
    return lines


def _infiniband() -> Line:
    states = [_read(port / "state") for port in Path("/sys/class/infiniband").glob("*/ports/*")]
    if not any("ACTIVE" in state for state in states):
        mend = (
            "NCCL will use TCP, which weights and gradients wait for. If there is a fast network, "
            "make its devices visible here (in a container /dev/infiniband), or choose the "
            "interface with NCCL_SOCKET_IFNAME. NCCL_DEBUG=INFO says what it took."
        )
        return Line("warning", "no active InfiniBand or RoCE port", mend)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY:
        mend = "RDMA registers its buffers: ulimit -l unlimited, in Docker --ulimit memlock=-1."
        return Line("fail", f"locked memory is limited to {locked >> 20} MB", mend)
    return Line("ok", f"{sum('ACTIVE' in state for state in states)} active InfiniBand ports")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def check_shm(config: TrainConfig) -> Diagnosis:
    """Shared memory: Ray keeps objects in it, NCCL exchanges data through it."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Diagnosis((Line("ok", f"no {folder} on {platform.system()}"),))
    disk = shutil.disk_usage(folder)
    needed = SHM_OF_RAY + SHM_OF_A_RANK * config.cluster.gpus_per_node
    described = f"{disk.free / GB:.1f} of {disk.total / GB:.1f} GB free"
    if disk.free >= needed:
        return Diagnosis((Line("ok", described),))
    mend = (
        f"Delete what is left in {folder}, or make it larger: docker run --shm-size=16g, an "
        "emptyDir of medium Memory in Kubernetes, mount -o remount,size=16g on a machine of yours."
    )
    status = "fail" if config.cluster.device == "cuda" else "warning"
    return Diagnosis((Line(status, f"{described}, {needed / GB:.1f} GB wanted", mend),))
