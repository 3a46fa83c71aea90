"""The check ``hub``: whether what a run takes from it is here, or can be fetched."""

from __future__ import annotations

from pathlib import Path

from archer.config.keys import TrainConfig
from archer.data.prepared import prepared_rows
from archer.diagnosis.finding import Diagnosis, Line
from archer.errors import ConfigError

HUB_TIMEOUT_S = 5.0


def check_hub(config: TrainConfig) -> Diagnosis:
    """Whether what the run takes from the hub is here, or can be fetched."""
    import httpx
    from huggingface_hub import constants, get_token

    needed = _missing_from_cache(config)
    token = "with a token" if get_token() else "without a token"
    if constants.HF_HUB_OFFLINE:
        if not needed:
            return Diagnosis((Line("ok", "offline by HF_HUB_OFFLINE; the run needs nothing"),))
        mend = "Unset HF_HUB_OFFLINE, or fetch them first: hf download, archer.prepare."
        return Diagnosis((Line("fail", f"offline, and not here: {', '.join(needed)}", mend),))
    headers = {"Authorization": f"Bearer {get_token()}"} if get_token() else {}
    lines = []
    for name in needed or [""]:
        url = f"{constants.ENDPOINT}/api/{name}" if name else constants.ENDPOINT
        try:
            code = httpx.head(
                url, headers=headers, timeout=HUB_TIMEOUT_S, follow_redirects=True
            ).status_code
        except httpx.HTTPError as error:
            reason = f"{constants.ENDPOINT} does not answer: {error or type(error).__name__}"
            if not needed:
                return Diagnosis((Line("ok", f"{reason}; the run needs nothing from it"),))
            mend = (
                "Check network and proxy; set HF_ENDPOINT to a mirror; or fetch elsewhere and give "
                "folders: model.path, data.sets.<set>.sources.<source>.folder."
            )
            return Diagnosis((Line("fail", f"{reason}; needed: {', '.join(needed)}", mend),))
        lines.append(_hub_answer(constants.ENDPOINT, name, code, token))
    return Diagnosis(tuple(lines))


def _hub_answer(endpoint: str, name: str, code: int, token: str) -> Line:
    if code < 400:
        return Line("ok", f"{endpoint} answers, {token}{name and f', has {name}'}")
    mends = {
        401: "It is private, gated or not there: check the name, then `hf auth login` or HF_TOKEN.",
        403: "Your token may not read it: accept its licence on its page.",
        404: "Check the name.",
    }
    mend = mends.get(code, "Try again later, or set HF_ENDPOINT to a mirror.")
    return Line("fail" if name else "warning", f"{endpoint} says {code} for {name or '/'}", mend)


def _missing_from_cache(config: TrainConfig) -> list[str]:
    """What has to come from the hub: ``models/<id>`` and ``datasets/<id>``."""
    from huggingface_hub import try_to_load_from_cache

    needed = []
    path = config.model.path
    if (
        path is not None
        and not Path(path).expanduser().is_dir()
        and not isinstance(try_to_load_from_cache(path, "config.json"), str)
    ):
        needed.append(f"models/{path}")
    cache = Path(config.run.cache).expanduser()
    for name, recipe in config.data.sets.items():
        try:
            prepared_rows([name], config.data.sets, cache)
        except ConfigError:
            needed += [
                f"datasets/{source.hub}"
                for source in recipe.sources.values()
                if source.hub is not None and source.folder is None
            ]
    return list(dict.fromkeys(needed))
