from __future__ import annotations

import os
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.evals.registry import HARNESS, SUITES, HarnessTask, files_of, named


def test_names():
    assert named("bbq") is SUITES["bbq"] and named("humaneval") is HARNESS["humaneval"]
    task = named("lm:arc_easy")
    assert (
        isinstance(task, HarnessTask) and task.task == "arc_easy" and task.files == SUITES["arc_easy"].files
    )
    with pytest.raises(UserError, match="no evaluation called 'arc_eazy'") as error:
        named("arc_eazy")
    assert "arc_easy" in error.value.fix
    assert all(suite.name == name and suite.metrics for name, suite in SUITES.items())


def test_files_are_named_or_found(tmp_path):
    suite = SUITES["bbq"]
    with pytest.raises(UserError, match="no file of bbq") as error:
        files_of(suite, {}, None)
    assert "--file bbq=PATH" in error.value.fix
    for name in ("bbq_age.jsonl.gz", "sub/bbq_folk.jsonl", "bbq_notes.txt", "arc_easy_train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [Path(f).name for f in files_of(suite, {}, tmp_path)] == ["bbq_age.jsonl.gz", "bbq_folk.jsonl"]
    assert files_of(suite, {"bbq": ["x.jsonl"]}, tmp_path) == ["x.jsonl"], "what is named comes first"
    with pytest.raises(UserError, match="no file of arc_easy"):
        files_of(SUITES["arc_easy"], {}, tmp_path)  # never the training split
    assert files_of(named("lm:piqa"), {}, tmp_path) == [], "it brings its own questions"
    with pytest.raises(UserError, match="no such folder"):
        files_of(suite, {}, tmp_path / "none")


def shared() -> Path:
    root = Path(__file__).parents[2]
    places = [Path(p) for p in [os.environ.get("PUBLIUS_SHARED_DATA")] if p]
    for place in [*places, root / "shared/data", root.parent / "shared/data"]:
        if (place / "benchmarks").is_dir():
            return place
    pytest.skip("no shared/data/benchmarks here; set PUBLIUS_SHARED_DATA to test with it")


@pytest.mark.parametrize(
    ("name", "items", "clusters"),
    [("arc_easy", 2376, 2376), ("arc_challenge", 1172, 1172), ("boolq", 3270, 3270), ("mmlu", 7658, 29),
     ("winogrande", 1267, None), ("truthfulqa", 817, 817), ("bbq", 3200, 104), ("ai_risk", 8116, 16),
     ("persona", 4600, 23), ("overrefusal", 750, 750), ("injection", 251, None), ("llmbar", 100, 100)],
)  # fmt: skip
def test_the_published_files_are_read_whole(name, items, clusters):
    suite = SUITES[name]
    questions = suite.questions(files_of(suite, {}, shared()))
    found = {q.meta.get("cluster", q.meta["id"]) for q in questions}
    assert len(questions) == items and len(found) == (clusters or len(found)) <= items
