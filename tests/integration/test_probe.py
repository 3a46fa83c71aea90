"""The contamination probe on a model that archer trains on half of a synthetic set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archer.evaluation.min_knn import REPORT_FILE
from benchmarks import min_knn

pytestmark = pytest.mark.integration


def test_it_tells_prompts_of_the_training_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    files = min_knn.write_halves(tmp_path, 8, seed=1)
    model = min_knn.train(files["seen"], 8, 20, ["seed=1"])
    found = min_knn.probe(tmp_path / "new", files, model)

    assert found["seen"]["distance"] < found["unseen"]["distance"]
    assert found["seen"]["auc_lo"] > 0.5

    # The same from the samples of that evaluation, with nothing sampled.
    stored = {name: tmp_path / "new" / f"samples_{name}.jsonl.gz" for name in files}
    min_knn.run(
        "evaluate",
        "probe=min_knn",
        f"probe.neighbours={min_knn.NEIGHBOURS}",
        f"model.path={model}",
        *(f"probe.samples.{name}={path}" for name, path in stored.items()),
        "probe.reference=unseen",
        f"output={tmp_path / 'stored'}",
    )
    assert json.loads((tmp_path / "stored" / REPORT_FILE).read_text())["sets"] == found
