"""A user's reward function as bad as can be; what it does is asked for by the response."""

import os
import signal
import sys
from pathlib import Path

from archer.types import RewardResult


def misbehave(request, marker=""):
    """A number as response is its own reward; ``marker`` is a file that remembers a death."""
    match request.response:
        case "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            while True:
                pass
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once":
            if not Path(marker).exists():
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return 1
        case "raise":
            raise LookupError("no such thing")
        case "exit":
            sys.exit()
        case "nan":
            return float("nan")
        case "text":
            return "1.0"
        case "memory":
            return len(bytearray(3 << 30))
        case "pid":
            return os.getpid()
        case "environment":
            return float("SECRET_TOKEN" in os.environ)
        case "result":
            return RewardResult(0.25, correct=True, status="ok", detail="fine")
    return float(request.response)
