"""What needs no lm-eval; the rest is in test_parity."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.evals.lm import evaluate_lm
from publius.evals.lm.harness import Answered, Leaf, available
from publius.evals.lm.run import _result, leaves_of
from publius.model.checkpoint import Checkpoint, fingerprint


@pytest.mark.skipif(available(), reason="lm-eval is installed here")
def test_without_lm_eval_it_says_how_to_get_it(merging: Checkpoint) -> None:
    with pytest.raises(UserError, match="not installed") as caught:
        evaluate_lm(["arc_easy"], [merging])
    assert "publius[eval]" in caught.value.fix


def test_it_is_not_imported_before_it_is_needed() -> None:
    assert available() or "lm_eval" not in sys.modules


@pytest.mark.parametrize(
    ("tasks", "files", "told"),
    [
        (["arc_easy"], {"arc_eesy": "x"}, "no task that reads a file"),
        (["arc_easy", "arc_easy"], {"arc_easy": "x"}, "twice"),
        ([], {}, "no tasks"),
        (["humaneval"], {}, "our sandbox"),
    ],
)
def test_what_cannot_be_asked_is_refused_first(tasks: list[str], files: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        leaves_of(tasks, files)


def test_examples_need_a_file(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Which?", "choices": ["a", "b"], "answer": 0}\n')
    with pytest.raises(UserError, match="no file of examples") as caught:
        leaves_of(["arc_easy"], {"arc_easy": path}, shots=3)
    assert "arc_easy_dev" in caught.value.fix


def test_a_question_is_no_example_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Which?", "choices": ["a", "b"], "answer": 0}\n')
    again = tmp_path / "." / "q.jsonl"
    with pytest.raises(UserError, match="its own questions"):
        leaves_of(["arc_easy"], {"arc_easy": path, "arc_easy_dev": str(again)}, shots=1)


def test_subjects_are_pooled_and_told_apart(merging: Checkpoint) -> None:
    leaves = [Leaf("mmlu", f"mmlu_{name}", None) for name in ("old_mills", "rivers")]
    answered = [
        Answered(leaves[0], [(i, {"acc": float(i % 2)}, "") for i in range(10)], {}),
        Answered(leaves[1], [(i, {"acc": 1.0}, "") for i in range(2)], {}),
        Answered(
            Leaf("one", "one", None), [(0, {"acc": 0.3}, "raised"), (1, {"acc": 0.5}, "")], {"bits": 2.0}
        ),
    ]
    document, items = _result(merging, ["mmlu", "one"], answered, {"seed": 1})
    pooled = document.metrics["lm.mmlu.acc"]
    assert (pooled.value, pooled.n) == (7 / 12, 12)
    assert document.by_category["mmlu_rivers"]["acc"].value == 1 and "one" not in document.by_category
    mean = document.metrics["lm.one.acc"]
    assert mean.value == pytest.approx(0.4) and mean.low is not None and mean.low >= 0
    assert document.metrics["lm.one.bits"].value == 2 and document.metrics["lm.one.bits"].n is None
    assert document.model == fingerprint(merging)
    assert [item.group for item in items] == ["mmlu_old_mills"] * 10 + ["mmlu_rivers"] * 2 + ["", ""]
    assert items[-2].note == "raised" and items[-2].id == "one-0"
