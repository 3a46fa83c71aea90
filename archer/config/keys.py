"""The typed configuration. Every key of training, its default and its meaning stand here and
nowhere else, but those of ``data``, in ``data/config.py``. Commands beside it declare the keys
that are theirs alone.

Hydra composes ``conf/``; ``load_config`` is the only door from YAML to these frozen objects.
Unknown keys and wrong types are refused with the key, the value, what was expected and how to mend
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field

from archer.config.checks import check_common, check_training
from archer.config.schema import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    store_defaults,
    validate,
)
from archer.data.config import DataConfig
from archer.errors import ConfigError


class CosineLengthConfig(Section):
    """Rewards [start, end] of an empty response and of one that fills the limit, with half a cosine
    between them."""

    right: Annotated[tuple[float, float], Field(strict=False)] = (2.0, 1.0)
    """Of right responses: shorter is better."""
    wrong: Annotated[tuple[float, float], Field(strict=False)] = (-10.0, 0.0)
    """Of wrong ones: longer is better. `truncated_penalty: 10` is the paper's penalty of a cut
    response, which counts as wrong."""


class ShapingConfig(Section):
    """What is added to a response's verdict before advantages are computed. All off by default."""

    scale: float = 1.0
    """The verdict is multiplied by this first; 2 with `offset: -1` turns 0 and 1 into -1 and 1."""
    offset: float = 0.0
    overlong_buffer: NonNegativeInt = 0
    """DAPO's soft length penalty: the reward falls linearly over the last so many tokens. 0 is
    off."""
    overlong_factor: NonNegativeFloat = 1.0
    """The penalty of a response that fills the limit."""
    truncated_penalty: NonNegativeFloat = 0.0
    """Taken off the reward of a response cut by the length limit."""
    no_answer_penalty: NonNegativeFloat = 0.0
    """Taken off the reward of a response in which no answer was found."""
    repetition_penalty: NonNegativeFloat = 0.0
    """Taken off in proportion to the share of repeated n-grams (after arXiv 2502.03373)."""
    repetition_ngram: PositiveInt = 40
    """Tokens of such an n-gram."""
    cosine_length: CosineLengthConfig | None = None
    """In place of the scaled verdict, a reward that depends on the length (arXiv 2502.03373);
    `{}` turns it on."""

    @property
    def active(self) -> list[str]:
        """The keys that make a reward differ from its verdict."""
        inert = {"overlong_factor", "repetition_ngram"}  # only together with others
        defaults = ShapingConfig()
        return [
            key
            for key in type(self).model_fields
            if key not in inert and getattr(self, key) != getattr(defaults, key)
        ]


class CriticConfig(Section):
    """The value model of `advantage: gae`, a second network of the policy's size."""

    learning_rate: PositiveFloat | None = None
    """Empty means 10 times `optimizer.learning_rate`."""
    clip: PositiveFloat | None = 0.5
    """A value may move so far from the one before the update; empty for no bound. Of several heads
    only the mean before the update is known, so that they need it empty."""
    num_heads: PositiveInt = 1
    """Value heads on one trunk; their mean is the value."""
    head_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a mini-batch's responses that each head learns from."""
    warmup_steps: NonNegativeInt = 10
    """Rollout steps in which the critic learns and the policy does not. The warm-up of
    `optimizer.warmup_steps` begins after them for the policy, with them for the critic."""


class RehearsalConfig(Section):
    """Stored right answers of the start model that enter every mini-batch."""

    prompts: PositiveInt = 256
    """Training prompts sampled with the start model when the run begins; those that it always
    solves are rehearsed, the others are trained on."""
    samples: PositiveInt = 8
    """Responses to each of them, all of which must be right."""
    responses_per_step: PositiveInt = 32
    """Stored responses in one rollout step."""


class AlgoConfig(Section):
    """What is optimised. `algo=archer` and its siblings in `conf/algo/` fill this section.

    Plug-ins are chosen by name or by the dotted path of your own; docs/algorithms.md lists them
    with their parameters.
    """

    name: str
    """Objective: a name in `archer.algos.OBJECTIVES`, or the dotted path of your own
    `Objective`."""
    loss: dict[str, Any] = Field(default={})
    """Parameters of the objective."""
    advantage: str = "grpo"
    """Advantage estimator: a name in `archer.algos.ADVANTAGES`."""
    advantage_args: dict[str, Any] = Field(default={})
    """Parameters of the advantage estimator."""
    bonus: str = "none"
    """Exploration bonus on rewards or advantages: a name in `archer.algos.BONUSES`."""
    bonus_args: dict[str, Any] = Field(default={})
    """Parameters of the bonus."""
    correction: str = "none"
    """Weights against the mismatch of engine and trainer: a name in `archer.algos.CORRECTIONS`."""
    correction_args: dict[str, Any] = Field(default={})
    """Parameters of the correction."""
    aggregation: str = "token-mean"
    """How per-token losses become one number: a name in `archer.algos.AGGREGATIONS`."""
    old_logprobs: Literal["trainer", "rollout"] = "trainer"
    """Log-probs before the update: computed again by the trainer, or those of the rollout engine
    (bypass mode: no extra pass, and the mismatch of the two is inside the ratio)."""
    kl_in_reward: NonNegativeFloat = 0.0
    """Coefficient of a penalty old_logprobs - ref_logprobs on each token's reward."""
    shaping: ShapingConfig = ShapingConfig()
    reject_uniform: bool = False
    """Drop groups whose verdicts are all right or all wrong (DAPO, arXiv 2503.14476)."""
    greedy_fail_only: bool = False
    """Drop prompts that the policy solves by greedy decoding (SELF, arXiv 2510.02230)."""
    pass_rate: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.0, 1.0)
    """Drop groups whose share of right responses lies outside this range."""
    max_rounds: PositiveInt = 10
    """Dynamic sampling: with one of the three filters above, sample at most this many times
    `prompts_per_step` prompts to fill a batch. 1 means no refill: train on the groups that
    survive."""
    on_exhausted: Literal["train", "stop"] = "train"
    """When `max_rounds` are not enough: train on the groups there are, or stop the run."""
    overlong: Literal["keep", "mask", "drop"] = "keep"
    """Responses cut by the length limit: `mask` keeps them in the group statistics, out of the loss
    (DAPO); `drop` takes them out of both."""
    critic: CriticConfig | None = None
    """Needed by `advantage: gae`."""
    rehearsal: RehearsalConfig | None = None
    """Needed by `name: dph_rl`."""

    @property
    def filters_groups(self) -> bool:
        return self.reject_uniform or self.greedy_fail_only or self.pass_rate != (0.0, 1.0)


class WarmStartConfig(Section):
    """Builds a small model by supervised training on an embedded task, for `model=tiny`."""

    task: Literal["arithmetic", "list_programs"] = "arithmetic"
    """Embedded task whose worked answers the model learns; the run itself may use other data."""
    steps: PositiveInt = 1200
    """Optimizer steps of `batch_size` fresh traces each."""
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 3e-3
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 2
    tie_embeddings: bool = True
    seed: int = 0
    """Seed of the initial weights and of the traces; the run's `seed` does not change the start
    model."""


class LoraConfig(Section):
    """Train low-rank updates of the linear layers in place of the weights (arXiv 2106.09685)."""

    rank: PositiveInt = 32
    alpha: PositiveFloat = 64.0
    """The update is scaled by `alpha / rank`."""
    targets: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the layers that get one, such as `q_proj`; empty takes every linear layer but the
    head."""


class ShapeConfig(Section):
    """The sizes of a decoder with gated MLPs (Qwen2, Qwen3, Llama), as its `config.json` has them.

    Presets of hub models give them, so that `python -m archer.plan` needs no download.
    """

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    max_position: PositiveInt
    """Longest sequence in tokens."""
    tie_embeddings: bool = False
    qk_norm: bool = False
    """Norms over the queries and keys of each head (Qwen3)."""


class ModelConfig(Section):
    """The policy's starting point."""

    name: str
    """Short name, used for the run directory."""
    path: str | None = None
    """Hugging Face folder or hub id. Empty with `warm_start`, which builds the model at first
    use."""
    warm_start: WarmStartConfig | None = None
    attention: Literal["sdpa", "varlen", "eager"] = "sdpa"
    """Attention of the trainer; vLLM brings its own. `varlen`: torch's FlashAttention-2, for packed
    sequences in bfloat16 on a GPU; the others mask them, with an entry for every two tokens."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    lora: LoraConfig | None = None
    """`{}` turns it on with its defaults."""
    shape: ShapeConfig | None = None
    """For the plan of a model that is not on this machine; its folder takes precedence."""


class SandboxConfig(Section):
    """Where programs that the model wrote run (docs/sandbox.md)."""

    level: Literal["auto", "A", "B", "remote"] = "auto"
    """Isolation below which nothing runs: `A` is namespaces by bubblewrap, `B` is Landlock without
    namespaces, `auto` the stronger that holds here. `remote` sends programs to `url`."""
    url: str | None = None
    """HTTP endpoint that runs programs, with `level=remote`."""
    allow_unsafe_code_execution: bool = False
    """Run the model's programs with the rights of this user where no level holds."""
    python: str | None = None
    """Interpreter for programs; empty means the one archer runs on."""
    python_path: list[str] = Field(default=[])
    """Folders of packages that programs may import, such as one with numpy in it."""
    memory_mb: Annotated[int, Field(ge=512)] = 2048
    """Address space of one program; `reward.num_workers` of them run at a time."""
    output_mb: PositiveInt = 16
    """Output at which a program is killed."""
    tmp_mb: PositiveInt = 16
    """Size of a program's own `/tmp`, which only level `A` has."""


class RewardConfig(Section):
    """How responses are judged."""

    name: str
    """A name of docs/rewards.md (`math`, `code`, ...) or the dotted path of your own function."""
    args: dict[str, Any] = Field(default={})
    """Keyword arguments passed to the reward function."""
    sandbox: SandboxConfig = SandboxConfig()
    bad_truths: Literal["stop", "drop"] = "stop"
    """Rows of the data whose truth the reward cannot judge by: refuse the data, or leave them out
    and count them."""
    truncated: Literal["wrong", "score"] = "wrong"
    """Responses cut by the length limit: count as wrong, or judge what is there."""
    num_workers: PositiveInt = 1
    """Verifier processes."""
    timeout_s: PositiveFloat = 8.0
    """Wall-clock limit for one response; the process is killed at the deadline."""
    source_timeout_s: dict[str, PositiveFloat] = Field(default={})
    """Data source to the limit of its responses, where `timeout_s` is not enough or too much."""
    concurrency: PositiveInt = 32
    """Responses that one verifier process judges at a time where the reward function is `async`."""
    max_concurrency: dict[str, PositiveInt] = Field(default={})
    """Data source to the most of its responses that are judged at a time; others have no limit."""
    env: list[str] = Field(default=[])
    """Environment variables that verifier processes get beside the few that all get, such as the
    one with the key of a judge's endpoint."""
    max_failure_frac: Fraction = 0.5
    """Stop the run when a larger share of a step's rewards are verifier failures."""


class ResponseConfig(Section):
    """The limit of responses in `archer.evaluate`."""

    max_response_tokens: PositiveInt | None = None
    """Empty takes the set's own in `data.sets`, or that of an embedded task."""


class SamplingConfig(ResponseConfig):
    """How training responses are sampled."""

    max_response_tokens: PositiveInt = 1024
    """Response limit, that of evaluations too; prompt limit plus this must fit the model's
    window."""
    temperature: PositiveFloat = 1.0
    """The trainer divides its logits by the same temperature."""


class OptimizerConfig(Section):
    """AdamW on the policy."""

    learning_rate: PositiveFloat = 1e-6
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    warmup_steps: NonNegativeInt = 0
    """Linear warm-up, counted in rollout steps; constant afterwards."""


class TrainerConfig(Section):
    """The batch arithmetic and the length of the run."""

    num_steps: PositiveInt = 60
    """Rollout steps; each has `epochs * prompts_per_step / mini_batch_prompts` optimizer steps."""
    prompts_per_step: PositiveInt = 16
    group_size: PositiveInt = 8
    """Responses sampled per prompt."""
    mini_batch_prompts: PositiveInt = 8
    """Prompts in one optimizer step."""
    epochs: PositiveInt = 1
    """Passes over the same rollouts."""
    reshuffle: bool = True
    """Deal the groups to new mini-batches in every epoch; `false` repeats those of the first."""
    micro_batch_tokens: PositiveInt = 8192
    """Token budget of one forward and backward on one rank. Changes speed and memory, never the
    gradient."""
    max_skipped_updates: PositiveInt = 5
    """Stop after so many non-finite optimizer steps in a row."""
    max_restarts: NonNegativeInt = 3
    """How often a run may recover by itself from a dead policy worker before it gives up."""
    dry_run: bool = False
    """Check and read everything, print the plan, and stop before any actor starts."""

    @property
    def is_on_policy(self) -> bool:
        """Whether a rollout batch is one optimizer step, so that its policy *is* the old one."""
        return self.epochs == 1 and self.mini_batch_prompts >= self.prompts_per_step


class HeldOutConfig(Section):
    """What evaluations during training and those of `archer.evaluate` share."""

    max_problems: PositiveInt | None = None
    """Use only the first so many problems of each set."""


class EvalConfig(HeldOutConfig):
    """Held-out evaluation."""

    every: NonNegativeInt = 0
    """Evaluate every so many steps; 0 means only before the first and after the last."""
    num_samples: PositiveInt = 8
    """Samples per problem, n of avg@n and pass@k."""
    temperature: NonNegativeFloat = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class Protocol(Section):
    """How one set is sampled, by `archer.evaluate`."""

    num_samples: PositiveInt = 8
    temperature: NonNegativeFloat = 1.0
    top_p: float = 1.0
    max_response_tokens: PositiveInt


class ClusterConfig(Section):
    """Machines, placement and engine settings; `conf/cluster/` has presets."""

    device: Literal["cpu", "cuda"] = "cpu"
    address: str | None = None
    """Ray cluster to join, e.g. `auto`; empty starts one on this machine."""
    num_nodes: PositiveInt = 1
    gpus_per_node: NonNegativeInt = 0
    gpu_memory_gb: PositiveFloat | None = None
    """Memory of one GPU in GiB, which the plan must fit; empty asks nvidia-smi."""
    layout: Literal["colocated", "disaggregated"] = "disaggregated"
    """`colocated`: rollout and policy share the GPUs in turn. `disaggregated`: each has its own."""
    policy_workers: PositiveInt = 1
    """ZeRO data-parallel ranks."""
    rollout_replicas: PositiveInt = 1
    """vLLM engines."""
    tensor_parallel: PositiveInt = 1
    """GPUs of one vLLM engine."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: bool = False
    """Keep the optimizer state in CPU memory (GPU only, disaggregated)."""
    offload_reference: bool = False
    """Keep the reference weights in CPU memory between passes (GPU only)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; master weights and optimizer are always float32."""
    packing: Literal["padded", "packed"] = "padded"
    """Micro-batch layout: length-sorted rows, or one row of sequences end to end (variable-length
    attention)."""
    kv_cache_bytes: PositiveInt | None = None
    """vLLM KV cache; empty lets vLLM size it from `gpu_memory_utilization`."""
    gpu_memory_utilization: Fraction = 0.85
    max_num_seqs: PositiveInt = 256
    """Sequences one engine decodes at a time."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPU share Ray reserves for each policy and rollout worker; may be fractional."""
    start_timeout_s: PositiveFloat = 600.0
    """Give up when the actors are not ready after so long."""
    sync_timeout_s: PositiveFloat = 300.0
    """Deadline for one weight sync."""
    step_timeout_s: PositiveFloat = 7200.0
    """Deadline for the rollouts or the update of one step."""


class LoggerConfig(Section):
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """`auto`: online when an API key is present, else off."""
    project: str = "archer"
    rollouts_per_step: NonNegativeInt | None = None
    """Samples kept in `rollouts/`; empty keeps all."""
    rollout_tokens: bool = True
    """Keep token ids and log-probs of the training samples too, up to 8 bytes a token, for
    `python -m archer.compare objectives`."""


class CacheConfig(Section):
    """What is kept between runs."""

    cache: str = "~/.cache/archer"
    """Where warm-started models, prepared sets and generated data are kept between runs."""


class RunConfig(CacheConfig):
    """The run directory and its checkpoints."""

    root: str = "runs"
    experiment: str = "default"
    name: str = ""
    """Run name; empty means `<algo>-<model>-<data>-seed<seed>`."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` continues from the last checkpoint in the run directory; `never` refuses a directory
    in use."""
    save_every: NonNegativeInt = 20
    """Checkpoint every so many steps; the last step is always saved. 0 saves only the last."""
    keep_checkpoints: PositiveInt = 2


class CommonConfig(Section):
    """What sampling and judging responses takes; training and evaluation share it."""

    seed: int = 0
    model: ModelConfig
    data: DataConfig
    reward: RewardConfig
    sampling: ResponseConfig = ResponseConfig()
    eval: HeldOutConfig = HeldOutConfig()
    cluster: ClusterConfig = ClusterConfig()
    run: CacheConfig = CacheConfig()

    @property
    def max_response_tokens(self) -> int:
        """Of the longest response that may be asked for."""
        raise NotImplementedError

    @property
    def max_sequence_tokens(self) -> int:
        return self.data.max_prompt_tokens + self.max_response_tokens


def set_fields(section: Section) -> dict[str, Any]:
    """Fields of a protocol that a section sets."""
    fields = section.model_dump(include=set(Protocol.model_fields))
    return {name: value for name, value in fields.items() if value is not None}


class TrainConfig(CommonConfig):
    """Everything `python -m archer.main` takes."""

    algo: AlgoConfig
    sampling: SamplingConfig = SamplingConfig()
    eval: EvalConfig = EvalConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    logger: LoggerConfig = LoggerConfig()
    run: RunConfig = RunConfig()

    @property
    def max_response_tokens(self) -> int:
        return self.sampling.max_response_tokens

    @property
    def eval_protocol(self) -> Protocol:
        """How evaluations during training sample every set."""
        return Protocol(**set_fields(self.sampling) | set_fields(self.eval))

    @property
    def run_name(self) -> str:
        return (
            self.run.name or f"{self.algo.name}-{self.model.name}-{self.data.name}-seed{self.seed}"
        )

    @property
    def run_dir(self) -> Path:
        # Absolute: workers of a Ray cluster run where it was started, not here.
        return Path(self.run.root).absolute() / self.run.experiment / self.run_name


def load_config(composed: DictConfig | dict[str, Any]) -> TrainConfig:
    """Validate a composed configuration of the training command.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    config = validate(TrainConfig, composed)
    check_common(config)
    if not config.data.has_training:
        mend = "Set data.train=FILE or choose data=arithmetic."
        if config.data.sets:
            chosen = ",".join(config.data.sets)
            mend = f"{chosen}: benchmarks only. Add one, such as data=[deepscaler,{chosen}]."
        raise ConfigError("data.train", None, "a training set, or a file of rows", mend)
    check_training(config)
    return config


store_defaults("base", TrainConfig)
