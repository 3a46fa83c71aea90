"""A wrong configuration is refused with the key, the value and the way out."""

import copy
import pickle
import shlex
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from archer.algos import ADVANTAGES, BONUSES, OBJECTIVES
from archer.config.keys import TrainConfig, load_config
from archer.config.schema import known_keys, override
from archer.errors import ConfigError

VALID: dict[str, Any] = {
    "algo": {"name": "grpo"},
    "model": {"name": "tiny", "warm_start": {}},
    "data": {"name": "arithmetic", "task": "arithmetic", "max_prompt_tokens": 32},
    "reward": {"name": "math"},
    "sampling": {"max_response_tokens": 64},
}
GPUS = {"cluster.device": "cuda", "cluster.num_nodes": 2, "cluster.gpus_per_node": 8}
COLOCATED = {**GPUS, "cluster.layout": "colocated", "cluster.zero_stage": 2}
PASSK = {"algo.advantage": "passk"}
MAXRL = {"algo.advantage": "maxrl"}
CDE = {"algo.bonus": "cde", "algo.shaping.scale": 2.0, "algo.shaping.offset": -1.0}
REMOVED = object()


def load(changes: dict[str, Any]) -> TrainConfig:
    """VALID with dotted keys changed, through the only door."""
    config = copy.deepcopy(VALID)
    for key, value in changes.items():
        *parents, name = key.split(".")
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is REMOVED:
            del section[name]
        else:
            section[name] = value
    return load_config(config)


BAD: list[tuple[dict[str, Any], str, str]] = [
    # changes, key and value as they must be shown, what must be said about the way out
    ({"trainer.num_step": 3}, "trainer.num_step=3", "'trainer.num_steps'"),
    ({"trainr": {}}, "trainr={}", "'trainer'"),
    ({"model.warm_start.stpes": 1}, "model.warm_start.stpes=1", "'model.warm_start.steps'"),
    ({"algo.loss.bta": 0.1}, "algo.loss.bta=0.1", "algo.loss.beta"),
    ({"algo.loss.beta": "big"}, "algo.loss.beta='big'", "number"),
    ({"trainer.num_steps": 2.5}, "trainer.num_steps=2.5", "integer"),
    ({"trainer.num_steps": 0}, "trainer.num_steps=0", "greater than or equal to 1"),
    ({"seed": "7"}, "seed='7'", "integer"),
    ({"algo.reject_uniform": "yes"}, "algo.reject_uniform='yes'", "boolean"),
    ({"sampling.temperature": 0.0}, "sampling.temperature=0.0", "greater than 0"),
    ({"reward.max_failure_frac": 1.5}, "reward.max_failure_frac=1.5", "less than or equal to 1"),
    ({"cluster.device": "gpu"}, "cluster.device='gpu'", "'cpu' or 'cuda'"),
    ({"optimizer.betas": [0.9]}, "optimizer.betas", "Set"),
    ({"algo.name": REMOVED}, "algo.name=None", "Set it: algo.name="),
    ({"reward": REMOVED}, "reward=None", "Set it: reward="),
    ({"algo.name": "grop"}, "algo.name='grop'", "Did you mean 'grpo'?"),
    ({"algo.name": "no_such_module.OBJECTIVE"}, "algo.name='no_such_module.", "PYTHONPATH"),
    ({"algo.name": "archer.errors.ConfigError"}, "algo.name='archer.errors", "algos.Objective"),
    ({"algo.loss.surrogate": "plain"}, "algo.loss.surrogate='plain'", "surrogate=clip"),
    ({"algo.advantage": "gpro"}, "algo.advantage='gpro'", "Did you mean 'grpo'?"),
    ({"algo.bonus": "entropy"}, "algo.bonus='entropy'", "Did you mean 'entropy_adv'?"),
    ({"algo.correction": "tis"}, "algo.correction='tis'", "Did you mean 'mis'?"),
    ({"algo.correction": "none.such.CORRECTION"}, "algo.correction='none.such.", "PYTHONPATH"),
    (
        {"algo.correction": "tis_token", "algo.correction_args": {"caps": 2.0}},
        "algo.correction_args.caps=2.0",
        "'algo.correction_args.cap'",
    ),
    (
        {"algo.correction": "mis", "algo.correction_args": {"low": 3.0}},
        "algo.correction_args={'low': 3.0}",
        "expected low=3 at most high=2",
    ),
    (
        {"algo.correction": "tis_token", "algo.old_logprobs": "rollout"},
        "algo.correction='tis_token'",
        "algo.old_logprobs=trainer",
    ),
    (
        {"algo.name": "dppo", "algo.correction": "icepop"},
        "algo.correction='icepop'",
        "none with algo.name=dppo",
    ),
    ({"algo.advantage": "gae"}, "algo.critic=None", "Set algo.critic={}"),
    ({"algo.name": "dph_rl"}, "algo.rehearsal=None", "Set algo.rehearsal={}"),
    ({"algo.rehearsal": {}}, "algo.rehearsal={'prompts': 256", "Set algo.rehearsal=null"),
    (
        {"algo.name": "dph_rl", "algo.loss.divergence": "reverse_kl", "algo.rehearsal": {}},
        "algo.rehearsal={'prompts': 256",
        "Set algo.rehearsal=null",
    ),
    (
        {"algo.name": "cispo", "algo.loss.cap_low": 6.0},
        "algo.loss={'cap_low': 6.0}",
        "cap_low=6 at most cap_high=5",
    ),
    (
        {"algo.name": "clip_cov", "algo.loss.cov_low": 5.0},
        "algo.loss={'cov_low': 5.0}",
        "cov_low=5 below cov_high=5",
    ),
    (
        {"algo.advantage_args.gamma": 1.0},
        "algo.advantage_args.gamma=1.0",
        "drop the section with '~algo.advantage_args'",
    ),
    ({"algo.loss.rho": 0.2}, "algo.loss.rho=0.2", "There is no such key. Known here: "),
    (
        {"algo.advantage": "pgbc", "algo.advantage_args": {"scale": -1.0}},
        "algo.advantage_args.scale=-1.0",
        "greater than 0",
    ),
    ({**PASSK, "algo.shaping.scale": 2.0}, "algo.shaping.scale=2.0", "algo.advantage=passk"),
    (
        {**PASSK, "algo.shaping.overlong_buffer": 8},
        "algo.shaping.overlong_buffer=8",
        "Leave algo.shaping.overlong_buffer at its default",
    ),
    ({**PASSK, "algo.kl_in_reward": 0.1}, "algo.kl_in_reward=0.1", "in algo.loss"),
    ({**PASSK, "algo.bonus": "cde"}, "algo.bonus='cde'", "Set algo.bonus=none"),
    (
        {"algo.advantage": "pgbc", "algo.shaping.truncated_penalty": 1.0},
        "algo.shaping.truncated_penalty=1.0",
        "algo.advantage=pgbc, which takes 0 and 1",
    ),
    (
        {"algo.advantage": "pgfc", "algo.shaping.cosine_length": {}},
        "algo.shaping.cosine_length=",
        "algo.advantage=pgfc, which takes 0 and 1",
    ),
    (
        {**MAXRL, "algo.shaping.offset": -1.0, "algo.shaping.scale": 2.0},
        "algo.shaping.scale=2.0",
        "no reward below 0 with algo.advantage=maxrl",
    ),
    (
        {**MAXRL, "algo.shaping.overlong_buffer": 8},
        "algo.shaping.overlong_buffer=8",
        "no reward below 0 with algo.advantage=maxrl",
    ),
    (
        {**MAXRL, "algo.shaping.cosine_length": {}},
        "algo.shaping.cosine_length=",
        "no reward below 0",
    ),
    ({**MAXRL, "algo.kl_in_reward": 0.1}, "algo.kl_in_reward=0.1", "in algo.loss"),
    ({"algo.bonus": "cde"}, "algo.shaping={}", "Set algo.shaping.scale=2 algo.shaping.offset=-1"),
    (
        {**CDE, "algo.shaping.overlong_buffer": 8},
        "algo.shaping={'scale': 2.0, 'offset': -1.0, 'overlong_buffer': 8}",
        "scale 2 and offset -1 alone",
    ),
    (
        {**CDE, "algo.kl_in_reward": 0.1},
        "algo.kl_in_reward=0.1",
        "-1 and 1 as rewards with algo.bonus=cde",
    ),
    ({"algo.aggregation": "token-men"}, "algo.aggregation='token-men'", "'token-mean'"),
    ({"trainer.mini_batch_prompts": 6}, "trainer.mini_batch_prompts=6", "prompts_per_step=16"),
    (
        {"cluster.policy_workers": 9, "trainer.mini_batch_prompts": 1},
        "cluster.policy_workers=9",
        "at most trainer.mini_batch_prompts * trainer.group_size = 8",
    ),
    (
        {"algo.reject_uniform": True, "trainer.group_size": 1},
        "trainer.group_size=1",
        "algo.reject_uniform=false",
    ),
    (
        {**PASSK, "trainer.group_size": 4},
        "trainer.group_size=4",
        "at least 5 with algo.advantage=passk, k=4",
    ),
    (
        {**PASSK, "algo.advantage_args": {"k": 9}},
        "trainer.group_size=8",
        "at least 10 with algo.advantage=passk, k=9",
    ),
    ({"algo.pass_rate": [0.8, 0.2]}, "algo.pass_rate=[0.8, 0.2]", "Widen the range"),
    ({"algo.pass_rate": [0.2, 1.2]}, "algo.pass_rate=1.2", "less than or equal to 1"),
    ({"algo.pass_rate": 0.5}, "algo.pass_rate=0.5", "Set algo.pass_rate"),
    (
        {"algo.pass_rate": [0.3, 0.45], "trainer.group_size": 4},
        "algo.pass_rate=[0.3, 0.45]",
        "0/4, 1/4, 2/4, 3/4, 4/4",
    ),
    (
        {"algo.pass_rate": [0.8, 1.0], "algo.reject_uniform": True, "trainer.group_size": 4},
        "algo.pass_rate=[0.8, 1.0]",
        "one of 1/4, 2/4, 3/4 between them",
    ),
    ({"algo.on_exhausted": "halt"}, "algo.on_exhausted='halt'", "'train' or 'stop'"),
    # 32 prompt tokens and 64 response tokens
    ({"trainer.micro_batch_tokens": 95}, "trainer.micro_batch_tokens=95", "= 96"),
    ({"algo.shaping.overlong_buffer": 64}, "algo.shaping.overlong_buffer=64", "less than"),
    (
        {"algo.shaping.repetition_penalty": -1.0},
        "algo.shaping.repetition_penalty=-1.0",
        "greater than or equal to 0",
    ),
    (
        {"algo.shaping.cosine_length": {"right": [1.0]}},
        "algo.shaping.cosine_length.right=[1.0]",
        "such a list",
    ),
    (
        {"algo.shaping.cosine_length": {"right": [1.0, 0.0]}},
        "algo.shaping.cosine_length.right=[1.0, 0.0]",
        "more than algo.shaping.cosine_length.wrong=[-10.0, 0.0] at both ends",
    ),
    (
        {"algo.shaping.cosine_length": {}, "algo.shaping.offset": -1.0},
        "algo.shaping.offset=-1.0",
        "Put the values you want into cosine_length",
    ),
    ({"model.warm_start": None}, "model.path=None", "model=tiny"),
    ({"data.task": None}, "data.train=None", "data=arithmetic"),
    ({"data.train": "a.jsonl"}, "data.train='a.jsonl'", "data=jsonl"),
    ({"data.eval": {"mine": "a.jsonl"}}, "data.eval={'mine': 'a.jsonl'}", "data=jsonl"),
    ({"cluster.layout": "colocated"}, "cluster.layout='colocated'", "cluster.device=cuda"),
    ({"cluster.device": "cuda"}, "cluster.gpus_per_node=0", "at least 1"),
    ({**GPUS, "cluster.tensor_parallel": 3}, "cluster.tensor_parallel=3", "divisor"),
    ({**COLOCATED, "cluster.zero_stage": 3}, "cluster.zero_stage=3", "cluster.zero_stage=2"),
    ({**COLOCATED, "cluster.tensor_parallel": 2}, "cluster.tensor_parallel=2", "disaggregated"),
    (
        {**COLOCATED, "cluster.offload_optimizer": True},
        "cluster.offload_optimizer=True",
        "cluster.layout=disaggregated",
    ),
    (
        {"cluster.dtype": "bfloat16", "cluster.zero_stage": 1},
        "cluster.zero_stage=1",
        "zero_stage=2",
    ),
    (
        {**COLOCATED, "cluster.policy_workers": 8, "cluster.rollout_replicas": 16},
        "cluster.policy_workers=8",
        "num_nodes * gpus_per_node",
    ),
    (
        {**COLOCATED, "cluster.policy_workers": 16, "cluster.rollout_replicas": 4},
        "cluster.rollout_replicas=4",
        "16 GPUs",
    ),
    (
        {**GPUS, "cluster.policy_workers": 12, "cluster.rollout_replicas": 5},
        "cluster.policy_workers=12",
        "17",
    ),
]


@pytest.mark.parametrize(("changes", "shown", "mend"), BAD, ids=[case[1] for case in BAD])
def test_bad_configs_name_key_value_and_mend(changes: dict[str, Any], shown: str, mend: str):
    with pytest.raises(ConfigError) as caught:
        load(changes)
    assert str(caught.value).startswith(shown)
    assert mend in str(caught.value)


def test_the_valid_config_is_valid_and_frozen():
    config = load({})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2


def test_a_sequence_that_just_fits_the_micro_batch_is_accepted():
    assert load({"trainer.micro_batch_tokens": 96}).max_sequence_tokens == 96


@pytest.mark.parametrize(
    "changes",
    [
        {"algo.pass_rate": [0.5, 0.5], "trainer.group_size": 4},
        {"algo.pass_rate": [0.0, 0.0], "trainer.group_size": 1, "algo.advantage": "pgfc"},
        {"algo.name": "soft_q", "trainer.group_size": 1},  # it uses no advantages
        {**PASSK, "trainer.group_size": 5},
        {"algo.name": "dph_rl", "algo.loss": {"divergence": "reverse_kl"}},
        {**MAXRL, "algo.shaping.offset": 1.0, "algo.shaping.no_answer_penalty": 1.0},
        {**MAXRL, "algo.shaping.cosine_length": {"wrong": [0.0, 0.5]}},
        {"algo.old_logprobs": "rollout", "algo.correction": "opsm"},  # it weighs nothing
        {"algo.old_logprobs": "rollout", "algo.kl_in_reward": 0.1},
        {**PASSK, "algo.shaping.overlong_factor": 2.0},  # of no penalty
        {**PASSK, "algo.bonus": "entropy_adv"},  # on advantages
        CDE,
        {"algo.shaping.cosine_length": {"right": [1.0, 0.5], "wrong": [-1.0, 0.0]}},
    ],
    ids=str,
)
def test_what_merely_looks_impossible_is_accepted(changes: dict[str, Any]):
    load(changes)


COMPARING = (
    "grpo",
    "grpo_batchstd",
    "grpo_nostd",
    "maxrl",
    "opo",
    "passk",
    "pgbc",
    "reinforce_pp_baseline",
    "rloo",
)


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_a_lone_response_is_refused_where_responses_are_compared(advantage: str):
    changes = {"algo.advantage": advantage, "trainer.group_size": 1}
    if advantage == "gae":
        changes["algo.critic"] = {}
    if advantage in COMPARING:
        with pytest.raises(ConfigError, match=r"^trainer\.group_size=1"):
            load(changes)
    else:
        load(changes)


MY_DPPO = replace(OBJECTIVES["dppo"])
MY_PASSK = replace(ADVANTAGES["passk"])
MY_CDE = replace(BONUSES["cde"])
MY_CDE_CRITIC = replace(BONUSES["cde_critic"])


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"algo.name": "MY_DPPO", "algo.correction": "icepop"}, "algo.correction"),
        ({"algo.advantage": "MY_PASSK", "algo.shaping.scale": 2.0}, "algo.shaping.scale"),
        ({"algo.advantage": "MY_PASSK", "trainer.group_size": 4}, "trainer.group_size"),
        ({"algo.bonus": "MY_CDE"}, "algo.shaping"),
        (
            {"algo.advantage": "gae", "algo.critic": {}, "algo.bonus": "MY_CDE_CRITIC"},
            "algo.critic.num_heads",
        ),
    ],
    ids=str,
)
def test_a_plug_in_of_a_user_is_held_to_the_same(changes: dict[str, Any], refused: str):
    mine = {
        key: f"{__name__}.{value}" if str(value).startswith("MY_") else value
        for key, value in changes.items()
    }
    with pytest.raises(ConfigError) as caught:
        load(mine)
    assert caught.value.key == refused


def test_disaggregated_roles_may_fill_the_cluster_exactly():
    load({**GPUS, "cluster.policy_workers": 12, "cluster.rollout_replicas": 4})


def test_whole_numbers_are_accepted_where_fractions_are():
    assert load({"sampling.temperature": 1}).sampling.temperature == 1.0


def test_an_interpolation_that_does_not_resolve_names_its_key():
    composed = OmegaConf.create({**VALID, "trainer": {"num_steps": "${trainer.steps}"}})
    with pytest.raises(ConfigError, match=r"^trainer\.num_steps="):
        load_config(composed)


def test_a_mandatory_value_left_open_names_its_key():
    composed = OmegaConf.create({**VALID, "model": {"name": "mine", "path": "???"}})
    with pytest.raises(ConfigError, match=r"^model\.path="):
        load_config(composed)


def test_run_name_tells_runs_apart():
    assert load({"seed": 3}).run_name == "grpo-tiny-arithmetic-seed3"
    mine = load({"run.name": "mine", "run.experiment": "e"})
    assert mine.run_dir.parts[-3:] == ("runs", "e", "mine")


def test_known_keys_reach_into_optional_sections():
    assert {"seed", "trainer", "trainer.num_steps", "model.warm_start.steps"} <= set(
        known_keys(TrainConfig)
    )


def test_reading_a_config_does_not_import_torch():
    modules = "archer.config.keys, archer.config.command_line"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_error_of_a_worker_reaches_the_driver_whole():
    error = ConfigError("reward.name", "mth", "one of math", "Choose it.")
    arrived = pickle.loads(pickle.dumps(error))
    assert str(arrived) == str(error) == "reward.name='mth': expected one of math. Choose it."


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 1e-6, "grpo", "/shared/runs", "null", "", "{problem}? say 'x' or \"y\""),
        *(["a b", "c"], {"rank": 32, "targets": ["q_proj"]}, {}),
    ],
)
def test_an_override_in_a_message_can_be_typed(value: Any):
    [word] = shlex.split(override("key", value))
    [parsed] = OverridesParser.create().parse_overrides([word])
    assert parsed.value() == value
