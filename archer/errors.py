"""The errors that end a run with one readable message instead of a traceback."""


class ConfigError(ValueError):
    """Something the user can set is wrong. Raised on the driver before any actor starts.

    Args:
        key: dotted config key or the file concerned, e.g. ``trainer.group_size``.
        value: the offending value, shown with ``repr``.
        expected: what would have been accepted.
        mend: what to do about it, as an instruction.
    """

    def __init__(self, key: str, value: object, expected: str, mend: str):
        self.key, self.value, self.expected, self.mend = key, value, expected, mend
        super().__init__(key, value, expected, mend)  # so that it survives the way from a worker

    def __str__(self) -> str:
        return f"{self.key}={self.value!r}: expected {self.expected}. {self.mend}"


class CheckpointError(ConfigError):
    """A checkpoint is torn, foreign, or belongs to a different run."""


class RunError(RuntimeError):
    """The run cannot go on, for a reason the message explains: no traceback is shown."""


class WeightSyncError(RunError):
    """Rollout engines do not hold the weights the trainer sent."""


class LedgerError(AssertionError):
    """A sample was lost or counted twice: a bug in the collector, never a user's mistake."""
