"""vLLM's executors in an engine process that ends with its actor.

vLLM's engine process does not watch its parent: after a kill it may hold its GPU memory for half a
minute or longer. The executor is the first of our code that runs in it, before any memory is taken.
"""

from __future__ import annotations

import multiprocessing

from vllm.config import VllmConfig
from vllm.v1.executor.abstract import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from archer.runtime.lifetime import die_with


class _EndsWithActor(Executor):
    def __init__(self, vllm_config: VllmConfig):
        actor = multiprocessing.parent_process()
        assert actor is not None and actor.pid is not None, "vLLM starts its engine as a process"
        die_with(actor.pid)
        super().__init__(vllm_config)


class OneRankExecutor(_EndsWithActor, UniProcExecutor):
    """The model in the engine process itself. A class, because on a CPU vLLM makes "uni" "mp"."""


class RanksExecutor(_EndsWithActor, MultiprocExecutor):
    """Tensor parallel: a process for each rank, which by vLLM's doing ends with the engine's."""
