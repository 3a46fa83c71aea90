"""How long a step of a run takes on GPUs: two bounds of the hardware and stated assumptions.

Decoding is bound by memory bandwidth, as each step of an engine reads all weights and the keys and
values of every sequence; training by arithmetic, 6 N operations a token (arXiv 2001.08361) and
those of attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from archer.algos import resolve_algorithm
from archer.config.keys import ShapeConfig, TrainConfig
from archer.planning.memory_model import (
    WIDTH,
    Engine,
    ZeroRank,
    head_parameters,
    kv_bytes_per_token,
    layer_parameters,
    num_parameters,
)
from archer.runtime.machine import zero_roles


@dataclass(frozen=True)
class Gpu:
    """Figures of the maker's data sheet."""

    tflops: float
    """Dense bfloat16."""
    bandwidth_tb_s: float
    memory_gib: float


GPUS = {
    "a100": Gpu(312, 2.04, 80),
    "h100": Gpu(989, 3.35, 80),
    "h800": Gpu(989, 3.35, 80),
    "h200": Gpu(989, 4.8, 141),
}
"""SXM modules, by the name that ``gpu=`` takes."""

TRAINING_UTILISATION = 0.35
"""Assumed share of the arithmetic that training and log-prob passes reach."""
DECODING_UTILISATION = 0.6
"""Assumed share of the bandwidth that decoding reaches."""
DECODING_OVERHEAD_S = 0.004
"""Assumed, of an engine's step: scheduling and kernel launches."""
MEAN_RESPONSE_SHARE = 0.3
"""Assumed mean length of a response, of ``sampling.max_response_tokens``; one is of full length."""
MEAN_PROMPT_SHARE = 0.1
"""Assumed mean length of a prompt, of ``data.max_prompt_tokens``."""
TRANSFER_GB_S = 25.0
"""Assumed, between GPU and CPU memory and between nodes, of each GPU."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of the stages of one step."""

    rollout: float
    logprobs: float
    update: float
    weight_sync: float
    """With what goes to CPU memory and back where engines and policy take turns."""
    rollout_bound: str
    """What decides the first: the longest response, or all of them."""

    @property
    def total(self) -> float:
        """Seconds of the step: its stages follow each other."""
        return self.rollout + self.logprobs + self.update + self.weight_sync


def step_time(
    config: TrainConfig,
    shape: ShapeConfig,
    engine: Engine,
    gpu: Gpu,
    mean_response_tokens: int | None = None,
) -> StepTime:
    """Estimate of one step without evaluation, checkpoints and dynamic sampling's refills."""
    limit = config.sampling.max_response_tokens
    mean = mean_response_tokens or MEAN_RESPONSE_SHARE * limit
    prompt = MEAN_PROMPT_SHARE * config.data.max_prompt_tokens
    rollout, bound = _rollout(config, shape, engine, gpu, mean, prompt)
    tokens = config.trainer.prompts_per_step * config.trainer.group_size * (mean + prompt)
    speed = config.cluster.policy_workers * gpu.tflops * 1e12 * TRAINING_UTILISATION
    forward = tokens * _forward_operations(shape, (mean + prompt) / 2) / speed
    algorithm = resolve_algorithm(config.algo)
    passes = len(zero_roles(config)) - 1  # of reference and critic
    passes += "ref_logprobs" in algorithm.needs and config.model.lora is not None
    passes += config.algo.old_logprobs == "trainer" and not config.trainer.is_on_policy
    trained = [ZeroRank(config, shape, r) for r in zero_roles(config) if r != "reference"]
    return StepTime(
        rollout=rollout,
        logprobs=passes * forward,
        update=sum(_update(rank, forward) for rank in trained),
        weight_sync=_weight_sync(config, shape),
        rollout_bound=bound,
    )


def _rollout(
    config: TrainConfig, shape: ShapeConfig, engine: Engine, gpu: Gpu, mean: float, prompt: float
) -> tuple[float, str]:
    trainer, cluster = config.trainer, config.cluster
    responses = ceil(trainer.prompts_per_step * trainer.group_size / cluster.rollout_replicas)
    held = engine.full_sequences * config.max_sequence_tokens / (prompt + mean / 2)
    at_once = max(1.0, min(responses, cluster.max_num_seqs, held))
    longest, all_of_them = config.sampling.max_response_tokens, responses * mean / at_once
    bandwidth = gpu.bandwidth_tb_s * 1e12 * DECODING_UTILISATION
    of_weights = engine.weights / bandwidth + DECODING_OVERHEAD_S
    width = WIDTH[cluster.dtype]
    contexts = responses * (prompt * mean + mean**2 / 2)  # tokens read in all
    of_contexts = contexts * kv_bytes_per_token(shape, width) / cluster.tensor_parallel / bandwidth
    bound = "the longest response" if longest >= all_of_them else "the number of tokens"
    return max(longest, all_of_them) * of_weights + of_contexts, bound


def _forward_operations(shape: ShapeConfig, context: float) -> float:
    """Of one token that attends to so many others on average."""
    matrices = shape.num_layers * layer_parameters(shape) + head_parameters(shape)
    attention = shape.num_layers * shape.num_heads * shape.head_dim * context
    return 2 * matrices + 4 * attention


def _update(rank: ZeroRank, forward: float) -> float:
    """Of one network, given the seconds of a forward pass over the batch."""
    # Gradients of activations are the work of a forward pass, so are those of weights, which frozen
    # ones need not, and activations that are computed again.
    passes = 3 - rank.has_adapters + rank.config.model.gradient_checkpointing
    return rank.config.trainer.epochs * passes * forward + _offloaded_steps(rank)


def _offloaded_steps(rank: ZeroRank) -> float:
    """Gradients to CPU memory and weights back, and Adam on the CPU at a tenth of that speed."""
    if not rank.cluster.offload_optimizer:
        return 0.0
    trainer = rank.config.trainer
    steps = trainer.epochs * trainer.prompts_per_step // trainer.mini_batch_prompts
    share = rank.num_trained / rank.ranks
    return steps * (6 * share + 10 * 16 * share) / (TRANSFER_GB_S * 1e9)


def _weight_sync(config: TrainConfig, shape: ShapeConfig) -> float:
    weights = num_parameters(shape) * WIDTH[config.cluster.dtype]
    if config.cluster.layout == "disaggregated":
        return 2 * weights / (TRANSFER_GB_S * 1e9)  # gathered, then sent
    states = ZeroRank(config, shape).states()
    moved = states.weights + states.optimizer + weights
    return (2 * moved + weights) / (TRANSFER_GB_S * 1e9)
