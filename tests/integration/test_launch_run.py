"""A job for Slurm, run as Slurm would run its script, with a real Ray of two nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from runs import SMALL

from archer.launch import LaunchConfig, plan_job, render
from archer.metrics import read_metrics

COMMANDS = {
    # Steps of the job: here every node is this machine. Slurm's flags have their values behind =.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
    "scontrol": 'case $1 in show) echo here ;; *) echo "$@" >> "$REQUESTS" ;; esac',
    "hostname": "echo 127.0.0.1 fe80::1",
}


def test_a_job_that_runs_out_of_time_saves_its_run_and_queues_again(
    tmp_path: Path, tiny_model: Callable[..., Path]
):
    overrides = [
        *SMALL, f"run.root={tmp_path}", "run.name=job", f"model.path={tiny_model()}",
        "model.warm_start=null", "cluster.num_nodes=2", "cluster.address=auto",
        "cluster.cpus_per_worker=0.1", "trainer.num_steps=1000", "run.save_every=1000",
        "eval.every=0", "eval.max_problems=4",
    ]  # fmt: skip
    script, requests = tmp_path / "job.sbatch", tmp_path / "requests"
    script.write_text(render("slurm", plan_job(overrides, LaunchConfig(restarts=1))))
    for name, body in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    # The script puts the interpreter's folder first; ours has to stay before it.
    python = Path(sys.executable).parent
    script.write_text(script.read_text().replace(f'PATH={python}:"$PATH"', 'PATH="$PATH"'))
    job_id = str(os.getpid())
    environment = os.environ | {
        "PATH": f"{tmp_path}:{python}:{os.environ['PATH']}",
        "SLURM_JOB_ID": job_id,
        "SLURM_JOB_NODELIST": "here,there",
        "SLURM_CPUS_ON_NODE": "2",
        "REQUESTS": str(requests),
    }
    run_dir = tmp_path / "default" / "job"
    log = tmp_path / "log"
    with log.open("w") as output:
        job = subprocess.Popen(
            ["bash", script], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while len(read_metrics(run_dir)) < 2:
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        job.send_signal(signal.SIGUSR1)  # only to the script, as --signal=B: has it
        assert job.wait(timeout=120) == 143, log.read_text()
    finally:
        os.killpg(job.pid, signal.SIGTERM)  # what Slurm does with the steps of a job that ended
        subprocess.run(["rm", "-rf", f"/tmp/ray-{job_id}"])
    last_step = read_metrics(run_dir)[-1]["step"]
    checkpoints = (run_dir / "checkpoints").glob("step_*")
    assert [int(path.name.removeprefix("step_")) for path in checkpoints] == [last_step]
    assert requests.read_text() == f"requeue {job_id}\n"
