"""Memory that ranks really take, against what ``archer.plan`` says of them.

``python -m benchmarks.plan_memory [--device cuda] [--case NAME]``. Each case starts real policy and
reference ranks (DeepSpeed, random Qwen2 weights), lets them compute log-probs and make optimizer
steps, and compares the largest peak of a process with ``archer.planning.memory_model``. On a
GPU the peak is what PyTorch allocated. On a CPU it is that of resident memory, twice: "as run", and
"in use", of a process whose allocator returns what is freed, while by default glibc keeps blocks
below 32 MiB. What a process takes without a model is measured by the same work with one of next to
no size, and is part of every prediction. Exit status 1 if one of memory in use is more than 15 %
off.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from archer.config.keys import ShapeConfig, TrainConfig
from archer.planning.memory_model import ZeroRank, num_parameters
from archer.types import Batch
from archer.weight_sync import free_port

GOAL, MIB = 0.15, 2**20
SHAPE = ShapeConfig(
    hidden_size=512,
    intermediate_size=2048,
    num_layers=6,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=16384,
    max_position=4096,
)
NOTHING = SHAPE.model_copy(
    update={"hidden_size": 64, "intermediate_size": 64, "num_layers": 2, "vocab_size": 512}
)
PROMPT_TOKENS, RESPONSE_TOKENS = 64, 448
OPTIMIZER_STEPS = 2


@dataclass(frozen=True)
class Case:
    """A setting of ranks of 512-token sequences."""

    name: str
    role: Literal["policy", "reference"] = "policy"
    ranks: int = 1
    zero_stage: int = 1
    micro_batch_tokens: int = 1024
    gradient_checkpointing: bool = False
    has_lora: bool = False
    shape: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("zero1"),
    Case("zero2-checkpointing", zero_stage=2, micro_batch_tokens=2048, gradient_checkpointing=True),
    Case("zero2-two-ranks", zero_stage=2, ranks=2, micro_batch_tokens=512),
    Case("zero3-two-ranks", zero_stage=3, ranks=2, micro_batch_tokens=512),
    Case("zero0-tied", zero_stage=0, shape={"tie_embeddings": True}),
    Case("zero1-lora", has_lora=True),
    Case("reference", role="reference", micro_batch_tokens=4096),
)
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18), "MALLOC_TRIM_THRESHOLD_": str(1 << 17)}
"""Variables of glibc by which it keeps next to nothing for later."""


def configure(case: Case, device: str) -> TrainConfig:
    """A run with two micro-batches a rank in a mini-batch, which is all of a step."""
    sequences = 2 * case.ranks * case.micro_batch_tokens // (PROMPT_TOKENS + RESPONSE_TOKENS)
    return TrainConfig.model_validate(
        {
            "algo": {"name": "grpo"},
            "model": {
                "name": case.name,
                "path": "random",
                "gradient_checkpointing": case.gradient_checkpointing,
                "lora": {} if case.has_lora else None,
            },
            "data": {"name": "none", "train": "none", "max_prompt_tokens": PROMPT_TOKENS},
            "reward": {"name": "math"},
            "sampling": {"max_response_tokens": RESPONSE_TOKENS},
            "trainer": {
                "group_size": 1,
                "prompts_per_step": sequences,
                "mini_batch_prompts": sequences,
                "micro_batch_tokens": case.micro_batch_tokens,
            },
            "cluster": {
                "device": device,
                "dtype": "float32" if device == "cpu" else "bfloat16",
                "policy_workers": case.ranks,
                "zero_stage": case.zero_stage,
                "packing": "padded",
            },
        }
    )


def random_batch(config: TrainConfig, vocab_size: int) -> Batch:
    """Full-length responses of random tokens with random advantages."""
    rng = np.random.default_rng(0)
    rows = config.trainer.prompts_per_step
    prompts, responses = rows * PROMPT_TOKENS, rows * RESPONSE_TOKENS
    return Batch(
        prompt_tokens=rng.integers(0, vocab_size, prompts, dtype=np.int32),
        prompt_offsets=np.arange(rows + 1) * PROMPT_TOKENS,
        response_tokens=rng.integers(0, vocab_size, responses, dtype=np.int32),
        offsets=np.arange(rows + 1) * RESPONSE_TOKENS,
        rollout_logprobs=np.zeros(responses, np.float32),
        advantages=rng.normal(size=responses).astype(np.float32),
        mask=np.ones(responses, bool),
        group_ids=np.arange(rows),
        rewards=np.zeros(rows),
        correct=np.zeros(rows, bool),
        is_stored=np.zeros(rows, bool),
        old_logprobs=np.zeros(responses, np.float32),
        ref_logprobs=np.zeros(responses, np.float32),
    )


def write_model(shape: ShapeConfig, folder: Path) -> None:
    """A Hugging Face folder of random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            max_position_embeddings=shape.max_position,
            tie_word_embeddings=shape.tie_embeddings,
        )
    ).save_pretrained(folder)


def run_rank(
    config: TrainConfig, role: str, folder: str, vocab_size: int, rank: int, port: int, out: str
) -> None:
    """The life of a rank; writes its peak in bytes."""
    import torch

    torch.set_num_threads(1)
    if config.cluster.device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    batch = random_batch(config, vocab_size)
    at = (folder, rank, config.cluster.policy_workers, "127.0.0.1", port)
    if role == "reference":
        from archer.workers.reference import ReferenceWorker

        ReferenceWorker(config, *at).compute_logprobs(batch)
    else:
        from archer.workers.policy import PolicyWorker

        worker = PolicyWorker(config, *at)
        worker.compute_logprobs(batch)
        worker.update(batch, list(range(OPTIMIZER_STEPS)), 1e-6)
    if config.cluster.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        status = Path("/proc/self/status").read_text()
        peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    Path(out).write_text(json.dumps(peak))
    os._exit(0)  # DeepSpeed's clean-up takes seconds


def measure(case: Case, shape: ShapeConfig, device: str, variables: dict[str, str]) -> float:
    """Largest peak of the ranks in bytes.

    Args:
        variables: of the environment of the ranks.
    """
    config = configure(case, device)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        writer = context.Process(target=write_model, args=(shape, Path(folder)))
        writer.start()
        writer.join()
        port, outs = free_port(), [f"{folder}/peak_{rank}" for rank in range(case.ranks)]
        ranks = [
            context.Process(
                target=run_rank,
                args=(config, case.role, folder, shape.vocab_size, rank, port, out),
            )
            for rank, out in enumerate(outs)
        ]
        os.environ |= variables
        for process in ranks:
            process.start()
        for name in variables:
            del os.environ[name]
        for process in ranks:
            process.join()
        return max(json.loads(Path(out).read_text()) for out in outs)


@dataclass(frozen=True)
class Peak:
    """Of a process with a model, in bytes."""

    process: float
    """What it takes without one."""
    model: float
    """What the account adds."""
    measured: float

    @property
    def ratio(self) -> float:
        return (self.process + self.model) / self.measured

    @property
    def model_ratio(self) -> float:
        """Without what the process takes."""
        return self.model / (self.measured - self.process)

    def __str__(self) -> str:
        sizes = (self.process, self.process + self.model, self.measured)
        columns = "".join(f"{size / MIB:>10,.0f}" for size in sizes)
        return f"{columns}{self.ratio:>8.2f}{self.model_ratio:>10.2f}"


def compare(case: Case, device: str) -> dict[str, Peak]:
    """Peaks of a case, in use and as run; on a GPU only the first."""
    shape = SHAPE.model_copy(update=case.shape)
    rank = ZeroRank(configure(case, device), shape, role=case.role)
    accounts = {"in use": rank.peak(), "as run": rank.resident()}
    models = {name: account.total - account.runtime for name, account in accounts.items()}
    if device == "cuda":
        return {"in use": Peak(0.0, models["in use"], measure(case, shape, device, {}))}
    process = measure(case, NOTHING, device, RETURN_FREED)
    return {
        name: Peak(process, models[name], measure(case, shape, device, variables))
        for name, variables in (("in use", RETURN_FREED), ("as run", {}))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    args = parser.parse_args()
    cases = [case for case in CASES if not args.case or case.name in args.case]
    if args.device == "cuda":  # one GPU, and bfloat16, which needs ZeRO-2
        cases = [case for case in cases if case.ranks == 1 and case.zero_stage >= 2]
    print(f"{num_parameters(SHAPE) / 1e6:.0f} M parameters, sizes in MiB")
    titles = ("process", "predicted", "measured", "ratio", "of model")
    print(f"{'case':<28}" + "{:>10}{:>10}{:>10}{:>8}{:>10}".format(*titles))
    is_missed = False
    for case in cases:
        for name, peak in compare(case, args.device).items():
            print(f"{f'{case.name}, {name}':<28}{peak}", flush=True)
            is_missed |= name == "in use" and abs(peak.ratio - 1) > GOAL
    sys.exit(int(is_missed))


if __name__ == "__main__":
    main()
