"""RolloutWorker: one vLLM engine behind the streaming protocol of pool.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from archer.errors import RunError
from archer.types import Completion, SampleRequest


@dataclass(frozen=True)
class RolloutSpec:
    """Everything an engine needs to start."""

    model_path: str
    device: str
    dtype: Literal["float32", "bfloat16"]
    max_model_len: int
    max_num_seqs: int
    tensor_parallel: int
    kv_cache_bytes: int | None
    gpu_memory_utilization: float
    weight_transfer: str
    """Backend of vLLM's weight-transfer API: ``shm`` (ours, CPU), ``ipc`` or ``nccl``."""
    enable_sleep: bool
    eos_token_ids: tuple[int, ...]
    trust_remote_code: bool
    seed: int


class RolloutWorker:
    """A Ray async actor. Token ids in, token ids out: nothing is ever tokenised twice."""

    def __init__(self, spec: RolloutSpec):
        self.spec = spec
        self._engine: Any = None
        self._starting = asyncio.Lock()
        self._is_updating = False
        self._tasks: dict[str, asyncio.Task] = {}
        self._aborted: set[str] = set()
        self._finished: list[tuple[str, Completion]] = []
        self._failures: list[RunError] = []
        self._any_finished = asyncio.Event()

    async def ready(self) -> dict[str, Any]:
        """Start the engine if need be; returns what the log shows as proof of what runs."""
        import vllm

        async with self._starting:
            if self._engine is None:
                self._engine = _start_engine(self.spec)
        if self._engine.errored:
            os._exit(1)  # died while idle; see _run
        return {
            "pid": os.getpid(),
            "engine": f"vllm {vllm.__version__} AsyncLLM",
            "device": self.spec.device,
        }

    async def submit(self, requests: list[SampleRequest]) -> None:
        for request in requests:
            self._tasks[request.id] = asyncio.create_task(self._run(request))

    async def next_finished(self) -> list[tuple[str, Completion]]:
        """Wait for at least one completion, then return all that came since the last call.

        Raises:
            RunError: the engine did not take a request.
        """
        await self._any_finished.wait()
        if self._failures:
            raise self._failures.pop(0)
        self._any_finished.clear()
        finished, self._finished = self._finished, []
        return finished

    async def abort(self, ids: list[str]) -> None:
        """Give up requests. Each still comes back once, with the tokens it has."""
        ids = [id for id in ids if id in self._tasks]
        # The engine does not know the requests whose tasks have not run yet: those look here.
        self._aborted.update(ids)
        await self._engine.abort(ids)

    async def _run(self, request: SampleRequest) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            completion = await self._complete(request)
            self._finished.append((request.id, completion))
        except EngineDeadError:
            # The engine process died under us. This actor cannot heal it: exit, so that the pool
            # sees a death, starts a new actor and re-queues what was in flight.
            os._exit(1)
        except Exception as error:
            self._failures.append(
                RunError(f"Request {request.id}: {type(error).__name__}: {error}")
            )
        finally:
            self._tasks.pop(request.id, None)
            self._aborted.discard(request.id)
            self._any_finished.set()

    async def _complete(self, request: SampleRequest) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop_token_ids=list(self.spec.eos_token_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": request.prompt_tokens.tolist()}
        output = None
        if request.id not in self._aborted:
            output = await _last(self._engine.generate(prompt, params, request.id))
        return _completion(request.id, output)

    async def echo(self, tokens: list[int]) -> np.ndarray:
        """Log-probabilities the engine gives to ``tokens[1:]``, at temperature 1: float32 [n-1]."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        prompt = {"prompt_token_ids": tokens}
        output = await _last(self._engine.generate(prompt, params, f"echo-{os.urandom(4).hex()}"))
        assert output is not None
        positions = output.prompt_logprobs[1:]
        return np.array(
            [p[t].logprob for p, t in zip(positions, tokens[1:], strict=True)], dtype=np.float32
        )

    async def fingerprint(self) -> int:
        """Fingerprint of the weights the engine holds, to compare with the trainer's."""
        from archer.workers import fingerprint

        return fingerprint.merged(await self._engine.collective_rpc("weight_fingerprints"))

    async def commit_version(self, version: int) -> None:
        """Adopt a version: the prefix cache still holds keys and values of the old weights."""
        if not await self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM refused to reset its prefix cache: requests are still running")
        await self._engine.update_weight_version(str(version))

    async def sleep(self) -> None:
        """Free the GPU memory of weights and KV cache."""
        await self._engine.sleep(level=1)

    async def wake(self, tags: list[str]) -> None:
        await self._engine.wake_up(tags)

    # The next four are the control plane of vLLM's weight-transfer API (weight_sync.RolloutClient
    # calls them).
    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        if self._is_updating:
            # A trainer died in the middle of an update: end it, or every later one is refused. What
            # was loaded is overwritten by the push that follows.
            with contextlib.suppress(Exception):
                await self.finish_weight_update()
        await self._engine.init_weight_transfer_engine(
            WeightTransferInitRequest(init_info=init_info)
        )

    async def start_weight_update(self) -> None:
        await self._engine.start_weight_update()
        self._is_updating = True

    async def update_weights(self, update_info: Any) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._engine.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    async def finish_weight_update(self) -> None:
        self._is_updating = False
        await self._engine.finish_weight_update()


def _start_engine(spec: RolloutSpec) -> Any:
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from archer.workers.vllm_process import OneRankExecutor, RanksExecutor

    on_cpu = spec.device == "cpu"
    options: dict[str, Any] = {}
    if spec.kv_cache_bytes is not None:
        options["kv_cache_memory_bytes"] = spec.kv_cache_bytes
    if on_cpu:
        # The default CPU block of 128 tokens is longer than many a prompt: nothing is shared.
        options["block_size"] = 32
    else:
        options |= {
            "gpu_memory_utilization": spec.gpu_memory_utilization,
            "enable_sleep_mode": spec.enable_sleep,
        }
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=spec.model_path,
            skip_tokenizer_init=True,
            dtype=spec.dtype,
            max_model_len=spec.max_model_len,
            max_num_seqs=spec.max_num_seqs,
            # One prompt always fits one step; only many at once are cut.
            max_num_batched_tokens=max(8192, spec.max_model_len),
            tensor_parallel_size=spec.tensor_parallel,
            distributed_executor_backend=(
                OneRankExecutor if spec.tensor_parallel == 1 else RanksExecutor
            ),
            enforce_eager=on_cpu,
            enable_prefix_caching=True,
            # After temperature, so that they are the log-probs the tokens were drawn from.
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            weight_transfer_config=WeightTransferConfig(backend=spec.weight_transfer),
            worker_extension_cls="archer.workers.vllm_worker.WorkerExtension",
            trust_remote_code=spec.trust_remote_code,
            seed=spec.seed,
            disable_log_stats=True,
            **options,
        )
    )


async def _last(outputs: AsyncIterator[Any]) -> Any:
    """The last of vLLM's outputs of a request, which holds them all; ``None`` if there was none."""
    last = None
    async for output in outputs:
        last = output
    return last


def _completion(request_id: str, output: Any) -> Completion:
    """vLLM's ``RequestOutput`` as ours; ``None`` means aborted before the first token."""
    if output is None or not output.outputs:
        empty = np.zeros(0)
        return Completion(request_id, empty.astype(np.int32), empty.astype(np.float32), "abort", -1)
    best = output.outputs[0]
    tokens = np.array(best.token_ids, dtype=np.int32)
    logprobs = np.array(
        [
            step[token].logprob
            for step, token in zip(best.logprobs or [], best.token_ids, strict=False)
        ],
        dtype=np.float32,
    )
    reason = best.finish_reason if best.finish_reason in ("stop", "length") else "abort"
    spans = best.weight_versions or []
    version = int(spans[0].version) if spans and str(spans[0].version).isdigit() else -1
    return Completion(request_id, tokens, logprobs, reason, version)
