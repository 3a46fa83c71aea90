"""Objectives on one recorded batch: what each token contributes, and the gradient of the weights.

The gradient is taken in two links of the chain rule. From the loss to the log-probs of the tokens
no model is needed, so an objective can be asked twice: with the rewards and with hardly any. From
the log-probs to the parameters one backward pass follows, cut into micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from archer import batch as batching
from archer.algos import Algorithm, NoiseFloor, TokenInputs, resolve_algorithm
from archer.algos.corrections import without
from archer.algos.credit import assign_credit
from archer.algos.filters import drop_reason
from archer.algos.logprobs import HeadOutput
from archer.algos.masks import above_quantile
from archer.config.keys import AlgoConfig, TrainConfig
from archer.errors import ConfigError
from archer.objective_checks.replay import Replay
from archer.types import Batch
from archer.workers.model import PolicyModel, model_inputs
from archer.workers.model_worker import load_causal_lm
from archer.workers.token_inputs import token_inputs

REASONING_QUANTILE = 0.8
"""Tokens above this quantile of their response's entropy are reasoning tokens, the others carry
knowledge (arXiv 2507.15778)."""
NOT_RECORDED = {
    "values": "a critic",
    "greedy": "a greedy response to each prompt",
    "rehearsal": "stored responses of the start model",
}
"""Needs that recorded rollouts do not meet."""
DOT_PIECE = 1 << 24
"""Weights converted to float64 at a time."""
VANISHING = 1e-20
"""What rewards are multiplied by to see what an objective does without them. Not 0, as some terms
apply where an advantage is negative: the signs stay."""


@dataclass(frozen=True)
class Measured:
    """One objective on the batch. Shares are NaN of nothing."""

    algo: str
    num_groups: int
    """Those that its filters leave."""
    loss: float
    grad_norm: float
    clipped: dict[str, float]
    """By class: of the tokens with an advantage, those whose policy gradient is exactly 0."""
    kl: dict[str, float]
    """By class: share of the gradient of the log-probs that would remain if rewards vanished."""
    untouched: float
    """Of all recorded tokens, those without any gradient."""


@dataclass(frozen=True)
class Comparison:
    """All objectives on one batch."""

    facts: dict[str, str]
    """What was compared, in words."""
    measured: list[Measured]
    cosines: list[list[float]]
    """Between the gradients of the weights, in the order of ``measured``; NaN for no gradient."""
    left_out: dict[str, str]
    """Objective -> why it is not among them."""


class Network:
    """A model in memory, in float32, with passes over a batch within a token budget."""

    def __init__(self, config: TrainConfig, path: str, micro_batch_tokens: int):
        exact = {
            "cluster": config.cluster.model_copy(update={"dtype": "float32"}),
            "model": config.model.model_copy(update={"attention": "sdpa"}),
        }
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        causal_lm = load_causal_lm(config.model_copy(update=exact), path)
        self._module = PolicyModel(causal_lm).to(self._device)
        self._temperature = config.sampling.temperature
        self._micro_batch_tokens = micro_batch_tokens

    @torch.no_grad()
    def outputs(self, batch: Batch, floor: NoiseFloor | None = None) -> HeadOutput:
        """Of every response token, on the CPU."""
        whole: dict[str, torch.Tensor] = {}
        positions = torch.arange(len(batch.response_tokens))
        for rows in self._micro_batches(batch):
            where = torch.cat([positions[batch.offsets[i] : batch.offsets[i + 1]] for i in rows])
            for field, values in self._forward(batch.select(rows), floor)._asdict().items():
                if values is not None:
                    column = whole.setdefault(field, values.new_empty(len(positions)).cpu())
                    column[where] = values.cpu()
        return HeadOutput(**whole)

    def gradient(
        self, batch: Batch, pulls: Mapping[str, torch.Tensor], floor: NoiseFloor | None = None
    ) -> torch.Tensor:
        """Of all parameters, float32 [D] on the CPU.

        Args:
            pulls: gradients of fields of ``HeadOutput``, float32 [R] each.
        """
        self._module.zero_grad()
        batch = batch.with_columns(prepared={name: pull.numpy() for name, pull in pulls.items()})
        for rows in self._micro_batches(batch):
            piece = batch.select(rows)
            head = self._forward(piece, floor)
            torch.autograd.backward(
                [getattr(head, name) for name in pulls],
                [torch.from_numpy(piece.prepared[name]).to(self._device) for name in pulls],
            )
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self._module.parameters()
        ]
        return torch.cat([gradient.flatten().cpu() for gradient in gradients])

    def _micro_batches(self, batch: Batch) -> list[np.ndarray]:
        return batching.micro_batches(batch.total_lengths, self._micro_batch_tokens, "padded")

    def _forward(self, batch: Batch, floor: NoiseFloor | None) -> HeadOutput:
        inputs = model_inputs(batch, "padded", self._device)
        return HeadOutput(*self._module(**inputs, temperature=self._temperature, floor=floor))


@dataclass(frozen=True)
class Snapshot:
    """A recorded batch, whole, and what the policies of then, of the start and of now say of it."""

    replay: Replay
    batch: Batch
    old: Mapping[NoiseFloor | None, HeadOutput]
    current: Mapping[NoiseFloor | None, HeadOutput]
    ref_logprobs: torch.Tensor | None
    policy: Network


def compare(
    replay: Replay,
    algos: Mapping[str, AlgoConfig],
    policy_path: str,
    micro_batch_tokens: int,
    on_done: Callable[[str], None],
) -> Comparison:
    """Measure every objective, then compare their gradients.

    Args:
        algos: sections to compare, by the name to show.
        policy_path: model whose gradient is taken.
        micro_batch_tokens: bounds the memory, changes no number.
        on_done: hears the name of each objective when it is measured.

    Raises:
        ConfigError: none of the objectives can be measured.
    """
    algorithms = {name: resolve_algorithm(algo) for name, algo in algos.items()}
    left_out = {
        name: f"needs {' and '.join(lacking)}"
        for name, algorithm in algorithms.items()
        if (lacking := [NOT_RECORDED[n] for n in NOT_RECORDED if n in algorithm.needs])
    } | {
        name: "its filters leave no group of this batch"
        for name, algo in algos.items()
        if not _kept_groups(replay, algo)
    }
    names = [name for name in algos if name not in left_out]
    if not names:
        reasons = "; ".join(f"{name} {why}" for name, why in left_out.items())
        expected = "an objective that these rollouts can be measured by"
        raise ConfigError("algo", ",".join(algos), expected, f"All are left out: {reasons}.")
    snapshot, facts = _take_snapshot(
        replay, [algorithms[name] for name in names], policy_path, micro_batch_tokens
    )
    measured, gradients = [], []
    for name in names:
        one, gradient = measure(name, algos[name], algorithms[name], snapshot)
        measured.append(one)
        gradients.append(gradient)
        on_done(name)
    return Comparison(facts, measured, cosines(gradients), left_out)


def measure(
    name: str, algo: AlgoConfig, algorithm: Algorithm, snapshot: Snapshot
) -> tuple[Measured, torch.Tensor]:
    """One objective on the snapshot, and its gradient of the weights, float32 [D]."""
    floor = _noise_floor(algorithm)
    kept = _kept_groups(snapshot.replay, algo)
    chosen = torch.from_numpy(np.isin(snapshot.batch.group_ids, kept)[snapshot.batch.rows])
    head = _only(snapshot.current[floor], chosen)
    batch = _mini_batch(algo, algorithm, snapshot, kept, chosen)

    leaves = {"logprobs": head.logprobs.requires_grad_()}
    if head.log_kept_mass is not None:
        leaves["log_kept_mass"] = head.log_kept_mass.requires_grad_()
    tokens = token_inputs(batch, head, torch.device("cpu"))
    if algorithm.correction.keep is not None:
        tokens = without(tokens, algorithm.correction.keep(tokens, algorithm.correction_config))
    loss, pulls = _loss_and_pulls(tokens, algorithm, leaves)
    unrewarded = replace(
        tokens,
        advantages=tokens.advantages * VANISHING,
        rewards=tokens.get("rewards") * VANISHING,
    )
    _, kl_pulls = _loss_and_pulls(unrewarded, algorithm, leaves)

    gradient = snapshot.policy.gradient(batch, pulls, floor)
    by_reward = _size({field: pulls[field] - kl_pulls[field] for field in pulls})
    by_kl = _size(kl_pulls)
    has_advantage = tokens.advantages != 0
    classes = _token_classes(tokens)
    measured = Measured(
        algo=name,
        num_groups=len(kept),
        loss=loss,
        grad_norm=_norm(gradient),
        clipped={
            label: _share(has_advantage & (by_reward == 0) & own, has_advantage & own)
            for label, own in classes.items()
        },
        kl={
            label: _share(by_kl * own, (by_kl + by_reward) * own) for label, own in classes.items()
        },
        untouched=1 - int(_size(pulls).count_nonzero()) / len(chosen),
    )
    return measured, gradient


def cosines(gradients: Sequence[torch.Tensor]) -> list[list[float]]:
    """Of every pair; NaN where one is 0."""
    norms = [_norm(gradient) for gradient in gradients]
    return [
        [
            _dot(a, b) / (norm_a * norm_b) if norm_a and norm_b else math.nan
            for b, norm_b in zip(gradients, norms, strict=True)
        ]
        for a, norm_a in zip(gradients, norms, strict=True)
    ]


def _take_snapshot(
    replay: Replay, algorithms: Sequence[Algorithm], policy_path: str, micro_batch_tokens: int
) -> tuple[Snapshot, dict[str, str]]:
    """Forward passes of the models, one in memory at a time; and in words, what they were."""
    config = replay.config
    batch = batching.build_batch(replay.groups, config.algo, config.sampling.max_response_tokens)
    floors = {None, *map(_noise_floor, algorithms)}

    def network(path: str) -> Network:
        return Network(config, path, micro_batch_tokens)

    def outputs(model: Network) -> dict[NoiseFloor | None, HeadOutput]:
        return {floor: model.outputs(batch, floor) for floor in floors}

    with_reference = any("ref_logprobs" in algorithm.needs for algorithm in algorithms)
    start_path = replay.start_policy() if with_reference else None
    ref_logprobs = None if start_path is None else network(start_path).outputs(batch).logprobs
    old_path = replay.sampling_policy()
    old = None if old_path is None else outputs(network(old_path))
    policy = network(policy_path)
    current = outputs(policy)
    if old is None:
        sampled = torch.from_numpy(batch.rollout_logprobs)
        old = {floor: output._replace(logprobs=sampled) for floor, output in current.items()}
    distance = (current[None].logprobs - old[None].logprobs).abs().nanmean()
    facts = {
        "rollouts": f"step {replay.step} of {replay.run_dir}: {len(replay.groups)} groups, "
        f"{len(batch)} responses, {len(batch.response_tokens)} tokens",
        "policy": f"{policy_path}, on average {distance:.4f} nats a token from the sampling one",
        "old log-probs": old_path
        or f"the engine's: there is no checkpoint of step {replay.step - 1}. Entropies are the "
        "policy's",
        "reference": start_path or "not needed",
    }
    return Snapshot(replay, batch, old, current, ref_logprobs, policy), facts


def _noise_floor(algorithm: Algorithm) -> NoiseFloor | None:
    return algorithm.objective.noise_floor(algorithm.loss_config)


def _kept_groups(replay: Replay, algo: AlgoConfig) -> list[int]:
    """Positions of the groups that the algorithm trains on."""
    return [i for i, group in enumerate(replay.groups) if drop_reason(group, algo) is None]


def _mini_batch(
    algo: AlgoConfig,
    algorithm: Algorithm,
    snapshot: Snapshot,
    kept: Sequence[int],
    chosen: torch.Tensor,
) -> Batch:
    """The kept groups as the trainer would prepare them for one optimizer step.

    Args:
        kept: positions of the groups.
        chosen: bool [R of all groups], their tokens.
    """
    config, ref = snapshot.replay.config, snapshot.ref_logprobs
    old = _only(snapshot.old[_noise_floor(algorithm)], chosen)
    proxy = old.proxy_logprobs
    limit = config.sampling.max_response_tokens
    batch = batching.build_batch([snapshot.replay.groups[i] for i in kept], algo, limit)
    batch = batch.with_columns(
        old_logprobs=batch.rollout_logprobs
        if algo.old_logprobs == "rollout"
        else old.logprobs.numpy(),
        old_entropy=old.entropy.numpy(),
        old_logsumexp=old.logsumexp.numpy(),
        old_proxy_logprobs=None if proxy is None else proxy.numpy(),
        ref_logprobs=None if ref is None else ref[chosen].numpy(),
        fresh_logprobs=snapshot.current[None].logprobs[chosen].numpy(),
    )
    progress = (snapshot.replay.step - 1) / config.trainer.num_steps
    batch, _ = assign_credit(
        batching.mask_impossible(batch), algorithm, algo.kl_in_reward, progress, state={}
    )
    batch = batching.prepare(
        batch, algorithm.objective, algorithm.loss_config, algo.aggregation, limit, config.seed
    )
    return batch.with_columns(loss_weights=batching.loss_weights(batch, algo.aggregation, limit))


def _loss_and_pulls(
    tokens: TokenInputs, algorithm: Algorithm, leaves: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and its gradient at every token: float32 [R] for each of the leaves."""
    loss = algorithm.objective.loss(tokens, algorithm.loss_config).loss
    pulls = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return loss.item(), dict(zip(leaves, pulls, strict=True))


def _token_classes(tokens: TokenInputs) -> dict[str, torch.Tensor]:
    """bool [R] for each class of loss tokens."""
    is_reasoning, _ = above_quantile(
        tokens.get("old_entropy"), tokens.mask, tokens.offsets, REASONING_QUANTILE, strict=True
    )
    return {"knowledge": tokens.mask & ~is_reasoning, "reasoning": is_reasoning}


def _only(output: HeadOutput, chosen: torch.Tensor) -> HeadOutput:
    return HeadOutput._make(None if values is None else values[chosen] for values in output)


def _size(pulls: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """float32 [R]"""
    return torch.stack([pull.abs() for pull in pulls.values()]).sum(0)


def _share(part: torch.Tensor, whole: torch.Tensor) -> float:
    total = float(whole.sum())
    # Rounded, for what VANISHING leaves.
    return round(float(part.sum()) / total, 9) if total else math.nan


def _norm(gradient: torch.Tensor) -> float:
    return math.sqrt(_dot(gradient, gradient))


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """In float64, a piece at a time: over all weights, float32 sums lose half their digits."""
    pieces = zip(a.split(DOT_PIECE), b.split(DOT_PIECE), strict=True)
    return sum(float(torch.dot(x.double(), y.double())) for x, y in pieces)
