"""What the workers of a run hold in memory, from the sizes of its model and its config.

An account of what this code and the libraries under it allocate, term by term; nothing is fitted.
``benchmarks/plan_memory.py`` compares it with what processes really take. Sizes are bytes.

In expressions ``w`` is the size of a number in the compute type.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import ceil

from archer.config.keys import CommonConfig, LoraConfig, ShapeConfig, TrainConfig

GIB = 2**30
WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of a number, by ``cluster.dtype``."""
HEAD_CHUNK = 1024
"""Rows of logits alive at a time: the default of ``algos.logprobs.chunked_logprobs``."""
REDUCE_BUCKET = 500_000_000
"""Elements of the buffer in which DeepSpeed collects gradients, ``reduce_bucket_size``."""
LIVE_PARAMETERS = 1_050_000_000
"""Parameters that ZeRO-3 keeps gathered: ``stage3_max_live_parameters`` and a prefetch bucket."""
LARGE_BLOCK = 32 * 2**20
"""Blocks from this size on glibc returns when they are freed: the largest ``M_MMAP_THRESHOLD``."""
SEND_BUFFERS = {"nccl": 2 * GIB, "ipc": GIB, "shm": 0}
"""Least size of vLLM's buffers of packed weights, by transport; shared memory is counted apart."""

CUDA_CONTEXT = 0.6 * GIB
"""Assumed, of each process on a GPU: the CUDA context with the kernels of PyTorch."""
NCCL = 0.8 * GIB
"""Assumed, of each ZeRO rank among several: NCCL's channels."""
CUDA_GRAPHS = 1.0 * GIB
"""Assumed, of a vLLM engine: its CUDA graphs."""
ASLEEP = 1.0 * GIB
"""Assumed, of a sleeping vLLM engine: what its sleep mode does not free, beside the context."""
CPU_PROCESS = {"rank": 0.6 * GIB, "engine": 1.4 * GIB, "other": 0.8 * GIB}
"""Resident memory of imports on a CPU: a rank, an engine with its core process, and Ray, driver and
verifiers together. Measured, see docs/plan.md."""
GPU_PROCESS = 3.0 * GIB
"""Assumed, of each process on a GPU: its CPU memory, mostly CUDA libraries."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process holds at one moment, by what they are for."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    """Master weights and Adam's two moments."""
    activations: float = 0.0
    kv_cache: float = 0.0
    buffers: float = 0.0
    """Of reductions, the optimizer step and the weight sync."""
    runtime: float = 0.0
    """Of the process itself: CUDA context, libraries, graphs."""

    @property
    def total(self) -> float:
        """All terms, in bytes."""
        return sum(asdict(self).values())

    def times(self, count: float) -> Footprint:
        """That of several such processes."""
        return Footprint(**{term: count * size for term, size in asdict(self).items()})


def largest(moments: dict[str, Footprint]) -> Footprint:
    """The moment that takes the most."""
    return max(moments.values(), key=lambda footprint: footprint.total)


def head_parameters(shape: ShapeConfig) -> int:
    """Of the head, or as many of the embedding."""
    return shape.vocab_size * shape.hidden_size


def linear_layers(shape: ShapeConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear layers of one decoder layer."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def layer_parameters(shape: ShapeConfig) -> int:
    """Of one decoder layer, without biases."""
    norms = 2 * shape.hidden_size + 2 * shape.head_dim * shape.qk_norm
    return sum(a * b for a, b in linear_layers(shape).values()) + norms


def num_parameters(shape: ShapeConfig) -> int:
    """Of the whole model; a tied head counts once."""
    embeddings = head_parameters(shape) * (1 if shape.tie_embeddings else 2)
    return shape.num_layers * layer_parameters(shape) + embeddings + shape.hidden_size


def lora_parameters(shape: ShapeConfig, lora: LoraConfig) -> int:
    """Of the low-rank updates."""
    layers = linear_layers(shape)
    adapted = lora.targets or list(layers)
    return shape.num_layers * sum(lora.rank * sum(layers[n]) for n in adapted if n in layers)


def kv_bytes_per_token(shape: ShapeConfig, width: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * width


class ZeroRank:
    """One DeepSpeed rank of a role: what it holds, moment by moment.

    Args:
        role: one of ``machine.zero_roles``. A ``reference`` is frozen, a ``critic`` has no head
            over the vocabulary.
    """

    def __init__(self, config: TrainConfig, shape: ShapeConfig, role: str = "policy"):
        cluster = config.cluster
        self.config, self.cluster, self.shape, self.role = config, cluster, shape, role
        self.on_gpu = cluster.device == "cuda"
        self.width = WIDTH[cluster.dtype]
        self.ranks = cluster.policy_workers
        is_frozen = role == "reference"
        # As zero.build_engine chooses it.
        self.stage = cluster.zero_stage if cluster.zero_stage == 3 or not is_frozen else 0
        self.num_parameters = num_parameters(shape)
        self.num_trained = 0 if is_frozen else self.num_parameters
        lora = config.model.lora if role == "policy" else None
        self.has_adapters = lora is not None
        if lora is not None:
            self.num_trained = lora_parameters(shape, lora)
            self.num_parameters += self.num_trained
        if role == "critic":
            trunk = shape.num_layers * layer_parameters(shape) + head_parameters(shape)
            self.num_trained = self.num_parameters = trunk
        trainer = config.trainer
        share = trainer.mini_batch_prompts * trainer.group_size * config.max_sequence_tokens
        share = ceil(share / self.ranks)
        self.tokens = min(trainer.micro_batch_tokens, share)
        self.has_many_pieces = share > trainer.micro_batch_tokens

    @property
    def runtime(self) -> float:
        """Bytes of the process without a model."""
        if not self.on_gpu:
            return CPU_PROCESS["rank"]
        return CUDA_CONTEXT + (NCCL if self.ranks > 1 else 0)

    def states(self) -> Footprint:
        """What is held at all times: weights and, unless it is offloaded, the optimizer."""
        size = self.num_parameters * self.width
        if self.stage == 3:
            size = size / self.ranks + min(size, LIVE_PARAMETERS * self.width)
        return Footprint(weights=size, optimizer=self._optimizer(), runtime=self.runtime)

    def _optimizer(self) -> float:
        if self.on_gpu and self.cluster.offload_optimizer:
            return 0.0
        return self.optimizer_bytes()

    def optimizer_bytes(self) -> float:
        """Adam's moments and, where ZeRO partitions them, float32 master weights."""
        if self.stage == 0:
            return 8 * self.num_trained
        return 12 * self.num_trained / self.ranks

    def forward(self) -> Footprint:
        """A pass without gradients."""
        shape, w = self.shape, self.width
        layer = w * (2 * shape.hidden_size + 3 * shape.intermediate_size) * self.tokens
        head = w * shape.hidden_size * self.tokens + self._head_chunk(is_backward=False)
        activations = max(layer + self._attention(), head)
        return replace(self.states(), activations=activations, buffers=self._kept_bucket())

    def update(self) -> dict[str, Footprint]:
        """The moments of an optimizer step that can take the most."""
        states = self.states()
        held = self._accumulated()
        saved = self._saved()
        head_gradient = self._head_gradient()
        return {
            "head": replace(
                states,
                gradients=held + head_gradient,
                activations=saved + self._head_chunk(is_backward=True),
                buffers=self._kept_bucket(),
            ),
            "backward": replace(
                states,
                gradients=held + head_gradient * self.width / (4 + self.width),
                activations=saved + self._layer_work() + self._attention(),
                buffers=self._bucket() if self.on_gpu else self._kept_bucket(),
            ),
            "reduce": replace(states, gradients=held, buffers=self._bucket() + self._reduction()),
            "step": self._step(),
        }

    def peak(self) -> Footprint:
        """The largest footprint of all moments."""
        if not self.num_trained:
            return self.forward()
        return largest({"forward": self.forward(), **self.update()})

    def resident(self) -> Footprint:
        """``peak`` of a process on a CPU, where glibc keeps freed blocks that are not large.

        What activations took, and gradients that waited one by one, is still there in the step.
        """
        if not self.num_trained:
            return self.peak()
        is_small = self.tokens * self.width * self.shape.intermediate_size < LARGE_BLOCK
        kept = (self._saved() + self._layer_work()) * is_small
        if self.stage < 2:
            kept += self.width * self.num_trained
        moments = self.update()
        after = {name: replace(moments[name], activations=kept) for name in ("reduce", "step")}
        return largest({"forward": self.forward()} | moments | after)

    def _accumulated(self) -> float:
        """Gradients that wait for the next micro-batch."""
        if self.stage == 3:
            is_elsewhere = self.on_gpu and self.cluster.offload_optimizer
            return 0.0 if is_elsewhere else 4 * self.num_trained / self.ranks
        if not self.has_many_pieces:
            return 0.0
        if self.stage == 2:
            return 4 * self.num_trained / self.ranks
        return self.width * self.num_trained

    def _bucket(self) -> float:
        """The buffer that gradients are collected in; on a CPU only touched pages count."""
        if self.stage == 0:
            return 0.0 if self.has_many_pieces else self.width * self.num_trained
        elements = REDUCE_BUCKET if self.on_gpu else min(REDUCE_BUCKET, self.num_trained)
        return self.width * elements

    def _kept_bucket(self) -> float:
        """ZeRO-3 keeps its bucket; the other stages get a new one in every backward pass."""
        return self._bucket() if self.stage == 3 and self.num_trained else 0.0

    def _reduction(self) -> float:
        """A flat copy of the bucket goes around; then the own part is copied out of it."""
        if self.stage == 0:
            return 0.0 if self.ranks == 1 else self.width * min(REDUCE_BUCKET, self.num_trained)
        flat = self.width * min(REDUCE_BUCKET, self.num_trained)
        own = 0.0 if self.width == 2 else 4 * self.num_trained / self.ranks
        return max(flat, own)

    def _step(self) -> Footprint:
        """The optimizer step over flat float32 partitions."""
        states = self.states()
        if self.on_gpu and self.cluster.offload_optimizer:
            return replace(states, gradients=self._accumulated(), buffers=self._kept_bucket())
        if self.stage == 0:
            largest_tensor = max(head_parameters(self.shape), self._largest_linear())
            return replace(
                states, gradients=self.width * self.num_trained, buffers=8 * largest_tensor
            )
        own = 4 * self.num_trained / self.ranks
        # In float32 the flat gradients are a copy; in bfloat16 they were accumulated flat.
        gradients = 2 * own if self.width == 4 or self.stage == 3 else own
        # Adam's temporaries: a root and a quotient on a CPU; on a GPU one, or a test for infinity.
        temporaries = 1.5 * own if self.on_gpu else 2 * own
        return replace(states, gradients=gradients, buffers=self._kept_bucket() + temporaries)

    def _largest_linear(self) -> int:
        return max(a * b for a, b in linear_layers(self.shape).values())

    def _saved(self) -> float:
        """Activations that the backward pass needs."""
        shape, w = self.shape, self.width
        last = (4 + 2 * w) * shape.hidden_size  # the last norm's; the head takes its output
        if self.config.model.gradient_checkpointing:
            layers = shape.num_layers * w * shape.hidden_size + self._saved_by_layer()
        else:
            layers = shape.num_layers * self._saved_by_layer()
        return self.tokens * (layers + last)

    def _saved_by_layer(self) -> float:
        """For one token: what autograd keeps of one decoder layer."""
        shape, w = self.shape, self.width
        queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        # A norm keeps its input in float32, the normed input and, for the next layer, its output.
        norms = 2 * (4 + 2 * w) * shape.hidden_size
        norms += shape.qk_norm * (4 + w) * (queries + keys)
        attention = w * (2 * queries + 2 * keys) + 4 * shape.num_heads
        return norms + attention + w * 4 * shape.intermediate_size

    def _layer_work(self) -> float:
        """Gradients inside the layer that is in its backward pass."""
        shape, w = self.shape, self.width
        return self.tokens * w * (2 * shape.intermediate_size + 2 * shape.hidden_size)

    def _attention(self) -> float:
        """Masks: without variable-length attention packed sequences need one of T x T."""
        if self.cluster.packing == "packed" and self.config.model.attention != "varlen":
            return (3 + self.width) * self.tokens**2
        return 0.0

    def _head_chunk(self, *, is_backward: bool) -> float:
        """Logits of one chunk with their temporaries."""
        if self.role == "critic":
            return 0.0
        logits = min(HEAD_CHUNK, self.tokens) * self.shape.vocab_size
        return logits * (8 + (self.width if is_backward and self.width == 2 else 0))

    def _head_gradient(self) -> float:
        """Summed over chunks in float32, beside one chunk's."""
        if self.role == "critic" or self.has_adapters:
            return 0.0
        return (4 + self.width) * head_parameters(self.shape)


@dataclass(frozen=True)
class Engine:
    """Bytes that a vLLM engine holds on one GPU, or in its CPU process."""

    weights: float
    activations: float
    runtime: float
    kv_cache: float
    """What is left for it; below 0 where nothing is."""
    full_sequences: float
    """Sequences of full length that the cache holds at once."""

    @property
    def awake(self) -> Footprint:
        """While it samples."""
        return Footprint(
            weights=self.weights,
            activations=self.activations,
            kv_cache=max(0.0, self.kv_cache),
            runtime=self.runtime,
        )


def engine(config: CommonConfig, shape: ShapeConfig, gpu_bytes: float | None) -> Engine:
    """Memory of one engine.

    Args:
        gpu_bytes: of one GPU; unused on a CPU.
    """
    cluster = config.cluster
    width, length = WIDTH[cluster.dtype], config.max_sequence_tokens
    weights = num_parameters(shape) * width / cluster.tensor_parallel
    batched = max(8192, length)  # as workers/rollout.py sets it
    activations = (
        width
        * batched
        * (3 * shape.intermediate_size / cluster.tensor_parallel + 4 * shape.hidden_size)
    )
    activations = max(activations, 12 * cluster.max_num_seqs * shape.vocab_size)
    per_token = kv_bytes_per_token(shape, width) / cluster.tensor_parallel
    if cluster.device == "cpu":
        runtime, activations = CPU_PROCESS["engine"], 0.0
    else:
        runtime = CUDA_CONTEXT + CUDA_GRAPHS + (NCCL if cluster.tensor_parallel > 1 else 0)
    if cluster.kv_cache_bytes is not None:
        kv_cache = float(cluster.kv_cache_bytes)
    else:
        budget = cluster.gpu_memory_utilization * (gpu_bytes or 0.0)
        kv_cache = budget - weights - activations - runtime
    return Engine(weights, activations, runtime, kv_cache, max(0.0, kv_cache / per_token / length))
