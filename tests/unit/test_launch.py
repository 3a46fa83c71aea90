"""`python -m archer.launch`: jobs for Slurm and Kubernetes, from one description of a run."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from archer.launch import LaunchConfig, main, plan_job, render

ROOT = Path(__file__).parents[2]
RUN = ("algo=dapo", "cluster=2x8", "model=r1-distill-1.5b", "data.prompt_template='a {problem} $x'")


@pytest.fixture
def launched(in_process):
    return partial(in_process, main)


def directives(script):
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE)
    return dict(found)


def test_help(launched):
    for words in ([], ["--help"], ["slurm", "-h"]):
        status, output, _ = launched(*words)
        assert status == 0
        assert "launch.KEY=VALUE" in output


def test_a_slurm_job_asks_for_what_the_cluster_preset_says(launched):
    status, script, _ = launched("slurm", *RUN, "launch.time=1:00:00", "launch.partition=gpu")
    assert status == 0
    asked = directives(script)
    assert asked["nodes"] == "2"
    assert asked["gres"] == "gpu:8"
    assert asked["time"] == "1:00:00"
    assert asked["partition"] == "gpu"
    assert "account" not in asked
    assert asked["signal"].startswith("B:USR1@")  # to the script alone, not to Ray
    assert script.startswith("#!/usr/bin/env bash\n")


def test_a_job_that_its_gpus_cannot_hold_is_not_written(launched):
    status, script, errors = launched("slurm", *RUN, "cluster.gpu_memory_gb=8")
    assert (status, script) == (2, "")
    assert "at most 8 GiB in each GPU" in errors
    assert launched("slurm", *RUN, "cluster.gpu_memory_gb=80")[0] == 0


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("model=qwen2.5-math-7b", "sampling.max_response_tokens=8192",
          "trainer.micro_batch_tokens=16384"), "window of 4096 tokens"),
        (("model=qwen3-8b", "model.lora={targets: [nonsense]}"), "model.lora.targets is not"),
    ],
    ids=["window", "lora"],
)  # fmt: skip
def test_a_job_that_its_model_cannot_take_is_not_written(launched, words, key):
    status, script, errors = launched("slurm", "cluster=1x8", *words)
    assert (status, script) == (2, "")
    assert key in errors


def test_a_job_without_gpus_or_other_nodes(launched):
    _, script, _ = launched("slurm")
    assert "gres" not in directives(script)
    assert directives(script)["nodes"] == "1"
    assert "--exclude" not in script  # no other nodes to start Ray on
    assert "cluster.address=auto" in script  # the run joins the Ray that the job started


@pytest.mark.parametrize("words", [(), RUN, (*RUN, "launch.prefix=apptainer exec --nv a.sif")])
def test_a_slurm_job_is_a_sound_script(tmp_path, launched, words):
    _, script, _ = launched("slurm", *words)
    (tmp_path / "job").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "job"], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", tmp_path / "job"], check=True)


def test_a_prefix_stands_before_every_command_on_a_node(launched):
    _, script, _ = launched("slurm", *RUN, "launch.prefix=apptainer exec a.sif")
    for command in ("ray start", "ray health-check", "python -u -m archer.main"):
        before = re.findall(rf"(.*){re.escape(command)}", script)
        assert before, command
        assert all(text.endswith("apptainer exec a.sif ") for text in before)
    assert "(env -u ROCR_VISIBLE_DEVICES apptainer exec a.sif ray start" in script
    assert "export PATH" not in script


def fake(folder, **bodies):
    """Commands that stand first on the PATH."""
    for name, body in bodies.items():
        (folder / name).write_text(body)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("sent", "status", "requests"),
    [
        (signal.SIGUSR1, 143, "requeue 7\n"),
        (signal.SIGUSR1, 1, ""),  # it failed: nothing is saved to go on from
        (signal.SIGTERM, 143, ""),  # somebody stopped it
    ],
)
def test_only_a_run_that_is_saved_at_the_end_of_its_time_queues_again(
    tmp_path, sent, status, requests
):
    (tmp_path / "requests").touch()
    path = fake(
        tmp_path,
        srun="#!/bin/sh\nexport ROCR_VISIBLE_DEVICES=0\n"
        'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
        scontrol='#!/bin/sh\n[ "$1" = show ] && echo here || echo "$@" >> requests\n',
        hostname="#!/bin/sh\necho 127.0.0.1\n",
        ray='#!/bin/sh\necho "$1 ${ROCR_VISIBLE_DEVICES-unset}" >> ray_calls\n',
        # Starting takes a moment, in which the script sets its traps.
        python=f"#!/bin/sh\ntrap 'exit {status}' TERM\nsleep 0.3\ntouch started\n"
        "while :; do sleep 0.1; done\n",
    )
    # With a prefix the fakes stay first on the PATH.
    script = render("slurm", plan_job((), LaunchConfig(prefix="env")))
    script = re.sub("^cd .*$", f"cd {shlex.quote(str(tmp_path))}", script, flags=re.MULTILINE)
    environment = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here"}
    job = subprocess.Popen(["bash", "-c", script], env=environment)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists():
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(sent)
        assert job.wait(timeout=30) == status
    finally:
        job.terminate()
    assert (tmp_path / "requests").read_text() == requests
    ray_calls = set((tmp_path / "ray_calls").read_text().splitlines())
    assert ray_calls == {"start unset", "health-check unset"}


def command_of_the_head(manifest):
    """As the head's environment has it, which Kubernetes has gone through."""
    (container,) = pods(yaml.safe_load(manifest))[0]["containers"]
    (value,) = (each["value"] for each in container["env"] if each["name"] == "ARCHER_COMMAND")
    return re.sub(r"\$(\$|\(\w+\))", lambda found: "$" if found[1] == "$" else "taken", value)


@pytest.mark.parametrize("target", ["slurm", "kuberay"])
def test_the_command_is_the_very_training_command(launched, target):
    _, text, _ = launched(target, *RUN)
    if target == "kuberay":
        text = command_of_the_head(text)
    command = next(line for line in text.splitlines() if "archer.main" in line)
    words = shlex.split(command)
    assert words[words.index("archer.main") + 1 :][: len(RUN)] == list(RUN)


def test_the_words_of_a_run_reach_it_through_the_shell(tmp_path):
    path = fake(tmp_path, python='#!/bin/sh\nprintf "%s\\n" "$@"\n')
    job = plan_job(RUN, LaunchConfig())
    said = subprocess.run(
        ["bash", "-c", job.command], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == ["-u", "-m", "archer.main", *RUN]


def test_the_words_of_a_run_reach_the_head_through_kuberay_and_ray(tmp_path, launched):
    run = (*RUN[:-1], """data.prompt_template='a {problem} "b" `c` ${seed} $(HOME) && $d'""")
    _, manifest, _ = launched("kuberay", *run)
    command = command_of_the_head(manifest).replace("cd /opt/archer", f"cd {tmp_path}")
    # What ray job submit does: it joins its words, and the head runs the text in a shell.
    ray = f"""#!{sys.executable}
import os, subprocess, sys
text = subprocess.list2cmdline(sys.argv[sys.argv.index("--") + 1 :])
head = os.environ | {{"ARCHER_COMMAND": {command!r}, "PLACE": "head"}}
sys.exit(subprocess.run(text, shell=True, env=head).returncode)
"""
    python = '#!/bin/sh\nprintf "%s\\n" "$PLACE" "$PWD" "$@"\n'
    path = fake(tmp_path, ray=ray, python=python)
    entrypoint = yaml.safe_load(manifest)["spec"]["entrypoint"]
    # What KubeRay has the submitter's pod do.
    said = subprocess.run(
        ["bash", "-ce", f"if true; then ray job submit -- {entrypoint} ; fi"],
        env={"PATH": path, "PLACE": "submitter"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = ["-u", "-m", "archer.main", *run]
    assert said.stdout.splitlines() == ["head", str(tmp_path), *words]


POD = {
    "type": "object",
    "required": ["containers", "volumes", "securityContext"],
    "additionalProperties": False,
    "properties": {
        "securityContext": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "runAsNonRoot": {"const": True},
                "runAsUser": {"const": 1000},
                "fsGroup": {"type": "integer"},
                "seccompProfile": {"const": {"type": "RuntimeDefault"}},
            },
        },
        "containers": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "image", "resources", "volumeMounts"],
                "additionalProperties": False,
                "properties": {
                    "name": {"enum": ["ray-head", "ray-worker"]},
                    "image": {"type": "string"},
                    "securityContext": {"type": "object"},
                    "ports": {
                        "type": "array",
                        "items": {"required": ["containerPort", "name"]},
                    },
                    "env": {
                        "type": "array",
                        "items": {
                            "properties": {"value": {"type": "string"}},
                            "required": ["name", "value"],
                        },
                    },
                    "envFrom": {"type": "array"},
                    "resources": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["requests", "limits"],
                        "properties": {
                            kind: {
                                "type": "object",
                                "additionalProperties": {
                                    "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(Gi)?$",
                                },
                            }
                            for kind in ("requests", "limits")
                        },
                    },
                    "volumeMounts": {
                        "type": "array",
                        "items": {
                            "required": ["name", "mountPath"],
                            "additionalProperties": False,
                            "properties": {
                                "name": {"type": "string"},
                                "mountPath": {"type": "string"},
                                "subPath": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
        "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}  # fmt: skip
TEMPLATE = {
    "type": "object",
    "required": ["spec"],
    "additionalProperties": False,
    "properties": {"spec": POD},
}
START = {"type": "object", "additionalProperties": {"type": "string"}}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$",
                         "maxLength": 47},
            },
        },
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "backoffLimit": {"type": "integer"},
                "submitterConfig": {"const": {"backoffLimit": 0}},
                "shutdownAfterJobFinishes": {"const": True},
                "ttlSecondsAfterFinished": {"type": "integer"},
                "entrypoint": {"type": "string"},
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["rayVersion", "headGroupSpec"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "authOptions": {"const": {"mode": "token"}},
                        "headGroupSpec": {
                            "required": ["rayStartParams", "template"],
                            "additionalProperties": False,
                            "properties": {"rayStartParams": START, "template": TEMPLATE},
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "required": ["groupName", "replicas", "rayStartParams", "template"],
                                "additionalProperties": False,
                                "properties": {
                                    "groupName": {"type": "string"},
                                    "replicas": {"type": "integer"},
                                    "minReplicas": {"type": "integer"},
                                    "maxReplicas": {"type": "integer"},
                                    "rayStartParams": START,
                                    "template": TEMPLATE,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip
"""The fields that we use, as KubeRay and Kubernetes define them; no other may appear, so that a
misspelt one is not sent (https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html)."""


@pytest.mark.parametrize("words", [(), ("cluster=1x8",), RUN])
def test_a_kuberay_job_has_the_fields_of_the_api_and_no_others(launched, words):
    status, text, _ = launched("kuberay", *words, "launch.image=registry.example/archer:1")
    assert status == 0
    job = yaml.safe_load(text)
    problems = [error.message for error in Draft202012Validator(RAYJOB).iter_errors(job)]
    assert problems == []


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [group["template"]["spec"] for group in groups]


def test_a_kuberay_job_has_a_pod_for_each_node(launched):
    _, text, _ = launched("kuberay", *RUN, "launch.memory_gb=400", "launch.shm_gb=64")
    job = yaml.safe_load(text)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 1
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
    assert len(pods(job)) == 2
    for pod in pods(job):
        (container,) = pod["containers"]
        for bound in container["resources"].values():
            assert bound["nvidia.com/gpu"] == "8"
            assert bound["memory"] == "400Gi"
        # 8 GPUs, four roles on each, reserve 32 CPUs; Ray and the verifiers need some too.
        assert int(container["resources"]["limits"]["cpu"]) > 32
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts.values()) == set(volumes)
        shm = volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shm == {"medium": "Memory", "sizeLimit": "64Gi"}


def test_one_node_has_no_workers(launched):
    _, text, _ = launched("kuberay", "cluster=1x8")
    job = yaml.safe_load(text)
    assert "workerGroupSpecs" not in job["spec"]["rayClusterSpec"]
    assert len(pods(job)) == 1


def test_the_folders_of_a_pod_are_those_of_the_image(launched):
    _, text, _ = launched("kuberay", "cluster=1x8")
    image = (ROOT / "docker" / "cuda.Dockerfile").read_text()
    (pod,) = pods(yaml.safe_load(text))
    for mount in pod["containers"][0]["volumeMounts"]:
        if mount["name"] == "archer":
            assert mount["mountPath"] in image
    folder = re.match(r"cd (\S+) && exec python", command_of_the_head(text))
    assert folder and f"WORKDIR {folder[1]}\n" in image


def test_a_pod_has_the_volume_where_the_run_reads_and_writes(launched):
    _, text, _ = launched("kuberay", *RUN, "run.root=/shared/runs", "run.cache=/shared/cache")
    for pod in pods(yaml.safe_load(text)):
        mounts = {mount.get("subPath"): mount["mountPath"]
                  for mount in pod["containers"][0]["volumeMounts"]}  # fmt: skip
        assert (mounts["runs"], mounts["cache"]) == ("/shared/runs", "/shared/cache")


def test_the_pod_of_the_page_has_the_folders_of_a_written_one(launched):
    page = (ROOT / "docs" / "cluster.md").read_text()
    (manifest,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    of_page = yaml.safe_load(manifest)["spec"]["template"]["spec"]
    (written,) = pods(yaml.safe_load(launched("kuberay", "cluster=1x8")[1]))
    assert of_page["securityContext"] == written["securityContext"]
    assert of_page["containers"][0]["volumeMounts"] == written["containers"][0]["volumeMounts"]


def test_the_length_of_the_run_is_told_beside_the_time_of_the_job(launched):
    _, script, note = launched("slurm", "experiment=archer_math_1.5b", "launch.time=90")
    hours = re.search(r"takes (\d+) hours", note)
    assert hours and 30 < int(hours[1]) < 120  # docs/plan.md: 780 H800 hours on 16 GPUs
    assert "launch.time=90" in note and directives(script)["time"] == "90"
    short = launched("slurm", "experiment=archer_math_1.5b", "trainer.num_steps=2")[2]
    assert re.search(r"takes \d\.\d hours", short)
    unknown = ("cluster=1x8", "model.path=/on/the/nodes", "model.warm_start=null")
    assert launched("slurm", *unknown)[0::2] == (0, "")  # no guess
    assert launched("slurm")[2] == ""


def test_restarts_of_a_job(launched):
    _, text, _ = launched("kuberay")
    assert yaml.safe_load(text)["spec"]["backoffLimit"] == 0
    _, script, _ = launched("slurm")
    assert "SLURM_RESTART_COUNT:-0} < 5" in script  # a run takes longer than launch.time
    _, text, _ = launched("kuberay", "launch.restarts=3")
    assert yaml.safe_load(text)["spec"]["backoffLimit"] == 3
    _, script, _ = launched("slurm", "launch.restarts=3")
    assert "SLURM_RESTART_COUNT:-0} < 3" in script


def test_a_job_is_written_to_a_file(launched, tmp_path):
    output = tmp_path / "jobs" / "job.yaml"
    status, printed, errors = launched("kuberay", "cluster=1x8", f"output={output}")
    assert (status, printed) == (0, "")
    assert str(output) in errors
    assert yaml.safe_load(output.read_text())["kind"] == "RayJob"


def test_a_job_that_cannot_be_written(launched, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, errors = launched("slurm", f"output={tmp_path}/file/job")
    assert status == 2
    assert "output is not usable" in errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["slrm"], "Did you mean 'slurm'"),
        (["cluster=2x8"], "Name it first"),
        (["slurm", "cluster=2x9"], "2x8_disaggregated"),
        (["slurm", "trainer.group_sise=3"], "trainer.group_size"),
        (["slurm", "launch.tme=1"], "launch.time"),
        (["slurm", "launch.cpus=none"], "launch.cpus"),
        (["slurm", "launch.time=1d"], "D-HH:MM:SS"),
        (["kuberay", "launch.shm_gb=16", "launch.memory_gb=16"], "launch.memory_gb"),
        (["slurm", "trainer.mini_batch_prompts=7"], "trainer."),
    ],
)
def test_what_no_job_can_be_made_of(launched, words, expected):
    status, output, errors = launched(*words)
    assert status == 2
    assert expected in errors
    assert output == ""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("cluster=2x8", "model=r1-distill-1.5b", "seed=7"),
         "archer-r1-distill-1-5b-arithmetic-seed7"),
        (("run.name=2026_My.run",), "archer-2026-my-run"),
        ((f"run.name={'long' * 20}-data-seed12",),
         "archer-longlonglonglong-onglonglong-data-seed12"),
    ],
)  # fmt: skip
def test_a_job_has_the_name_of_its_run(words, name):
    assert plan_job(words, LaunchConfig()).name == name
    assert len(name) <= RAYJOB["properties"]["metadata"]["properties"]["name"]["maxLength"]


def test_both_targets_describe_the_same_job():
    job = plan_job(RUN, LaunchConfig())
    assert (job.nodes, job.gpus) == (2, 8)
    script, manifest = render("slurm", job), render("kuberay", job)
    assert job.command in script
    assert job.command in command_of_the_head(manifest)
    assert job.name in script and job.name in manifest
