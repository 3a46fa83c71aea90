"""Every random choice of a run follows from its seed and from what is being chosen.

No generator is carried from one use to the next, so a resumed run, or one whose samples finish in
another order, draws the same numbers.
"""

from __future__ import annotations

import hashlib
import json


def derive_seed(run_seed: int, *parts: int | str) -> int:
    """A seed for one use, independent of those for all other uses.

    ``derive_seed(0, "rollout", step, prompt.id, index)`` seeds one response. The parts are encoded
    without ambiguity: ``("a", "bc")`` and ``("ab", "c")`` differ, and so do ``1`` and ``"1"``.
    BLAKE2b gives the same value on every machine, which ``hash()`` would not.

    Returns:
        63 bits, so that it fits a signed 64-bit integer, as vLLM's ``seed`` has to.
    """
    name = json.dumps([run_seed, *parts]).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
