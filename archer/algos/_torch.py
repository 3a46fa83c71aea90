"""torch, imported at its first use.

The driver reads objective configs and must not wait seconds for torch, while losses want plain
``torch.where``. Objective files therefore say ``from archer.algos._torch import torch``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
else:

    class _LazyTorch:
        def __getattr__(self, name):
            import torch as real_torch

            return getattr(real_torch, name)

    torch = _LazyTorch()

__all__ = ["torch"]
