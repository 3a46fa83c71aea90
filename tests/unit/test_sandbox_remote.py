"""The remote sandbox, against a service of our own that really runs what it is sent."""

import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox import Execution, Limits, SandboxError, remote
from archer.rewards.sandbox.attempts import Canaries, attempt_limits
from archer.rewards.sandbox.remote import RemoteExecutor

CAP = 1 << 20


class Service(ThreadingHTTPServer):
    """Answers as SandboxFusion does; ``misbehave`` replaces its first replies."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.misbehave = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # clients that give up are the point


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        self.server.requests.append((self.path, request))
        if self.server.misbehave:
            return self.server.misbehave.pop(0)(self)
        return self.reply(200, json.dumps(run_code(request)).encode())

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def run_code(request):
    assert request["language"] == "python"
    request["code"].encode("ascii")
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "program.py")
        with open(program, "w") as file:
            file.write(request["code"])
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, program],
                input=request["stdin"].encode(),
                capture_output=True,
                timeout=request["run_timeout"],
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return {
                "status": "Failed",
                "message": "",
                "run_result": {"status": "TimeLimitExceeded", "execution_time": 1.0},
            }
        seconds = time.perf_counter() - start
    return {
        "status": "Failed" if done.returncode else "Success",
        "message": "",
        "run_result": {
            "status": "Finished",
            "execution_time": seconds,
            "return_code": done.returncode,
            "stdout": done.stdout[:CAP].decode(errors="replace"),
            "stderr": done.stderr[:CAP].decode(errors="replace"),
        },
    }


@pytest.fixture
def service():
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def executor(service, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)
    executor = RemoteExecutor(SandboxConfig(level="remote", url=service.url))
    yield executor
    executor.close()


FAST = Limits(time_s=1.0, wall_s=30.0, memory_mb=1024, output_bytes=1 << 22)


def program(source, **fields):
    return Execution(source, limits=FAST, **fields)


def call(source, arguments="[]"):
    return program(source, kind="call", entry_point="f", arguments=arguments)


HONEST = {
    "stdin": (program("print(int(input()) + 1)", stdin="41\n"), b"42\n"),
    "prelude": (program("print(gcd(12, 18), Counter('aab')['a'])"), b"6 2\n"),
    "main guard": (program("if __name__ == '__main__':\n    print('main')"), b"main\n"),
    "argv": (program("print(sys.argv[1:])", argv=("-x", "1")), b"['-x', '1']\n"),
    "file": (program("print(open('a.txt').read())", files={"a.txt": "héllo"}), "héllo\n".encode()),
    "exit 0": (program("print(1); exit()"), b"1\n"),
    "exit hook": (program("import atexit; atexit.register(print, 2); print(1)"), b"1\n2\n"),
    "huge integer": (program("print(len(str(10 ** 6000)))"), b"6001\n"),
    "end without hooks": (program("import os; os.write(1, b'1'); os._exit(0)"), b"1"),
    "function": (call("def f(a, b): return a + b", "[1, 2]"), b"3"),
    "method": (
        call("class Solution:\n  def f(self, a): print('noise'); return (a, [a])", '["x"]'),
        b'["x", ["x"]]',
    ),
    "no main guard in a function": (
        call("x = 1\nif __name__ == '__main__': x = 2\ndef f(): return x"),
        b"1",
    ),
    "expression": (
        program("def f(a): return a * 2", kind="evaluate", setup="t = [1, 2]", expression="f(t)"),
        b"[1, 2, 1, 2]",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs(executor, name):
    execution, expected = HONEST[name]
    outcome = executor.run(execution)
    assert (outcome.ending, outcome.error, outcome.output) == ("ok", "", expected)
    assert 0 < outcome.wall_s < 30


def test_the_same_program_prints_the_same(executor):
    execution = program("print(hash('a'), random.random(), list({'a', 'b', 'c'}))")
    first, second = executor.run(execution), executor.run(execution)
    assert first.ending == "ok"
    assert first.output == second.output


ENDINGS = {
    "exception": (program("print(1); 1 / 0"), "runtime_error", "ZeroDivisionError: division"),
    "exit status": (program("print(1); exit(3)"), "runtime_error", "exit status 3"),
    "syntax": (program("def"), "runtime_error", "SyntaxError: invalid syntax"),
    "loop": (program("while True: pass"), "timeout", "CPU time"),
    "sleep": (
        Execution("import time; time.sleep(60)", limits=Limits(wall_s=0.5)),
        "timeout",
        "0.5 s on the clock",
    ),
    "memory": (program("x = bytearray(2 << 30)"), "memory", "MemoryError"),
    "output": (program("print('x' * (5 << 20))"), "output_limit", "cut"),
    "value too long": (call("def f(): return 'x' * (2 << 20)"), "output_limit", "cut"),
    "no such function": (call("pass"), "runtime_error", "NameError: no function 'f'"),
    "not JSON": (call("def f(): return {1, 2}"), "runtime_error", "TypeError"),
    "gone before the value": (call("import os\ndef f(): os._exit(0)"), "runtime_error", "no value"),
    "lone surrogates": (program("print('\ud800')"), "runtime_error", "surrogates not allowed"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(executor, name):
    execution, ending, error = ENDINGS[name]
    outcome = executor.run(execution)
    assert outcome.ending == ending
    assert error in outcome.error
    assert len(outcome.error) <= 1000


def test_the_request_is_what_the_service_documents(executor, service):
    executor.run(program("pass", stdin="a\udc80"))
    path, request = service.requests[0]
    assert path == "/run_code"
    assert request["stdin"] == "a?"
    assert (request["run_timeout"], request["memory_limit_MB"]) == (30.0, 1024)


def test_the_program_is_not_told_how_much_output_is_expected(executor, service):
    for size in (1 << 20, 1 << 21):
        executor.run(Execution("pass", limits=Limits(output_bytes=size)))
    first, second = (request["code"] for _, request in service.requests)
    marker = re.compile(r'"marker": "\w+"')
    assert marker.sub("", first) == marker.sub("", second)


@pytest.mark.parametrize("suffix", ["", "/", "/run_code", "/v1"])
def test_the_path_of_the_url_is_kept(service, suffix):
    executor = RemoteExecutor(SandboxConfig(level="remote", url=service.url + suffix))
    assert executor.run(program("print(1)")).output == b"1\n"
    executor.close()
    expected = "/v1/run_code" if suffix == "/v1" else "/run_code"
    assert service.requests[0][0] == expected


def sandbox_error(handler):
    handler.reply(200, b'{"status": "SandboxError", "message": "no space left"}')


def trickle(handler):
    """A reply that never ends, one byte at a time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


MISBEHAVIOUR = {
    "HTTP status 500": lambda handler: handler.reply(500, b"oops"),
    "HTTP status 429": lambda handler: handler.reply(429, b"slow down"),
    "not JSON": lambda handler: handler.reply(200, b"<html>"),
    "a reply that is not": lambda handler: handler.reply(200, b"[" * 100_000),
    "no run_result": lambda handler: handler.reply(200, b"[1, 2]"),
    "no space left": sandbox_error,
    "status None": lambda handler: handler.reply(200, b'{"run_result": {"return_code": "0"}}'),
    "a reply of more than": lambda handler: handler.reply(200, b" " * (20 << 20)),
    "reply that does not end": trickle,
    "closed connection": hang_up,
    "timed out": lambda handler: time.sleep(1.0),
}


@pytest.mark.parametrize("problem", MISBEHAVIOUR)
def test_a_service_that_fails_is_asked_again_and_then_given_up(
    executor, service, problem, monkeypatch
):
    monkeypatch.setattr(remote, "OVERHEAD_S", 0.2)
    execution = Execution("print(1)", limits=Limits(wall_s=0.3, output_bytes=1 << 20))
    service.misbehave = [MISBEHAVIOUR[problem]] * remote.ATTEMPTS
    with pytest.raises(SandboxError) as caught:
        executor.run(execution)
    assert problem in str(caught.value)
    assert service.url in str(caught.value)
    monkeypatch.setattr(remote, "OVERHEAD_S", 5.0)
    service.misbehave = [MISBEHAVIOUR["HTTP status 500"]] * (remote.ATTEMPTS - 1)
    assert executor.run(program("print(1)")).output == b"1\n"


def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    executor = RemoteExecutor(SandboxConfig(level="remote", url=url))
    with pytest.raises(SandboxError, match="Connection refused"):
        executor.run(program("print(1)"))


@pytest.mark.parametrize(
    "url", [None, "", "sandbox:8080", "ftp://sandbox", "http://", "http://a:b"]
)
def test_an_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match=r"reward\.sandbox\.url"):
        RemoteExecutor(SandboxConfig(level="remote", url=url))


def test_execution_time_that_is_missing_is_unknown(executor, service):
    service.misbehave = [
        lambda handler: handler.reply(
            200,
            b'{"run_result": {"status": "Finished", "return_code": 0, "stdout": "1"}}',
        )
    ]
    assert math.isnan(executor.run(program("print(1)")).wall_s)


def test_the_probe_finds_the_limits_of_a_service_that_has_them(executor):
    with Canaries() as canaries:
        findings = list(attempt_limits(executor, canaries))
    assert [(f.guarantee, f.detail) for f in findings if not f.has_held] == []
    assert {f.layer for f in findings} == {"programs", "memory", "time", "output", "verdict"}
