"""What can be wrong with the reward of a run or of ``archer.score``, found before it starts."""

from __future__ import annotations

from archer.config.keys import RewardConfig
from archer.errors import ConfigError
from archer.rewards import resolve_reward
from archer.rewards.pool.processes import passed_variables


def check_reward(config: RewardConfig) -> list[str]:
    """The reward function, its variables, what it calls and, if it runs programs, the sandbox.

    Returns:
        Warnings for the user.

    Raises:
        ConfigError: responses cannot be judged here; says why and how to mend it.
    """
    reward = resolve_reward(config.name, config.args)
    _check_limit("reward.timeout_s", config.timeout_s, reward.least_timeout_s(None))
    for source, limit_s in config.source_timeout_s.items():
        key = f"reward.source_timeout_s.{source}"
        try:
            least_s = reward.least_timeout_s(source)
        except ValueError as error:
            mend = f"Fix its name, or remove it: {error}."
            raise ConfigError(key, limit_s, "a data source that is judged", mend) from error
        _check_limit(key, limit_s, least_s)
    passed_variables(config.env)
    if reward.check_setup is not None:
        reward.check_setup(config.env, **config.args)
    if not reward.uses_sandbox(config.args):
        return []
    from archer.rewards.sandbox.probe import check_sandbox

    report = check_sandbox(config.sandbox)
    return [f"warning: {report.warning}"] if report.warning else []


def _check_limit(key: str, limit_s: float, least_s: float) -> None:
    if limit_s < least_s:
        raise ConfigError(
            key,
            limit_s,
            f"at least {least_s:g}, as one test may take that long",
            "Raise it, or lower time_limit_s of the code reward.",
        )
