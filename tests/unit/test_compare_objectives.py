"""Objectives on one recorded batch, against the same numbers computed the plain way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM

from archer.config.keys import AlgoConfig, WarmStartConfig, load_config
from archer.errors import ConfigError
from archer.metrics import RolloutLog, read_rollouts
from archer.objective_checks.compare_objectives import (
    CONF,
    as_html,
    as_json,
    as_markdown,
    load_objectives_config,
    load_presets,
    main,
)
from archer.objective_checks.gradients import Comparison, compare
from archer.objective_checks.replay import Replay, open_replay
from archer.types import Completion, Group, Prompt, RewardResult, Sample
from archer.warm_start import make_model

VOCABULARY = 40
WIDE, NARROW = 10_000, 40
"""Token budgets of one micro-batch, and of about one response in each."""
LACKING = {"cde_critic", "dph_rl", "ppo", "remax"}
"""Presets that need a critic, greedy responses or rehearsal."""
VERDICTS = [[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]]
"""Three prompts; the second is uniform."""


@dataclass(frozen=True)
class RecordedRun:
    """A run of two steps: step 2 was sampled by ``old`` and led to ``now``."""

    folder: Path
    start: Path
    old: Path
    now: Path
    groups: list[Group]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    root = tmp_path_factory.mktemp("runs")
    start, folder = root / "start", root / "run"
    old, now = (folder / f"checkpoints/step_{step:06d}/hf" for step in (1, 2))
    for i, path in enumerate((start, old, now)):
        write_model(path, spread=0.2 * i)
        (path.parent / "state.json").touch()
    groups = [sampled_group(i, verdicts) for i, verdicts in enumerate(VERDICTS)]
    write_run(folder, start, groups)
    return RecordedRun(folder, start, old, now, groups)


def write_model(path: Path, spread: float) -> None:
    """The start model, and policies that have moved away from it: their ratios cross the clips."""
    torch.manual_seed(0)
    model = make_model(WarmStartConfig(hidden_size=64, num_layers=1), VOCABULARY)
    torch.manual_seed(int(100 * spread))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * parameter.std(correction=0) * torch.randn_like(parameter))
    model.save_pretrained(path)


def sampled_group(number: int, verdicts: list[int]) -> Group:
    rng = np.random.default_rng(number)
    prompt = Prompt(f"0-{number}", rng.integers(4, 40, 5, dtype=np.int32), "1+1=", "2", "")
    return Group(prompt, tuple(sample(prompt, i, v, rng) for i, v in enumerate(verdicts)))


def sample(prompt: Prompt, index: int, verdict: int, rng: np.random.Generator) -> Sample:
    length = 6 + 4 * index
    completion = Completion(
        request_id=f"{prompt.id}/{index}",
        tokens=rng.integers(4, 40, length, dtype=np.int32),
        logprobs=-rng.exponential(1, length).astype(np.float32),
        finish_reason="stop",
        weight_version=1,
    )
    result = RewardResult(float(verdict), verdict == 1, "ok")
    return Sample(prompt, index, completion, "text", result)


def write_run(folder: Path, start: Path, groups: list[Group], **logger: int) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [f"model.path={start}", "trainer.group_size=4"])
    config = load_config(composed).model_dump(mode="json")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    RolloutLog(folder, logger.get("rollouts_per_step"), with_tokens=True).write(2, groups)


def compared(
    run: RecordedRun,
    algos: dict[str, AlgoConfig],
    policy: Path | None = None,
    micro_batch_tokens: int = WIDE,
) -> Comparison:
    replay = open_replay(str(run.folder), None)
    return compare(
        replay, algos, str(policy or run.now), micro_batch_tokens, on_done=lambda name: None
    )


def with_loss(algo: AlgoConfig, loss: dict[str, object], **changes: object) -> AlgoConfig:
    return algo.model_copy(update={"loss": algo.loss | loss, **changes})


PRESETS = load_presets("archer,dapo,grpo")
LEASHED = with_loss(PRESETS["grpo"], {"beta": 0.5})
"""GRPO whose KL term is large enough to see."""


def plain_logprobs(model: torch.nn.Module, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies of one response, from whole logits."""
    tokens = torch.tensor([*sample.prompt.tokens, *sample.completion.tokens]).long()
    start = len(sample.prompt.tokens)
    logits = model(tokens[None]).logits[0, start - 1 : -1]
    log_p = logits.log_softmax(-1)
    return log_p.gather(1, tokens[start:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@dataclass(frozen=True)
class Plain:
    """An objective computed response by response."""

    loss: float
    gradient: torch.Tensor
    clipped: dict[str, float]
    kl: dict[str, float]


def plain_objective(
    run: RecordedRun,
    groups: list[Group],
    weight: Callable[[int], float],
    eps_high: float,
    dual_clip: float,
    beta: float,
) -> Plain:
    """PPO's clip at 0.8 and 1 + eps_high, the dual clip, and beta k3."""
    now, old, ref = (
        AutoModelForCausalLM.from_pretrained(path) for path in (run.now, run.old, run.start)
    )
    loss = torch.zeros(())
    is_reasoning, is_clipped, policy_pull, kl_pull = [], [], [], []
    for group in groups:
        deviations = group.rewards - group.rewards.mean()
        advantages = deviations / (group.rewards.std(ddof=1) + 1e-6)
        for one, advantage in zip(group.samples, advantages.tolist(), strict=True):
            with torch.no_grad():
                old_logprobs, entropy = plain_logprobs(old, one)
                ref_logprobs, _ = plain_logprobs(ref, one)
            logprobs, _ = plain_logprobs(now, one)
            leaf = logprobs.detach().requires_grad_()
            ratio, d = (leaf - old_logprobs).exp(), leaf - ref_logprobs
            clipped = ratio.clamp(0.8, 1 + eps_high)
            surrogate = torch.minimum(ratio * advantage, clipped * advantage)
            if advantage < 0:
                surrogate = surrogate.clamp(min=dual_clip * advantage)
            w = weight(len(ratio))
            policy_loss, kl_loss = -(surrogate * w).sum(), (beta * w * ((-d).exp() + d - 1)).sum()
            (by_policy,) = torch.autograd.grad(policy_loss, leaf)
            (by_kl,) = torch.autograd.grad(kl_loss, leaf)
            loss = loss + policy_loss.detach() + kl_loss.detach()
            logprobs.backward(by_policy + by_kl)
            is_reasoning.append(entropy > entropy.quantile(0.8))
            is_clipped.append((by_policy == 0) if advantage else torch.zeros(len(ratio)) > 1)
            policy_pull.append(by_policy.abs())
            kl_pull.append(by_kl.abs())
    reasoning, cut = torch.cat(is_reasoning), torch.cat(is_clipped)
    policy, kl = torch.cat(policy_pull), torch.cat(kl_pull)
    counted = (policy > 0) | cut
    classes = {"knowledge": ~reasoning, "reasoning": reasoning}
    return Plain(
        loss=float(loss),
        gradient=torch.cat([p.grad.flatten() for p in now.parameters()]),
        clipped={k: float(cut[own].sum() / counted[own].sum()) for k, own in classes.items()},
        kl={k: float(kl[own].sum() / (kl + policy)[own].sum()) for k, own in classes.items()},
    )


def test_numbers_are_those_of_a_plain_computation(run: RecordedRun):
    comparison = compared(run, {"leashed": LEASHED, "dapo": PRESETS["dapo"]})
    grpo, dapo = comparison.measured
    informative = [run.groups[0], run.groups[2]]
    num_tokens = sum(len(s.completion.tokens) for g in informative for s in g.samples)
    plain_grpo = plain_objective(run, run.groups, lambda n: 1 / (12 * n), 0.2, 3.0, 0.5)
    plain_dapo = plain_objective(run, informative, lambda n: 1 / num_tokens, 0.28, 10.0, 0.0)
    for one, plain in ((grpo, plain_grpo), (dapo, plain_dapo)):
        assert one.loss == pytest.approx(plain.loss, rel=1e-4)
        assert one.grad_norm == pytest.approx(float(plain.gradient.norm()), rel=1e-4)
        assert one.clipped == pytest.approx(plain.clipped)
        assert one.kl == pytest.approx(plain.kl, rel=1e-4)
        assert 0 < one.clipped["knowledge"] < 1 and 0 < one.clipped["reasoning"] < 1
    assert grpo.kl["knowledge"] > 0.01 and dapo.kl == {"knowledge": 0, "reasoning": 0}
    expected = float(torch.cosine_similarity(plain_grpo.gradient, plain_dapo.gradient, dim=0))
    assert 0.05 < expected < 0.999
    assert comparison.cosines[0][1] == pytest.approx(expected, rel=1e-4)
    assert comparison.cosines[1][0] == comparison.cosines[0][1]


def test_tokens_of_dropped_groups_count_as_untouched(run: RecordedRun):
    dapo, grpo = compared(run, {"dapo": PRESETS["dapo"], "grpo": PRESETS["grpo"]}).measured
    assert (dapo.num_groups, grpo.num_groups) == (2, 3)
    assert dapo.untouched > 1 / 3 and grpo.untouched == 0  # the KL term reaches every token


def test_an_objective_agrees_with_itself(run: RecordedRun):
    comparison = compared(run, {"one": PRESETS["grpo"], "other": PRESETS["grpo"]})
    assert np.array(comparison.cosines) == pytest.approx(1.0, abs=1e-6)
    assert comparison.measured[0].grad_norm == comparison.measured[1].grad_norm


def test_without_a_ratio_to_clip_dapo_is_grpo_without_kl(run: RecordedRun):
    no_clips = with_loss(PRESETS["dapo"], {"eps_low": 0.0, "eps_high": 0.0})
    no_kl = with_loss(PRESETS["grpo"], {"beta": 0.0}, aggregation="token-mean", reject_uniform=True)
    comparison = compared(run, {"dapo": no_clips, "grpo": no_kl}, policy=run.old)
    dapo, grpo = comparison.measured
    assert comparison.cosines[0][1] == pytest.approx(1.0, abs=1e-6)
    assert dapo.grad_norm == pytest.approx(grpo.grad_norm, rel=1e-6) and dapo.grad_norm > 0
    assert dapo.clipped == {"knowledge": 0.0, "reasoning": 0.0}


def test_micro_batches_bound_memory_and_change_nothing(run: RecordedRun):
    whole, cut = (compared(run, PRESETS, micro_batch_tokens=n) for n in (WIDE, NARROW))
    for one, other in zip(whole.measured, cut.measured, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
        assert (other.clipped, other.untouched) == (one.clipped, one.untouched)
    assert np.array(cut.cosines) == pytest.approx(np.array(whole.cosines), abs=1e-5)


def test_every_preset_is_measured_or_says_what_it_lacks(run: RecordedRun):
    presets = load_presets("all")
    comparison = compared(run, presets)
    assert comparison.left_out.keys() == LACKING
    assert [one.algo for one in comparison.measured] == [p for p in presets if p not in LACKING]
    assert all(math.isfinite(one.loss + one.grad_norm) for one in comparison.measured)
    assert not any(why.startswith("its filters") for why in comparison.left_out.values())


@pytest.mark.parametrize("kl", ["token", "full"])
def test_terms_on_negative_advantages_alone_count_as_kl(run: RecordedRun, kl: str):
    preset = load_presets("lp_reg")["lp_reg"]
    lp_reg = with_loss(preset, {"rho": 0.99, "kappa": 0.3, "kl": kl})
    (one,) = compared(run, {"lp_reg": lp_reg}).measured
    assert 0.01 < one.kl["knowledge"] < 1 and 0.01 < one.kl["reasoning"] < 1


def test_objective_that_needs_what_was_not_recorded_is_left_out(run: RecordedRun):
    solved = PRESETS["grpo"].model_copy(update={"greedy_fail_only": True})
    uniform = PRESETS["grpo"].model_copy(update={"pass_rate": (0.9, 0.95)})
    comparison = compared(run, {"self": solved, "narrow": uniform, "grpo": PRESETS["grpo"]})
    assert [one.algo for one in comparison.measured] == ["grpo"]
    assert "greedy" in comparison.left_out["self"]
    assert "filters" in comparison.left_out["narrow"]


def test_old_logprobs_are_the_engines_where_the_checkpoint_is_gone(
    run: RecordedRun, tmp_path: Path
):
    write_run(tmp_path, run.start, run.groups)
    replay = open_replay(str(tmp_path), 2)
    assert replay.sampling_policy() is None
    comparison = compare(replay, PRESETS, str(run.now), WIDE, on_done=lambda name: None)
    assert "engine's" in comparison.facts["old log-probs"]
    assert str(run.old) == compared(run, PRESETS).facts["old log-probs"]


def test_the_first_step_was_sampled_by_the_start_model(run: RecordedRun):
    replay = open_replay(str(run.folder), None)
    first = Replay(run.folder, replay.config, 1, replay.groups)
    assert first.sampling_policy() == str(run.start) == first.start_policy()
    assert first.trained_policy() == str(run.old)  # the checkpoint after step 1


def test_recorded_rollouts_come_back_bit_for_bit(run: RecordedRun):
    for group, recorded in zip(open_replay(str(run.folder), None).groups, run.groups, strict=True):
        for one, other in zip(group.samples, recorded.samples, strict=True):
            assert np.array_equal(one.prompt.tokens, other.prompt.tokens)
            assert np.array_equal(one.completion.tokens, other.completion.tokens)
            assert np.array_equal(one.completion.logprobs, other.completion.logprobs)
            assert one.completion.logprobs.dtype == np.float32
            assert one.result == other.result


@pytest.mark.parametrize("exponent", [-30, -7, 0, 2])
def test_every_float32_survives_the_file(tmp_path: Path, exponent: int):
    rng = np.random.default_rng(0)
    group = sampled_group(0, [1])
    values = (-rng.exponential(10.0**exponent, 2000)).astype(np.float32)
    completion = Completion("0-0/0", np.ones(2000, np.int32), values, "stop", 1)
    one = Sample(group.prompt, 0, completion, "", group.samples[0].result)
    path = RolloutLog(tmp_path, None, with_tokens=True).write(1, [Group(group.prompt, (one,))])
    (row,) = read_rollouts(path)
    assert np.array_equal(np.array(row["logprobs"], np.float32), values)


def test_evaluations_are_recorded_without_tokens(tmp_path: Path):
    log = RolloutLog(tmp_path, None, with_tokens=True)
    path = log.write(1, [sampled_group(0, [1])], name="eval_x")
    assert all("tokens" not in row for row in read_rollouts(path))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def test_unknown_algo_is_refused_with_a_suggestion():
    message = refusal(lambda: load_presets("archer,gropo"))
    assert "'gropo'" in message and "Did you mean 'grpo'?" in message


def test_rollouts_that_cannot_be_replayed_are_refused(run: RecordedRun, tmp_path: Path):
    assert "run directory" in refusal(lambda: open_replay(str(tmp_path / "none"), None))
    assert "2 to 2" in refusal(lambda: open_replay(str(run.folder), 7))

    write_run(tmp_path / "few", run.start, run.groups, rollouts_per_step=5)
    assert "trainer.group_size=4" in refusal(lambda: open_replay(str(tmp_path / "few"), None))

    write_run(tmp_path / "bare", run.start, run.groups)
    RolloutLog(tmp_path / "bare", None).write(2, run.groups)
    message = refusal(lambda: open_replay(str(tmp_path / "bare"), None))
    assert "logger.rollout_tokens=true" in message

    write_run(tmp_path / "foreign", run.start, run.groups)
    with (tmp_path / "foreign/config.yaml").open("a") as config:
        config.write("of_another_version: 1\n")
    message = refusal(lambda: open_replay(str(tmp_path / "foreign"), None))
    assert "another version" in message and "of_another_version" in message

    write_run(tmp_path / "unsaved", tmp_path / "moved", run.groups)
    replay = open_replay(str(tmp_path / "unsaved"), None)
    assert "policy=FOLDER" in refusal(replay.trained_policy)
    assert "model.path" in refusal(replay.start_policy)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rollouts=x"], "algo"),
        (["rollouts=x", "algo=grpo", "stepp=3"], "Did you mean 'step'?"),
        (["rollouts=x", "algo=grpo", "out=x.pdf"], ".html, .md, .json"),
        (["rollouts=x", "algo=grpo", "out=nowhere/x.md"], "existing folder"),
    ],
)
def test_bad_words_are_refused(words: list[str], said: str):
    assert said in refusal(lambda: load_objectives_config(words))


def test_command_prints_the_tables_and_writes_them(
    run: RecordedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "numbers.json"
    main([f"rollouts={run.folder}", "algo=archer,grpo", f"out={out}"])
    printed = capsys.readouterr()
    assert "| archer" in printed.out and "cosine" in printed.out
    assert "measured grpo" in printed.err
    numbers = json.loads(out.read_text())
    assert [one["algo"] for one in numbers["measured"]] == ["archer", "grpo"]
    assert numbers["cosines"][0][0] == pytest.approx(1.0, abs=1e-6)


def test_missing_model_is_one_message(run: RecordedRun, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([f"rollouts={run.folder}", "algo=grpo", f"policy={run.folder}"])
    assert ended.value.code == 2
    assert "config.json" in capsys.readouterr().err


def test_a_zero_gradient_has_no_direction(run: RecordedRun):
    still = with_loss(PRESETS["grpo"], {"beta": 0.0}, advantage_args={}, pass_rate=(1.0, 1.0))
    comparison = compared(run, {"still": still, "grpo": PRESETS["grpo"]})
    assert comparison.measured[0].grad_norm == 0.0
    assert "| -" in as_markdown(comparison).replace("  ", " ")
    assert "null" in as_json(comparison) and "NaN" not in as_json(comparison)
    assert "<td>still</td>" in as_html(comparison) and "nan" not in as_html(comparison)


def test_a_step_other_than_that_of_the_file_is_refused(run: RecordedRun):
    file = run.folder / "rollouts/step_000002.jsonl.gz"
    assert open_replay(str(file), 2).step == 2
    assert "step=5" in refusal(lambda: open_replay(str(file), 5))


def test_a_truncated_step_is_refused_by_name(run: RecordedRun, tmp_path: Path):
    write_run(tmp_path, run.start, run.groups)
    file = tmp_path / "rollouts/step_000002.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert file.name in refusal(lambda: open_replay(str(tmp_path), None))


def test_nothing_to_measure_is_refused_before_models_load(run: RecordedRun, tmp_path: Path):
    presets = load_presets("ppo,remax")
    assert "a critic" in refusal(lambda: compared(run, presets, policy=tmp_path / "none"))


def test_a_missing_policy_is_named_by_its_key(run: RecordedRun, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([f"rollouts={run.folder}", "algo=grpo", "policy=/tmp/none/such"])
    assert "archer: policy is not usable" in capsys.readouterr().err


def test_an_objective_of_ones_own_is_measured_by_its_dotted_path(run: RecordedRun):
    path = "archer.algos.grpo.GRPO"
    presets = load_presets(f"{path},grpo")
    assert presets[path].advantage == "grpo"
    assert compared(run, presets).cosines[0][1] > 0.99
