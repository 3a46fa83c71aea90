"""Archer: the paper's objective, the released code's, and the ablations between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from algo_inputs import gradient, metric, reward_batch, token_inputs

from archer.algos import TokenInputs
from archer.algos.algorithm import resolve_algorithm
from archer.algos.archer import (
    ArcherConfig,
    ArcherOfficialConfig,
    archer_loss,
    archer_needs,
    archer_prepare,
)
from archer.config.keys import AlgoConfig
from archer.errors import ConfigError

RATIO = [1.3, 0.7, 1.1, 1.0, 1.6]
D = [0.5, 0.0, -0.5, 0.0, 0.5]
ENTROPY = [0.1, 0.2, 0.3, 0.4, 2.0]  # threshold 0.72: only the last token is a reasoning token


def vector(**changes) -> TokenInputs:
    return token_inputs(RATIO, **({"d": D, "entropy": ENTROPY} | changes))


def kl_part(**parameters) -> float:
    without = archer_loss(vector(), ArcherConfig(beta_k=0.0)).loss
    return (archer_loss(vector(), ArcherConfig(**parameters)).loss - without).item()


def reasoning_tokens(tokens: TokenInputs, config: ArcherConfig) -> list[int]:
    """Where the wide clip acts: with a ratio of 1.4 and A > 0 only reasoning tokens move."""
    return np.flatnonzero(gradient(archer_loss(tokens, config), tokens)).tolist()


# The paper's loss


def test_loss_gradient_and_metrics():
    tokens = vector()
    output = archer_loss(tokens, ArcherConfig())
    assert output.loss.item() == pytest.approx(-1.099949, rel=1e-6)
    assert kl_part(beta_k=0.001) == pytest.approx(5.105039e-5, rel=1e-4)
    assert gradient(output, tokens) == pytest.approx(
        [7.869e-5, -0.14, -0.220130, -0.2, 0], rel=1e-4
    )
    assert metric(output, "policy/entropy_threshold") == pytest.approx(0.72)
    assert metric(output, "policy/frac_reasoning") == pytest.approx(1 / 5)
    assert metric(output, "policy/kl") == pytest.approx((2 * 0.106531 + 0.148721) / 5, rel=1e-4)


def test_metrics_by_class_count_the_tokens_of_the_class():
    output = archer_loss(vector(), ArcherConfig())
    assert metric(output, "policy/clip_frac_reasoning") == 1.0
    assert metric(output, "policy/clip_frac_knowledge") == pytest.approx(1 / 4)
    assert metric(output, "policy/clip_frac_high_knowledge") == pytest.approx(1 / 4)
    assert metric(output, "policy/clip_frac_low_knowledge") == 0.0
    assert metric(output, "policy/kl_reasoning") == pytest.approx(0.106531, rel=1e-4)
    assert metric(output, "policy/kl_knowledge") == pytest.approx(
        (0.106531 + 0.148721) / 4, rel=1e-4
    )
    assert metric(output, "policy/entropy_reasoning") == pytest.approx(2.0)
    assert metric(output, "policy/entropy_knowledge") == pytest.approx(0.25)
    assert metric(output, "policy/approx_kl_reasoning") == pytest.approx(-np.log(1.6))
    knowledge = -np.log(RATIO[:4]).mean()
    assert metric(output, "policy/approx_kl_knowledge") == pytest.approx(knowledge, rel=1e-4)


def test_a_reasoning_token_gets_the_wider_clip():
    output = archer_loss(vector(d=None), ArcherConfig(beta_k=0.0))
    uniform = archer_loss(vector(d=None), ArcherConfig(beta_k=0.0, eps_r=0.2))
    assert output.loss.item() == pytest.approx(-5.5 / 5)
    assert uniform.loss.item() == pytest.approx(-5.2 / 5)


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("token-mean", -0.5), ("seq-mean-token-mean", -0.05)]
)
def test_two_responses_are_classed_on_their_own(aggregation, expected):
    tokens = token_inputs(
        [*RATIO, 1.0, 1.0],
        [1.0] * 5 + [-1.0] * 2,
        entropy=[*ENTROPY, 9.0, 9.0],  # high, but alike: neither is a reasoning token
        lengths=[5, 2],
        aggregation=aggregation,
    )
    output = archer_loss(tokens, ArcherConfig(beta_k=0.0))
    assert output.loss.item() == pytest.approx(expected)
    assert metric(output, "policy/frac_reasoning") == pytest.approx(1 / 7)


def test_dual_clip_applies_to_both_classes():
    tokens = token_inputs([1.3, 0.7, 12.0, 1.6], -1.0, entropy=[0.1, 0.2, 0.3, 2.0])
    output = archer_loss(tokens, ArcherConfig(beta_k=0.0))
    assert output.loss.item() == pytest.approx((1.3 + 0.8 + 10 + 1.6) / 4)
    assert metric(output, "policy/clip_frac_dual_knowledge") == pytest.approx(1 / 3)
    assert metric(output, "policy/clip_frac_dual_reasoning") == 0.0


@pytest.mark.parametrize(("strict", "share"), [(True, 0.0), (False, 1.0)])
@pytest.mark.parametrize("length", [1, 3])
def test_equal_entropies_fall_into_one_class(length, strict, share):
    tokens = token_inputs([1.0] * length, d=[0.1] * length, entropy=[0.3] * length)
    output = archer_loss(tokens, ArcherConfig(strict=strict, kl_norm="per_row_class", beta_r=0.1))
    assert metric(output, "policy/frac_reasoning") == share
    assert np.isfinite(gradient(output, tokens)).all()


def test_needs_only_what_its_parameters_call_for():
    assert archer_needs(ArcherConfig()) == {"old_logprobs", "old_entropy", "ref_logprobs"}
    assert "ref_logprobs" not in archer_needs(ArcherConfig(beta_k=0.0))
    assert "ref_logprobs" in archer_needs(ArcherConfig(beta_k=0.0, beta_r=0.1))


# The released code


def test_kl_of_each_class_over_its_own_tokens():
    output = archer_loss(vector(), ArcherConfig(kl_norm="per_row_class"))
    assert output.loss.item() == pytest.approx(-1.099936, rel=1e-6)
    knowledge, reasoning = 6.381298e-5, 0.106531e-3  # over 4 tokens, and over 1
    assert kl_part(beta_k=0.001, kl_norm="per_row_class") == pytest.approx(knowledge, rel=1e-4)
    both = kl_part(beta_k=0.001, beta_r=0.001, kl_norm="per_row_class")
    assert both == pytest.approx(knowledge + reasoning, rel=1e-4)


def test_official_classes_follow_the_current_policy_and_report_the_flips():
    tokens = token_inputs([1.4] * 5, entropy=ENTROPY, d=[0.0] * 5)
    now = torch.tensor([3.0, 0.2, 0.3, 0.4, 0.1])  # the peak has moved to the first token
    tokens = TokenInputs(**{**vars(tokens), "entropy": now})
    assert reasoning_tokens(tokens, ArcherConfig()) == [4]
    assert reasoning_tokens(tokens, ArcherOfficialConfig()) == [0]
    output = archer_loss(tokens, ArcherOfficialConfig())
    assert metric(output, "policy/frac_class_flipped") == pytest.approx(2 / 5)
    assert "policy/frac_class_flipped" not in archer_loss(tokens, ArcherConfig()).metrics


# The classes of the ablations

TWO_ROWS = [*ENTROPY, 0.05, 0.06, 0.07, 0.08, 0.3]


def ablation_tokens(classes: str, seed: int = 0) -> tuple[TokenInputs, ArcherConfig]:
    config = ArcherConfig(classes=classes, beta_k=0.0)
    batch = reward_batch([1.0, 1.0], lengths=[5, 5], old_entropy=np.float32(TWO_ROWS))
    prepared = archer_prepare(batch, config, np.random.default_rng(seed))
    tokens = token_inputs(
        [1.4] * 10,
        entropy=TWO_ROWS,
        lengths=[5, 5],
        prepared={name: torch.from_numpy(values) for name, values in prepared.items()},
    )
    return tokens, config


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("response", [4, 9]),
        ("batch", [3, 4]),  # the second response's entropies all lie below 0.32
        ("swapped", [0, 1, 2, 3, 5, 6, 7, 8]),
    ],
)
def test_who_gets_the_wide_clip(classes, expected):
    assert reasoning_tokens(*ablation_tokens(classes)) == expected


def test_random_classes_keep_the_size_within_each_response():
    drawn = [tuple(reasoning_tokens(*ablation_tokens("random", seed))) for seed in range(20)]
    assert all(len(tokens) == 2 and tokens[0] < 5 <= tokens[1] for tokens in drawn)
    assert len(set(drawn)) > 5
    assert drawn[3] == tuple(reasoning_tokens(*ablation_tokens("random", 3)))


def test_the_batch_quantile_ignores_tokens_off_the_mask():
    mask = np.array([True] * 5 + [False] * 5)
    entropy = np.float32([*ENTROPY, *[np.nan] * 5])
    batch = reward_batch([1.0, 1.0], lengths=[5, 5], old_entropy=entropy, mask=mask)
    config = ArcherConfig(classes="batch")
    chosen = archer_prepare(batch, config, np.random.default_rng(0))["is_reasoning"]
    assert np.flatnonzero(chosen).tolist() == [4]
    none = archer_prepare(
        batch.with_columns(mask=np.zeros(10, bool)), config, np.random.default_rng(0)
    )
    assert not none["is_reasoning"].any()


@pytest.mark.parametrize("classes", ["batch", "random"])
def test_classes_made_before_the_update_cannot_follow_the_current_entropy(classes):
    algo = AlgoConfig(name="archer_official", loss={"classes": classes})
    with pytest.raises(ConfigError, match=r"algo\.loss\.classes=.*entropy_source=old"):
        resolve_algorithm(algo)
