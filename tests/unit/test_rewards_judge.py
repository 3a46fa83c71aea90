"""The judge against endpoints that answer, refuse, stall and lie, all of them real ones."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from archer.config.keys import RewardConfig
from archer.errors import ConfigError
from archer.rewards import chat as chat_module
from archer.rewards import resolve_reward
from archer.rewards.checks import check_reward
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import RewardResult, ScoreRequest

Reply = tuple[int, dict[str, str], bytes]


def says(content: Any) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"content": content}}]}).encode()


class Endpoint:
    """Answers request number n (from 0) with ``answer(n, body)`` and remembers what came."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Reply | None]):
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url, self.models_status = "", 200
        self.answer, self.lock = answer, threading.Lock()

    @contextmanager
    def serving(self) -> Iterator["Endpoint"]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with endpoint.lock:
                    endpoint.headers.append(dict(self.headers))
                    endpoint.paths.append(self.path)
                self.send_response(endpoint.models_status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    number = len(endpoint.bodies)
                    endpoint.bodies.append(body)
                    endpoint.headers.append(dict(self.headers))
                    endpoint.paths.append(self.path)
                reply = endpoint.answer(number, body)
                if reply is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, headers, content = reply
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for byte in content if "X-Drip" in headers else ():
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                if "X-Drip" not in headers:
                    self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                """Clients that hang up are what is tested."""

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chat_module, "FIRST_WAIT_S", 0.02)


def ask(url: str, response: str = "It is 42.", truth: Any = "42", **args: Any) -> RewardResult:
    args = {"base_url": url, "model": "j", **args}
    reward = resolve_reward("judge", args)
    assert reward.is_async
    request = ScoreRequest("1", response, truth, prompt="6*7?")
    pending: Any = reward.judge(request, **args)
    return asyncio.run(pending)


def asked(reply: Reply | None, **args: Any) -> tuple[RewardResult, Endpoint]:
    with Endpoint(lambda number, body: reply).serving() as endpoint:
        return ask(endpoint.url, **args), endpoint


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Same value.\nVerdict: correct", 1.0),
        ("Verdict: incorrect", 0.0),
        ("**Verdict: Correct**.", 1.0),
        ("## Verdict: **incorrect**\n", 0.0),
        ("Verdict: correct\nOn second thought:\nVerdict: incorrect", 0.0),
        ("<think>Verdict: correct</think>Verdict: incorrect", 0.0),
        ("Verdict: correct\n\nHope this helps!", 1.0),
        ("Verdict: not correct", None),
        ("Verdict: correct or incorrect", None),
        ("The verdict is yes", None),
        ("<think>Verdict: correct", None),
        ("", None),
    ],
)
def test_verdicts(content: str, expected: float | None):
    result, _ = asked(says(content))
    if expected is None:
        assert (result.status, math.isnan(result.reward)) == ("verifier_error", True)
    else:
        assert (result.reward, result.correct, result.status) == (expected, bool(expected), "ok")


@pytest.mark.parametrize(
    ("content", "expected", "correct"),
    [
        ("Score: 4", 0.8, True),
        ("Score: 2.5/5", 0.5, True),
        ("Score: 2", 0.4, False),
        ("Score: 0", 0.0, False),
        ("Score: 6", None, False),
        ("Score: 4/10", None, False),
        ("Score: -1", None, False),
        ("Score: .5", None, False),
        ("Score: good", None, False),
        ("Score: " + "9" * 5000, None, False),
    ],
)
def test_scores(content: str, expected: float | None, correct: bool):
    result, endpoint = asked(says(content), max_score=5)
    assert "Score: N" in endpoint.bodies[0]["messages"][0]["content"]
    assert result.correct == correct
    if expected is None:
        assert (result.status, math.isnan(result.reward)) == ("verifier_error", True)
    else:
        assert result.reward == expected


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    result, endpoint = asked(
        says("Verdict: correct"),
        response="<think>or 43?</think> It is {truth}. \ud800",
        template="P={prompt} T={truth} R={response}",
        api_key_env="JUDGE_KEY",
        parameters={"max_tokens": 9},
    )
    assert result.reward == 1.0
    assert endpoint.paths == ["/v1/chat/completions"]
    (body,) = endpoint.bodies
    question = body["messages"][0]["content"]
    assert question.startswith("P=6*7? T=42 R=It is {truth}. ?\n\n")  # the truth is not filled in
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("j", 0, 9)
    assert endpoint.headers[0]["Authorization"] == "Bearer s3cret"


def test_silence_is_not_worth_a_question():
    result, endpoint = asked(says("Verdict: correct"), response="<think>hm</think>\n")
    assert (result.reward, result.status) == (0.0, "no_answer")
    assert not endpoint.bodies


@pytest.mark.parametrize("trouble", [(429, {}, b""), (500, {}, b""), (503, {}, b"busy"), None])
def test_trouble_that_passes_is_waited_out(trouble: Reply | None):
    def answer(number: int, body: dict[str, Any]) -> Reply | None:
        return trouble if number < 3 else says("Verdict: correct")

    with Endpoint(answer).serving() as endpoint:
        assert ask(endpoint.url, attempts=4).reward == 1.0
        assert len(endpoint.bodies) == 4


@pytest.mark.parametrize("trouble", [(429, {}, b""), (500, {}, b""), None])
def test_trouble_that_stays_is_a_failure_not_a_zero(trouble: Reply | None):
    result, endpoint = asked(trouble, attempts=3)
    assert math.isnan(result.reward)
    assert (result.status, len(endpoint.bodies)) == ("verifier_error", 3)


def test_nobody_listens():
    with Endpoint(lambda number, body: None).serving() as endpoint:
        url = endpoint.url
    result = ask(url, attempts=2)
    assert (result.status, result.detail) == ("verifier_error", "the judge: ConnectError")


def test_the_pause_is_what_the_endpoint_asks_for():
    def answer(number: int, body: dict[str, Any]) -> Reply:
        return (429, {"Retry-After": "1"}, b"") if number == 0 else says("Verdict: correct")

    with Endpoint(answer).serving() as endpoint:
        start = time.monotonic()
        assert ask(endpoint.url).reward == 1.0
        assert time.monotonic() - start >= 1.0  # not FIRST_WAIT_S


@pytest.mark.parametrize(
    "reply",
    [
        (400, {}, b"no such model"),
        (401, {}, b""),
        (302, {"Location": "http://127.0.0.1:1/"}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[" * 100_000),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": "x"}]}'),
        says(None),
        (200, {}, b" " * (5 << 20)),
    ],
)
def test_replies_that_asking_again_would_not_mend(reply: Reply):
    result, endpoint = asked(reply)
    assert (result.status, math.isnan(result.reward)) == ("verifier_error", True)
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize("headers", [{}, {"X-Drip": "yes"}])
def test_an_endpoint_that_hangs_or_drips_times_out(headers: dict[str, str]):
    def answer(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.0 if headers else 30.0)
        status, _, content = says("Verdict: correct")
        return status, headers, content + b" " * 1200

    with Endpoint(answer).serving() as endpoint:
        start = time.monotonic()
        result = ask(endpoint.url, attempts=2, attempt_timeout_s=0.2)
        assert (result.status, math.isnan(result.reward)) == ("timeout", True)
        assert time.monotonic() - start < 15.0  # what drips would take a minute


def test_the_truth_never_shows_in_a_detail():
    for reply in (says("The reference says SECRET."), says("SECRET\nVerdict: incorrect")):
        result, _ = asked(reply, truth="SECRET")
        assert "SECRET" not in result.detail


def test_many_at_a_time_in_one_verifier_process_with_its_own_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", "s3cret")

    def answer(number: int, body: dict[str, Any]) -> Reply:
        question = body["messages"][0]["content"]
        time.sleep(5.0 if "stall" in question else 0.3)
        return says("Verdict: correct" if "42" in question else "Verdict: incorrect")

    async def score(url: str) -> list[RewardResult]:
        args = {
            "base_url": url,
            "model": "j",
            "template": "{response}",
            "api_key_env": "JUDGE_KEY",
        }
        config = RewardConfig(name="judge", args=args, timeout_s=2.0, env=["JUDGE_KEY"])
        processes = VerifierProcesses(config)
        await processes.start()
        try:
            texts = ["42", "41", "stall"] * 8
            requests = [ScoreRequest(str(i), text, None) for i, text in enumerate(texts)]
            return await asyncio.gather(*map(processes.score, requests))
        finally:
            await processes.close()

    with Endpoint(answer).serving() as endpoint:
        start = time.monotonic()
        results = asyncio.run(score(endpoint.url))
        assert time.monotonic() - start < 6.0  # 16 * 0.3 + 8 * 2.0 one by one
        assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer s3cret"}
    assert [result.reward for result in results[0::3]] == [1.0] * 8
    assert [result.reward for result in results[1::3]] == [0.0] * 8
    assert {result.status for result in results[2::3]} == {"timeout"}


def test_the_two_halves_of_verif_in_one_sum():
    truth = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    with Endpoint(lambda number, body: says("Score: 4")).serving() as endpoint:
        judge = {"base_url": endpoint.url, "model": "j", "max_score": 5}
        parts = {"ifeval": {"weight": 0.5}, "judge": {"weight": 0.5, "args": judge}}

        async def score(*texts: str) -> list[RewardResult]:
            args = {"components": parts, "correct": "ifeval"}
            processes = VerifierProcesses(RewardConfig(name="weighted", args=args))
            await processes.start()
            try:
                requests = [ScoreRequest(text, text, truth) for text in texts]
                return await asyncio.gather(*map(processes.score, requests))
            finally:
                await processes.close()

        good, bad = asyncio.run(score("a b", "a, b"))
    assert (good.reward, good.correct) == (pytest.approx(0.9), True)
    assert good.components == {"ifeval": 1.0, "judge": 0.8}
    assert (bad.reward, bad.correct) == (pytest.approx(0.4), False)


def judge_config(url: str, **fields: Any) -> RewardConfig:
    return RewardConfig(name="judge", args={"base_url": url, "model": "j"}, **fields)


def test_an_endpoint_where_nobody_listens_is_found_before_the_run():
    with Endpoint(lambda number, body: None).serving() as endpoint:
        check_reward(judge_config(endpoint.url))
        assert endpoint.paths == ["/v1/models"]
    with pytest.raises(ConfigError, match="Start the server") as caught:
        check_reward(judge_config(endpoint.url))
    assert caught.value.key == "reward.args.base_url"
    part = {"judge": {"weight": 1.0, "args": judge_config(endpoint.url).args}}
    composite = RewardConfig(name="weighted", args={"components": part, "correct": "judge"})
    with pytest.raises(ConfigError, match="Start the server"):
        check_reward(composite)


@pytest.mark.parametrize(
    ("status", "key"),
    [
        (200, None),
        (404, None),
        (429, None),
        (401, "reward.args.api_key_env"),
        (503, "reward.args.base_url"),
    ],
)
def test_what_the_endpoint_says_before_the_run(status: int, key: str | None):
    with Endpoint(lambda number, body: None).serving() as endpoint:
        endpoint.models_status = status
        if key is None:
            check_reward(judge_config(endpoint.url))
            return
        with pytest.raises(ConfigError) as caught:
            check_reward(judge_config(endpoint.url))
    assert caught.value.key == key


def test_a_key_that_would_not_reach_the_judge_is_found_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    with Endpoint(lambda number, body: None).serving() as endpoint:
        args = {"base_url": endpoint.url, "model": "j", "api_key_env": "JUDGE_KEY"}
        with pytest.raises(ConfigError, match=r"reward\.env=\[JUDGE_KEY\]"):
            check_reward(RewardConfig(name="judge", args=args))
        check_reward(RewardConfig(name="judge", args=args, env=["JUDGE_KEY"]))
        assert endpoint.headers[-1]["Authorization"] == "Bearer s3cret"
        monkeypatch.delenv("JUDGE_KEY")
        with pytest.raises(ConfigError) as caught:
            check_reward(RewardConfig(name="judge", args=args, env=["JUDGE_KEY"]))
    assert caught.value.key == "reward.env"


def test_a_missing_key_names_the_setting():
    with pytest.raises(ValueError, match=r"NO_SUCH_KEY is not set here: name it in reward\.env"):
        ask("http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_url", "127.0.0.1:8000"),
        ("template", "Is it good?"),
        ("max_score", 0),
        ("attempts", 0),
        ("attempt_timeout_s", "long"),
    ],
)
def test_mistakes_are_found_before_the_run(key: str, value: Any):
    with pytest.raises(ConfigError) as caught:
        ask(**{"url": "http://x", key: value} if key != "base_url" else {"url": value})
    assert caught.value.key == f"reward.args.{key}"
