"""Combinations of keys that no single field can refuse."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from archer.algos import AGGREGATIONS, Algorithm, resolve_algorithm
from archer.config.schema import suggestion
from archer.errors import ConfigError

if TYPE_CHECKING:
    from archer.config.keys import (
        AlgoConfig,
        ClusterConfig,
        CommonConfig,
        LoraConfig,
        ShapingConfig,
        TrainConfig,
    )
    from archer.evaluation.config import EvaluateConfig


def check_training(config: TrainConfig) -> None:
    """Combinations that no single field can refuse."""
    trainer, cluster = config.trainer, config.cluster
    _check_algorithm(config)
    if trainer.prompts_per_step % trainer.mini_batch_prompts:
        raise ConfigError(
            "trainer.mini_batch_prompts",
            trainer.mini_batch_prompts,
            f"a divisor of trainer.prompts_per_step={trainer.prompts_per_step}",
            "Change one of the two.",
        )
    mini_batch = trainer.mini_batch_prompts * trainer.group_size
    if mini_batch < cluster.policy_workers:
        raise ConfigError(
            "cluster.policy_workers",
            cluster.policy_workers,
            f"at most trainer.mini_batch_prompts * trainer.group_size = {mini_batch}",
            "Every rank needs a response of each mini-batch: use fewer ranks.",
        )
    if cluster.dtype == "bfloat16" and cluster.zero_stage < 2:
        raise ConfigError(
            "cluster.zero_stage",
            cluster.zero_stage,
            "2 or 3 with cluster.dtype=bfloat16",
            "DeepSpeed adds gradients up in bfloat16 below: set cluster.zero_stage=2.",
        )
    _check_filters(config)
    _check_group_size(config)
    if trainer.micro_batch_tokens < config.max_sequence_tokens:
        raise ConfigError(
            "trainer.micro_batch_tokens",
            trainer.micro_batch_tokens,
            "at least data.max_prompt_tokens + sampling.max_response_tokens = "
            f"{config.max_sequence_tokens}",
            "A sequence is never split: raise the budget or shorten the sequences.",
        )
    _check_shaping(config)


def _check_algorithm(config: TrainConfig) -> None:
    """Plug-ins that do not exist, miss what they need, or contradict each other."""
    algo = config.algo
    if algo.aggregation not in AGGREGATIONS:
        raise ConfigError(
            "algo.aggregation",
            algo.aggregation,
            f"one of {', '.join(AGGREGATIONS)}",
            f"Choose one of them.{suggestion(algo.aggregation, tuple(AGGREGATIONS))}",
        )
    algorithm = resolve_algorithm(algo)
    for need, key, present in (
        ("values", "algo.critic", algo.critic),
        ("rehearsal", "algo.rehearsal", algo.rehearsal),
    ):
        if need in algorithm.needs and present is None:
            users = (
                f"algo.name={algo.name}, algo.advantage={algo.advantage}, algo.bonus={algo.bonus}"
            )
            raise ConfigError(
                key,
                None,
                f"its section, as one of {users} needs {need}",
                f"Set {key}={{}} for its defaults, or choose others.",
            )
    _check_critic(algo, algorithm)
    if algo.rehearsal is not None and "rehearsal" not in algorithm.needs:
        raise ConfigError(
            "algo.rehearsal",
            algo.rehearsal.model_dump(),
            f"nothing with algo.name={algo.name} and its algo.loss, which rehearse nothing",
            "Set algo.rehearsal=null.",
        )
    if algo.old_logprobs == "rollout" and algorithm.correction.weigh is not None:
        raise ConfigError(
            "algo.correction",
            algo.correction,
            "none with algo.old_logprobs=rollout",
            "The ratio then holds the mismatch already, and weights would count it twice: set "
            "algo.correction=none or algo.old_logprobs=trainer.",
        )
    if algorithm.objective.holds_mismatch and algorithm.correction.weigh is not None:
        raise ConfigError(
            "algo.correction",
            algo.correction,
            f"none with algo.name={algo.name}",
            "Its ratio is to the engine's log-probs and holds the mismatch: set "
            "algo.correction=none.",
        )
    is_plain = getattr(algorithm.loss_config, "surrogate", None) == "plain"
    if is_plain and not config.trainer.is_on_policy:
        raise ConfigError(
            "algo.loss.surrogate",
            "plain",
            "clip where a rollout batch is more than one optimizer step",
            "Without a ratio the second step would be biased: set algo.loss.surrogate=clip, or "
            "trainer.epochs=1 and trainer.mini_batch_prompts to trainer.prompts_per_step.",
        )
    _check_rewards(algo, algorithm)


def _check_critic(algo: AlgoConfig, algorithm: Algorithm) -> None:
    """A critic that nobody asks, that cannot learn, or that is asked what it cannot know."""
    critic = algo.critic
    if critic is None:
        return
    if "values" not in algorithm.needs:
        raise ConfigError(
            "algo.critic",
            critic.model_dump(),
            f"nothing with algo.advantage={algo.advantage}, which uses no values",
            "Set algo.critic=null, or algo.advantage=gae.",
        )
    if algorithm.advantage.returns is None:
        raise ConfigError(
            "algo.advantage",
            algo.advantage,
            "an estimator that says what the critic learns",
            "Set algo.advantage=gae, or choose an objective and a bonus without a critic.",
        )
    if critic.num_heads > 1 and critic.clip is not None:
        raise ConfigError(
            "algo.critic.clip",
            critic.clip,
            f"nothing with algo.critic.num_heads={critic.num_heads}",
            "A head's own value before the update is not kept: set algo.critic.clip=null.",
        )
    needed = algorithm.bonus.min_value_heads
    if critic.num_heads < needed:
        raise ConfigError(
            "algo.critic.num_heads",
            critic.num_heads,
            f"at least {needed} with algo.bonus={algo.bonus}",
            f"Fewer heads cannot disagree: set it to {needed} or more.",
        )


def _check_rewards(algo: AlgoConfig, algorithm: Algorithm) -> None:
    """Rewards that the estimator or the bonus is not defined for, if the verdicts are 0 and 1."""
    if algorithm.advantage.rewards == "binary" and algorithm.bonus.on_rewards is not None:
        expected = f"none on rewards with algo.advantage={algo.advantage}, which takes 0 and 1"
        raise ConfigError("algo.bonus", algo.bonus, expected, "Set algo.bonus=none.")
    users = (
        ("advantage", algo.advantage, algorithm.advantage.rewards),
        ("bonus", algo.bonus, algorithm.bonus.rewards),
    )
    for kind, name, rewards in users:
        user = f"algo.{kind}={name}"
        match rewards:
            case "any":
                continue
            case "binary":
                expected = f"verdicts as they are with {user}, which takes 0 and 1"
                _refuse_shaping(algo, expected, kind)
            case "nonnegative":
                expected = f"no reward below 0 with {user}"
                if _lowest_reward(algo.shaping) < 0:
                    _refuse_shaping(algo, expected, kind)
            case "plus_minus_one":
                expected = f"-1 and 1 as rewards with {user}"
                _refuse_unless_plus_minus_one(algo.shaping, user)
        if algo.kl_in_reward:
            mend = "Set algo.kl_in_reward=0 and a KL coefficient in algo.loss."
            raise ConfigError("algo.kl_in_reward", algo.kl_in_reward, expected, mend)


def _refuse_shaping(algo: AlgoConfig, expected: str, kind: str) -> None:
    for key in algo.shaping.active:
        value = getattr(algo.shaping, key)
        mend = f"Leave algo.shaping.{key} at its default, or choose another {kind}."
        raise ConfigError(f"algo.shaping.{key}", value, expected, mend)


def _lowest_reward(shaping: ShapingConfig) -> float:
    """Of verdicts 0 and 1, with every penalty at its worst."""
    if shaping.cosine_length is not None:
        lowest = min(*shaping.cosine_length.right, *shaping.cosine_length.wrong)
    else:
        lowest = shaping.offset + min(0.0, shaping.scale)
    if shaping.overlong_buffer:
        lowest -= shaping.overlong_factor
    return lowest - (
        shaping.truncated_penalty + shaping.no_answer_penalty + shaping.repetition_penalty
    )


def _refuse_unless_plus_minus_one(shaping: ShapingConfig, user: str) -> None:
    if shaping.active != ["scale", "offset"] or (shaping.scale, shaping.offset) != (2.0, -1.0):
        raise ConfigError(
            "algo.shaping",
            {key: getattr(shaping, key) for key in shaping.active},
            f"scale 2 and offset -1 alone with {user}, whose rewards are -1 and 1",
            "Set algo.shaping.scale=2 algo.shaping.offset=-1 and no penalty.",
        )


def _check_group_size(config: TrainConfig) -> None:
    """Groups in which every advantage is 0."""
    algo, size = config.algo, config.trainer.group_size
    algorithm = resolve_algorithm(algo)
    smallest = algorithm.advantage.min_group_size(algorithm.advantage_config)
    if algorithm.objective.uses_advantages and size < smallest:
        parameters = algorithm.advantage_config.model_dump()
        args = "".join(f", {key}={value}" for key, value in parameters.items())
        raise ConfigError(
            "trainer.group_size",
            size,
            f"at least {smallest} with algo.advantage={algo.advantage}{args}",
            "All advantages of a smaller group are 0: raise it, or choose another advantage.",
        )


def _check_filters(config: TrainConfig) -> None:
    """Filters that no group can pass."""
    algo, size = config.algo, config.trainer.group_size
    low, high = algo.pass_rate
    if algo.reject_uniform and size < 2:
        raise ConfigError(
            "trainer.group_size",
            size,
            "at least 2 with algo.reject_uniform",
            "A single response is always uniform: raise it, or set algo.reject_uniform=false.",
        )
    counts = range(1, size) if algo.reject_uniform else range(size + 1)
    if not any(low <= count / size <= high for count in counts):
        shares = ", ".join(f"{count}/{size}" for count in counts)
        raise ConfigError(
            "algo.pass_rate",
            [low, high],
            f"a lower and an upper bound with one of {shares} between them",
            "Widen the range, or raise trainer.group_size.",
        )


def _check_shaping(config: TrainConfig) -> None:
    shaping = config.algo.shaping
    if shaping.overlong_buffer >= config.sampling.max_response_tokens:
        raise ConfigError(
            "algo.shaping.overlong_buffer",
            shaping.overlong_buffer,
            f"less than sampling.max_response_tokens={config.sampling.max_response_tokens}",
            "Lower it.",
        )
    if shaping.cosine_length is None:
        return
    right, wrong = shaping.cosine_length.right, shaping.cosine_length.wrong
    if right[0] <= wrong[0] or right[1] <= wrong[1]:
        raise ConfigError(
            "algo.shaping.cosine_length.right",
            list(right),
            f"more than algo.shaping.cosine_length.wrong={list(wrong)} at both ends",
            "A wrong response would be worth as much as a right one of its length: raise it.",
        )
    for key in ("scale", "offset"):
        if key in shaping.active:
            raise ConfigError(
                f"algo.shaping.{key}",
                getattr(shaping, key),
                "its default with algo.shaping.cosine_length, which takes the verdict's place",
                "Put the values you want into cosine_length.",
            )


def check_common(config: CommonConfig) -> None:
    """Combinations that concern every command."""
    data, cluster = config.data, config.cluster
    if data.task is not None:
        for key, files in (("data.train", data.train), ("data.eval", data.eval)):
            if files:
                raise ConfigError(
                    key,
                    files,
                    f"no files beside data.task={data.task}",
                    "For files of your own choose data=jsonl.",
                )
    if config.model.path is None and config.model.warm_start is None:
        raise ConfigError(
            "model.path",
            None,
            "a Hugging Face folder or hub id",
            "Set model.path=... or choose model=tiny.",
        )
    if cluster.device == "cuda":
        _check_gpus(cluster)
    elif cluster.layout == "colocated":
        raise ConfigError(
            "cluster.layout",
            "colocated",
            "disaggregated on a CPU",
            "Colocation shares GPUs; set cluster.device=cuda.",
        )


def check_evaluation(config: EvaluateConfig) -> None:
    """Sets that there are not, or that do not say how long a response may be."""
    data = config.data
    known = [data.task] if data.task is not None else [*data.eval, *data.sets]
    for name in config.eval.sets:
        if name not in known:
            raise ConfigError(
                "eval.sets",
                name,
                f"sets of data={data.name}: {', '.join(known) or 'there are none'}",
                f"Fix its name, or choose other presets with data=.{suggestion(name, known)}",
            )
    if not config.own_protocols:
        raise ConfigError(
            "data.eval",
            {},
            "at least one held-out set",
            "Set data.eval.NAME=FILE or choose data=arithmetic; eval.sets=[NAME] evaluates a "
            "training set.",
        )
    for name, own in config.own_protocols.items():
        if config.sampling.max_response_tokens is None and "max_response_tokens" not in own:
            raise ConfigError(
                "sampling.max_response_tokens",
                None,
                f"a limit for responses to {name}, which brings none of its own",
                "Set it: a longer response counts as wrong, and one that reasons may take "
                "32768 tokens.",
            )


def check_lora_targets(lora: LoraConfig, layers: Collection[str]) -> None:
    """Refuse a target that the model has no layer of; peft would leave it out without a word.

    Args:
        layers: names of the model's linear layers.
    """
    for target in lora.targets or ():
        if target not in layers:
            known = sorted(layers)
            raise ConfigError(
                "model.lora.targets",
                target,
                f"names among the model's linear layers: {', '.join(known)}",
                f"Fix it, or leave model.lora.targets empty for all.{suggestion(target, known)}",
            )


def check_window(config: CommonConfig, window: int | None) -> None:
    """Refuse sequences longer than the model's window.

    Args:
        window: in tokens; None where the model declares no limit.
    """
    if window is not None and config.max_sequence_tokens > window:
        raise ConfigError(
            "sampling.max_response_tokens",
            config.max_response_tokens,
            f"data.max_prompt_tokens={config.data.max_prompt_tokens} plus this to fit the model's "
            f"window of {window} tokens",
            "Lower either limit, or choose a model with a longer window.",
        )


def _check_gpus(cluster: ClusterConfig) -> None:
    total = cluster.num_nodes * cluster.gpus_per_node
    if cluster.gpus_per_node < 1:
        raise ConfigError(
            "cluster.gpus_per_node",
            cluster.gpus_per_node,
            "at least 1 with cluster.device=cuda",
            "Set it to the GPUs of one node.",
        )
    if cluster.gpus_per_node % cluster.tensor_parallel:
        raise ConfigError(
            "cluster.tensor_parallel",
            cluster.tensor_parallel,
            f"a divisor of cluster.gpus_per_node={cluster.gpus_per_node}",
            "An engine never spans nodes.",
        )
    needed = cluster.policy_workers + cluster.rollout_replicas * cluster.tensor_parallel
    if cluster.layout == "colocated":
        _check_colocated(cluster, total)
    elif needed > total:
        raise ConfigError(
            "cluster.policy_workers",
            cluster.policy_workers,
            f"policy_workers + rollout_replicas * tensor_parallel <= {total}, not {needed}",
            "Use fewer workers, more GPUs, or cluster.layout=colocated.",
        )


def _check_colocated(cluster: ClusterConfig, total: int) -> None:
    """Policy and engine on every GPU, each away while the other is at work."""
    for key, value, reason in (
        ("tensor_parallel", 1, "There an engine has the one GPU of a policy rank"),
        (
            "zero_stage",
            2,
            "DeepSpeed moves the states of no other stage to CPU memory while engines sample",
        ),
        (
            "offload_optimizer",
            False,
            "There the optimizer leaves with the policy while engines sample, and DeepSpeed brings "
            "both back to the GPU",
        ),
    ):
        if getattr(cluster, key) != value:
            raise ConfigError(
                f"cluster.{key}",
                getattr(cluster, key),
                f"{str(value).lower()} with cluster.layout=colocated",
                f"{reason}: set cluster.{key}={str(value).lower()}, or "
                "cluster.layout=disaggregated.",
            )
    for key in ("policy_workers", "rollout_replicas"):
        if (used := getattr(cluster, key)) != total:
            raise ConfigError(
                f"cluster.{key}",
                used,
                f"each role on all {total} GPUs if colocated, this uses {used}",
                "Set policy_workers and rollout_replicas to num_nodes * gpus_per_node.",
            )
