"""What archer adds to vLLM's workers. vLLM imports it before the model is built."""

from __future__ import annotations

import importlib

from vllm.platforms import current_platform

from archer.workers.fingerprint import of_model

if current_platform.is_cpu():
    importlib.import_module("archer.workers.vllm_cpu")  # repairs vLLM as it is imported


class WorkerExtension:
    """Named by ``worker_extension_cls`` and mixed into every worker."""

    def weight_fingerprints(self) -> dict[str, int]:
        """Fingerprint of each parameter that this tensor-parallel rank holds."""
        return of_model(self.get_model())  # type: ignore[attr-defined]
