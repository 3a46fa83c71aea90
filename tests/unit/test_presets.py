"""What the presets of data, models and experiments promise, beyond composing."""

import re
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import archer.evaluate  # noqa: F401  its defaults are what conf/evaluate.yaml begins with
from archer.config.keys import TrainConfig, load_config
from archer.data.config import SourceConfig
from archer.data.shapes import SHAPES
from archer.errors import ConfigError
from archer.evaluation.config import EvaluateConfig, load_evaluate_config
from archer.rewards import resolve_reward

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
MATHS = ["aime24", "aime25", "amc23", "math500", "minerva", "olympiad"]
CODE = ["lcb_v5", "lcb_v6"]
BENCHMARKS = [*MATHS, *CODE, "gsm8k", "math", "humaneval_plus", "mbpp_plus"]
BENCHMARKS += ["apps_test", "codeforces_test", "deepcoder_test", "taco_test"]
TRAINING = sorted(
    path.stem for path in (CONF / "data").glob("*.yaml") if "role: train" in path.read_text()
)
UNPINNED = [
    "AI-MO/NuminaMath-CoT",
    "Fate-Zero/Archer2.0-Math-1.5B",
    "KodCode/KodCode-V1",
    "PrimeIntellect/verifiable-coding-problems",
    "wizardII/ArcherCodeR-Dataset",
]
"""Of these no commit is known to us."""
MATHS_RUNS = ["archer_math_1.5b", "dapo_math_1.5b", "grpo_math_1.5b"]
CODE_RUNS = ["archer_code_1.5b", "dapo_code_1.5b", "grpo_code_1.5b"]


@cache
def load(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(compose("config", list(overrides)))


def load_evaluation(*overrides: str) -> EvaluateConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_evaluate_config(compose("evaluate", list(overrides)))


@pytest.fixture(scope="module", params=[*BENCHMARKS, *TRAINING])
def preset(request: pytest.FixtureRequest) -> EvaluateConfig:
    return load_evaluation(f"data={request.param}")


def sources(config: EvaluateConfig) -> list[SourceConfig]:
    return [source for wanted in config.data.sets.values() for source in wanted.sources.values()]


def test_sources_are_pinned_to_a_commit(preset: EvaluateConfig):
    for source in sources(preset):
        pinned = re.fullmatch("[0-9a-f]{40}", source.revision)
        assert pinned or source.hub in UNPINNED, source.hub


def test_sources_have_a_known_shape_and_a_count(preset: EvaluateConfig):
    for source in sources(preset):
        assert source.shape in SHAPES
        unknown = [*UNPINNED, "PRIME-RL/Eurus-2-RL-Data"]
        assert source.expected_records or source.hub in unknown


def test_the_reward_of_the_preset_judges_as_the_shape_says(preset: EvaluateConfig):
    """By the name of the data source: olympiadbench is maths, livecodebench_v5 is code. The maths
    reward takes tests for an answer, so code never goes by labels that only its files know."""
    reward = resolve_reward(preset.reward.name, preset.reward.args)
    truths = {"math": "5", "code": '{"inputs": ["1"], "outputs": ["1"]}'}
    for source in sources(preset):
        kind = SHAPES[source.shape].reward
        assert source.data_source or kind == "math"
        name = source.data_source or "math"
        reward.check(truths[kind], name, preset.reward.args)
        if kind == "code":
            with pytest.raises(ValueError):
                reward.check(truths["math"], name, preset.reward.args)


def test_the_preset_is_named_after_its_own_set(preset: EvaluateConfig):
    assert preset.data.name == list(preset.data.sets)[-1]


def test_a_training_set_is_compared_with_the_papers_benchmarks(preset: EvaluateConfig):
    for wanted in preset.data.sets.values():
        kinds = {SHAPES[source.shape].reward for source in wanted.sources.values()}
        papers = [*(MATHS if "math" in kinds else ()), *(CODE if "code" in kinds else ())]
        expected = papers if wanted.role == "train" else []
        assert set(expected) <= set(wanted.benchmarks) <= preset.data.sets.keys()


def test_maths_prompts_ask_for_a_box_and_prompts_of_code_are_whole(preset: EvaluateConfig):
    for name, wanted in preset.data.sets.items():
        kinds = {SHAPES[source.shape].reward for source in wanted.sources.values()}
        assert (r"\boxed{}" in wanted.template) == ("math" in kinds), name


def test_benchmarks_have_their_protocol_and_figures_of_the_same_k(preset: EvaluateConfig):
    for name, wanted in preset.data.sets.items():
        if wanted.role == "eval":
            assert (wanted.temperature, wanted.top_p) == (0.8, 1.0), name
            assert wanted.max_response_tokens == 32768, name
            k = {key.partition("@")[2] for model in wanted.published.values() for key in model}
            assert k <= {str(wanted.num_samples)}, name


def test_the_papers_benchmarks_merge_into_one_evaluation():
    config = load_evaluation(f"data=[{','.join([*MATHS, *CODE])}]")
    assert list(config.data.sets) == [*MATHS, *CODE]
    assert config.reward.name == "by_source"
    sets = config.data.sets.values()
    assert [wanted.num_samples for wanted in sets] == [64, 64, 64, 4, 8, 4, 8, 16]
    assert [wanted.expected_rows for wanted in sets] == [30, 30, 40, 500, 272, 674, 279, 131]


def test_the_papers_average_is_that_of_the_presets():
    figures = load_evaluation(f"data=[{','.join(MATHS)}]").data.sets.values()
    averages = {
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 46.8,
        "dapo-math-1.5b": 53.5,
        "agentica-org/DeepScaleR-1.5B-Preview": 53.5,
        "Nickyang/FastCuRL-1.5B-V3": 57.7,
        "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B": 58.7,
        "archer-math-1.5b": 59.1,
    }
    for model, average in averages.items():
        columns = [wanted.published[model][f"avg@{wanted.num_samples}"] for wanted in figures]
        assert sum(columns) / len(columns) == pytest.approx(average, abs=0.06)


@pytest.mark.parametrize("folder", [".", "paper"])
def test_every_value_of_an_experiment_says_where_it_comes_from(folder: str):
    for path in (CONF / "experiment" / folder).glob("*.yaml"):
        if path.stem != "stress":  # ours
            unsaid = re.findall(r"^ +(?!experiment)\w+: [^#\n]+$", path.read_text(), re.MULTILINE)
            assert unsaid == [], path


@pytest.mark.parametrize("runs", [MATHS_RUNS, CODE_RUNS])
def test_runs_that_are_compared_differ_by_their_objective_only(runs: list[str]):
    first, *others = (load(f"experiment={name}") for name in runs)
    for other in others:
        same = {"algo": first.algo, "run": first.run}
        assert other.model_copy(update=same) == first
        assert other.run.model_copy(update={"experiment": first.run.experiment}) == first.run
        assert other.algo != first.algo
        assert other.algo.max_rounds == first.algo.max_rounds == 1


@pytest.mark.parametrize("kind", ["math", "code"])
def test_the_readings_of_the_baseline_clip_alike_but_for_what_their_sources_say(kind: str):
    dapo, grpo = (load(f"experiment={name}_{kind}_1.5b").algo for name in ("dapo", "grpo"))
    assert dapo.loss["eps_high"] == (0.22 if kind == "code" else 0.28)
    assert grpo.loss == dapo.loss | {"eps_high": 0.28}
    assert (dapo.aggregation, dapo.advantage) == (grpo.aggregation, grpo.advantage)


@pytest.mark.parametrize("kind", ["math", "code"])
def test_aspo_differs_from_archer_by_what_its_scripts_say(kind: str):
    archer, aspo = (load(f"experiment={name}_{kind}_1.5b") for name in ("archer", "aspo"))
    trainer = archer.trainer.model_copy(update={"mini_batch_prompts": 16})
    validation = archer.eval.model_copy(update={"temperature": 0.6, "top_p": 0.95})
    same = {"algo": aspo.algo, "run": aspo.run, "trainer": trainer, "eval": validation}
    assert archer.model_copy(update=same) == aspo


def test_a_benchmark_does_not_change_how_long_training_rewards_may_take():
    reward = load("experiment=archer_code_1.5b").reward
    assert reward.timeout_s == 30
    assert reward.source_timeout_s == {"livecodebench_v5": 120, "livecodebench_v6": 120}


def test_the_maths_runs_and_the_code_runs_differ_by_data_and_length():
    maths, code = load("experiment=archer_math_1.5b"), load("experiment=archer_code_1.5b")
    assert (maths.trainer.num_steps, code.trainer.num_steps) == (520, 320)
    same = {"data": maths.data, "reward": maths.reward, "run": maths.run, "trainer": maths.trainer}
    assert code.model_copy(update=same) == maths


def test_the_archer_runs_have_the_papers_batch():
    trainer = load("experiment=archer_code_1.5b").trainer
    assert trainer.prompts_per_step * trainer.group_size == 1024
    assert (trainer.mini_batch_prompts, trainer.epochs) == (32, 3)


@pytest.mark.parametrize(("size", "limit"), [("4b", 8192), ("8b", 6144)])
def test_qwen3_does_not_think(size: str, limit: int):
    config = load(f"experiment=archer_math_qwen3_{size}")
    assert config.model.name == f"qwen3-{size}"
    assert config.sampling.max_response_tokens == limit
    assert config.data.chat_template_args == {"enable_thinking": False}


def test_an_ablation_runs_at_the_papers_scale():
    plain = load("experiment=archer_code_1.5b")
    arm = load("experiment=[archer_code_1.5b,ablation/beta_k_0]")
    assert arm.algo.loss == plain.algo.loss | {"beta_k": 0.0}
    assert arm.trainer == plain.trainer and arm.data == plain.data


def test_an_ablation_of_another_objective_changes_that_one_or_is_refused():
    arm = load("experiment=[aspo_code_1.5b,ablation/rho_0.7]").algo
    assert (arm.name, arm.loss["rho"]) == ("aspo", 0.7)
    with pytest.raises(ConfigError, match=r"algo\.loss\.rho=0\.7: expected a known key"):
        load("experiment=[dapo_code_1.5b,ablation/rho_0.7]")


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("r1-distill-1.5b", 1_777_088_000),
        ("r1-distill-7b", 7_615_616_512),
        ("qwen2.5-math-1.5b", 1_543_714_304),
        ("qwen2.5-math-7b", 7_615_616_512),
        ("qwen3-1.7b", 1_720_574_976),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-8b", 8_190_735_360),
    ],
)
def test_the_shape_of_a_model_makes_its_number_of_parameters(model: str, parameters: int):
    shape = load(f"model={model}").model.shape
    assert shape is not None
    hidden, head = shape.hidden_size, shape.head_dim
    queries, keys = shape.num_heads * head, shape.num_kv_heads * head
    attention = hidden * (2 * queries + 2 * keys)
    attention += 2 * head if shape.qk_norm else queries + 2 * keys  # Qwen2 has biases instead
    layer = attention + 3 * hidden * shape.intermediate_size + 2 * hidden
    embeddings = shape.vocab_size * hidden * (1 if shape.tie_embeddings else 2)
    assert shape.num_layers * layer + hidden + embeddings == parameters


@pytest.mark.parametrize("group", ["algo", "data", "experiment"])
def test_the_index_of_papers_has_every_preset(group: str):
    page = (ROOT / "docs" / "papers.md").read_text()
    ours = {"arithmetic", "jsonl", "list_programs", "stress"}
    for path in (CONF / group).glob("*.yaml"):
        assert path.stem in ours or re.search(rf"[`=]{path.stem}`", page), path.stem
