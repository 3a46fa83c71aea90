"""Where the files of a published set come from: a folder, the hub, or its cache."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from dataset_fixtures import write_records
from preparing import Prepared, refused, source, training

from archer.data.config import SourceConfig
from archer.data.fetch import fetch
from archer.errors import ConfigError


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download needs, for a file at a commit,
    and another that breaks off."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"
    CONTENT = b'{"problem": "1+1?", "answer": "2"}\n'

    def do_HEAD(self, body=b""):
        revision, _, name = self.path.partition("/resolve/")[2].partition("/")
        if not self.path.startswith("/datasets/org/sums/"):
            self.refuse("RepoNotFound")
        elif revision not in ("main", self.COMMIT):
            self.refuse("RevisionNotFound")
        elif name not in ("data/a.jsonl", "data/cut.jsonl"):
            self.refuse("EntryNotFound")
        else:
            self.send_response(200)
            self.send_header("X-Repo-Commit", self.COMMIT)
            self.send_header("ETag", '"a-file"')
            is_cut = name == "data/cut.jsonl"
            self.send_header("Content-Length", str(len(self.CONTENT) + 1000 * is_cut))
            self.end_headers()
            self.wfile.write(body)

    def do_GET(self):
        self.do_HEAD(self.CONTENT)

    def refuse(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def hub(mirror, monkeypatch, tmp_path):
    """The client in this process asks the mirror, and has a cache of its own."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, mirror)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    return tmp_path / "hf/hub"


def published(**keys):
    return {"hub": "org/sums", "files": ["data/a.jsonl"], "shape": "math", **keys}


def test_files_come_from_a_mirror_of_the_hub_and_then_from_its_cache(tmp_path, mirror, offline):
    sets = {"x": training({"s": published()})}
    preset = tmp_path / "conf/data/mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(json.dumps({"name": "mine", "sets": sets}))
    options = ["--config-dir", str(tmp_path / "conf"), "data=mine", f"run.cache={tmp_path}/first"]
    done = subprocess.run(
        [sys.executable, "-m", "archer.prepare", *options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": mirror},
        capture_output=True,
        text=True,
    )
    assert "x: 1 rows" in done.stdout, done.stderr
    assert f"sources.s.revision={Hub.COMMIT}" in done.stdout  # of main, which may move
    made = Prepared(tmp_path, sets)
    assert made.prompts("x") == ["1+1?"]
    read = made.reports["x"].sources["s"]
    assert (read.origin, read.commit) == ("org/sums", Hub.COMMIT)
    assert f"| org/sums at {Hub.COMMIT} | a.jsonl |" in made.page("x")


def test_a_commit_needs_no_word(tmp_path, hub):
    made = Prepared(tmp_path, {"x": training({"s": published(revision=Hub.COMMIT)})})
    assert "revision" not in made.output.getvalue()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hub": "org/products"}, ["a data set of the hub", "org/products", "hf auth login"]),
        ({"revision": "gone"}, ["a revision that exists", "org/sums at gone"]),
        ({"files": ["data/test.jsonl"]}, ["a repository with data/test.jsonl", "the split"]),
        ({"hub": "not an id"}, ["a hub id such as owner/name", "'not an id at main"]),
    ],
)
def test_what_the_hub_does_not_have_is_said(tmp_path, hub, change, words):
    message = refused(tmp_path, {"x": training({"s": published(**change)})})
    assert all(word in message for word in [*words, "data.sets.x.sources.s.folder"]), message


def test_a_hub_that_cannot_be_reached_is_named_with_the_ways_round_it(tmp_path, offline):
    message = refused(tmp_path, {"x": training({"s": published(revision="abc")})})
    expected = ["org/sums at abc", "a.jsonl", "HF_ENDPOINT", "data.sets.x.sources.s.folder=FOLDER"]
    assert all(word in message for word in expected), message


def test_a_connection_that_breaks_off_is_said_once(tmp_path, hub, monkeypatch, capfd):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    message = refused(tmp_path, {"x": training({"s": published(files=["data/cut.jsonl"])})})
    assert "It failed: peer closed connection" in message and "Try again" in message
    assert "Trying to resume" not in capfd.readouterr().err


def test_parts_that_an_interrupted_download_left_out_are_missed(tmp_path, offline):
    name, commit = "train-00000-of-00002.parquet", "a" * 40
    snapshot = offline / "datasets--org--sums/snapshots" / commit
    (snapshot / "data").mkdir(parents=True)
    record = {"problem": "1+1?", "answer": "2"}
    write_records(snapshot / "data" / name, [record])
    by_star = published(revision=commit, files=["data/train-*.parquet"])
    copied = source(snapshot, "data/train-*.parquet")
    for wanted in (by_star, copied):
        message = refused(tmp_path, {"x": training({"s": wanted})})
        assert "all 2 parts of train" in message and "train-00001-of-00002.parquet" in message
    one = source(snapshot, f"data/{name}")  # which may be just what is wanted
    assert Prepared(tmp_path, {"x": training({"s": one})}).prompts("x") == ["1+1?"]
    write_records(snapshot / "data/train-00001-of-00002.parquet", [record | {"problem": "2?"}])
    assert Prepared(tmp_path, {"x": training({"s": by_star})}).prompts("x") == ["1+1?", "2?"]


def test_only_a_star_stands_for_parts_of_a_name(tmp_path):
    for name in ("train-1.jsonl", "train-0.jsonl", "test[0].jsonl"):
        (tmp_path / name).touch()

    def found(name):
        files = fetch(
            "data.sets.a.sources.b", SourceConfig(folder=str(tmp_path), files=[name])
        ).files
        return [file.path.name for file in files]

    assert found("train-*.jsonl") == ["train-0.jsonl", "train-1.jsonl"]
    assert found("test[0].jsonl") == ["test[0].jsonl"]
    with pytest.raises(ConfigError, match="a folder with train"):
        found("train-[01].jsonl")
