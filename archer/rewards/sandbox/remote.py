"""Programs on another machine: an HTTP endpoint in the style of SandboxFusion.

``POST {url}/run_code`` takes the source of a program and answers with its output and end
(https://bytedance.github.io/SandboxFusion). The isolation is the service's; what holds here as
well is that it never learns what is expected, that its replies are bounded, and that a reply which
makes no sense is a failure of the sandbox and not of the program.
"""

from __future__ import annotations

import http.client
import json
import math
import secrets
import signal
import ssl
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox.execution import Ending, Execution, Outcome, SandboxError

ATTEMPTS = 3
BACKOFF_S = 0.5
"""Before the second attempt; twice that before the third."""
OVERHEAD_S = 10.0
"""For the service to queue the program, start it and reply, beyond the program's own time."""
REPLY_FACTOR = 6
"""Bytes of JSON for one byte of output, when all of it is escaped as \\u0000."""
REPLY_SPARE_BYTES = 1 << 20
ERROR_CHARS = 1000

_HERE = Path(__file__).parent
_RUNNER, _COURIER = (_HERE / "inside/runner.py").read_text(), (_HERE / "courier.py").read_text()


class _Retry(Exception):
    """Worth another attempt."""


class _Address(NamedTuple):
    is_secure: bool
    host: str
    port: int | None
    path: str


class RemoteExecutor:
    """An ``Executor`` whose programs run behind ``reward.sandbox.url``.

    Args:
        config: with ``level="remote"``.

    Raises:
        ConfigError: the URL is not one.
    """

    level = "remote"

    def __init__(self, config: SandboxConfig):
        self._address = parse_url(config.url)
        self._url = config.url
        self._connection: http.client.HTTPConnection | None = None

    def run(self, execution: Execution) -> Outcome:
        """Run a program once.

        Raises:
            SandboxError: the service did not answer, or not with a reply that makes sense.
        """
        marker = secrets.token_hex(16)
        body = json.dumps(_request(execution, marker)).encode("ascii")
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                return _outcome(self._post(body, execution), execution, marker.encode())
            except (_Retry, OSError, http.client.HTTPException) as error:
                self.close()
                problem = str(error) or type(error).__name__
        raise SandboxError(f"reward.sandbox.url={self._url}: {problem}, {ATTEMPTS} times")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes, execution: Execution) -> Any:
        deadline = time.monotonic() + execution.limits.wall_s + OVERHEAD_S
        limit = REPLY_FACTOR * execution.limits.output_bytes + REPLY_SPARE_BYTES
        connection = self._connect(deadline)
        connection.request("POST", self._address.path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            reply = bytearray()
            while block := response.read1(1 << 16):
                reply += block
                if len(reply) > limit:
                    raise _Retry(f"a reply of more than {limit} bytes")
                if time.monotonic() > deadline:  # the socket's own limit is for each read
                    raise _Retry("a reply that does not end")
        if response.status != 200:
            raise _Retry(f"HTTP status {response.status}")
        try:
            return json.loads(reply)
        except (ValueError, RecursionError) as error:
            raise _Retry("a reply that is not JSON") from error

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        timeout = deadline - time.monotonic()
        if self._connection is None:
            where = self._address.host, self._address.port
            self._connection = (
                http.client.HTTPSConnection(
                    *where, timeout=timeout, context=ssl.create_default_context()
                )
                if self._address.is_secure
                else http.client.HTTPConnection(*where, timeout=timeout)
            )
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        return self._connection


def parse_url(url: str | None) -> _Address:
    """Where programs are sent.

    Raises:
        ConfigError: the URL is not one.
    """
    try:
        parts = urlsplit(url or "")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "reward.sandbox.url",
            url,
            "the address of a service with level=remote, such as http://sandbox:8080",
            "Start one and set its URL, or choose another reward.sandbox.level.",
        )
    path = parts.path.rstrip("/").removesuffix("/run_code") + "/run_code"
    return _Address(parts.scheme == "https", parts.hostname, port, path)


def _request(execution: Execution, marker: str) -> dict[str, Any]:
    """What the service is sent, all of it ASCII: to most services surrogates are no JSON."""
    stdin = execution.stdin.encode(errors="replace").decode()
    task = {**asdict(replace(execution, stdin="")), "marker": marker}
    del task["limits"]["output_bytes"]  # may tell of the expected output
    courier = _COURIER.replace("from __future__ import annotations\n", "")  # the runner's holds
    start = f"task = json.loads({json.dumps(task)!r})\ndeliver(task, lambda: run(task, prelude()))"
    return {
        "code": f"{_RUNNER}\n{courier}\n{start}\n",
        "language": "python",
        "stdin": stdin,
        "run_timeout": execution.limits.wall_s,
        "memory_limit_MB": execution.limits.memory_mb,
    }


def _outcome(reply: Any, execution: Execution, marker: bytes) -> Outcome:
    run = reply.get("run_result") if isinstance(reply, dict) else None
    if not isinstance(run, dict):
        raise _Retry(f"no run_result in the reply ({_message(reply)})")
    output = str(run.get("stdout") or "").encode(errors="surrogatepass")
    ending: Ending
    match run.get("status"), run.get("return_code"):
        case "TimeLimitExceeded", _:
            ending, error = "timeout", f"more than {execution.limits.wall_s:g} s on the clock"
        case "Finished", 0:
            output, end, _ = output.partition(marker)
            is_whole = bool(end) and len(output) <= execution.limits.output_bytes
            ending, error = ("ok", "") if is_whole else ("output_limit", "the output was cut")
        case "Finished", int(code):
            ending, error = _failed(code, str(run.get("stderr") or ""))
        case _:
            raise _Retry(f"status {run.get('status')!r} in the reply ({_message(reply)})")
    if ending == "ok" and execution.kind != "stdin" and not output:
        ending, error = "runtime_error", "no value"
    seconds = run.get("execution_time")
    wall_s = float(seconds) if isinstance(seconds, int | float) else math.nan
    return Outcome(ending, output, error[-ERROR_CHARS:], cpu_s=wall_s, wall_s=wall_s)


def _message(reply: Any) -> str:
    return str(reply.get("message") if isinstance(reply, dict) else reply)[:200]


def _failed(code: int, stderr: str) -> tuple[Ending, str]:
    """What an exit status means, be it of Python (-24) or of a shell around it (152)."""
    number = -code if code < 0 else code - 128
    last_line = stderr.strip().rpartition("\n")[2]
    if number == signal.SIGXCPU:
        return "timeout", "more CPU time than the limit"
    if last_line.startswith("MemoryError"):
        return "memory", last_line
    return "runtime_error", last_line or f"exit status {code}"
