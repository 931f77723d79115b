from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from publius.core.errors import UserError
from publius.evals.lm.docs import READERS, read_docs

FOUR = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}
PLAIN: dict[str, dict[str, Any]] = {
    "arc_easy": FOUR,
    "arc_challenge": FOUR | {"choices": ["a", "b", "c"]},
    "mmlu": FOUR | {"subject": "old_mills"},
    "winogrande": {"question": "Ann saw Bo, so _ waved. ", "choices": ["Ann", "Bo"], "answer": 0},
    "truthfulqa_mc1": {
        "question": "Which?", "mc1_choices": ["a", "b"], "mc1_answer": 0,
        "mc2_choices": ["a", "b", "c"], "mc2_labels": [1, 0, 1],
    },
    "humaneval": {"task_id": "T/0", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): pass"},
}  # fmt: skip
PLAIN["truthfulqa_mc2"] = PLAIN["truthfulqa_mc1"]
THEIRS: dict[str, dict[str, Any]] = {
    "arc_easy": {
        "id": "Q1", "question": "Which?", "choices": {"text": ["a", "b", "c", "d"], "label": list("1234")},
        "answerKey": "3",
    },
    "winogrande": {"sentence": "Ann saw Bo, so _ waved. ", "option1": "Ann", "option2": "Bo", "answer": "1"},
    "truthfulqa_mc1": {
        "question": "Which?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 0, 1]},
    },
}  # fmt: skip


def file_of(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("task", READERS)
def test_a_plain_row_is_read(task: str, tmp_path: Path) -> None:
    first, second = read_docs(task, file_of(tmp_path, PLAIN[task] | {"id": "one"}, PLAIN[task]))
    assert first.id == "one" and first.fields == second.fields
    assert second.id == ("T/0" if task == "humaneval" else f"{tmp_path}/questions.jsonl:2")
    assert first.group == ("old_mills" if task == "mmlu" else "")


@pytest.mark.parametrize("task", THEIRS)
def test_a_publishers_row_is_the_same_question(task: str, tmp_path: Path) -> None:
    ours, theirs = read_docs(task, file_of(tmp_path, PLAIN[task], THEIRS[task]))
    assert ours.fields == theirs.fields


def test_the_blank_is_filled_before_and_scored_after() -> None:
    fields = READERS["winogrande"](PLAIN["winogrande"])
    assert fields == {"contexts": ["Ann saw Bo, so Ann", "Ann saw Bo, so Bo"], "rest": "waved.", "gold": 0}


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("arc_easy", {"answer": 4}, "no index"),
        ("arc_easy", {"answer": True}, "no index"),
        ("arc_easy", {"choices": ["a"]}, "2 texts or more"),
        ("arc_easy", {"choices": "abcd"}, "not a list"),
        ("arc_easy", {"question": None}, "not a text"),
        ("mmlu", {"choices": ["a", "b", "c"]}, "4 texts"),
        ("mmlu", {"choices": ["a", "b", "c", "d", "e"]}, "5 choices"),
        ("winogrande", {"question": "Ann saw Bo."}, "no blank"),
        ("truthfulqa_mc1", {"mc1_answer": 1}, "first of its mc1"),
        ("truthfulqa_mc2", {"mc2_labels": [0, 0, 0]}, "a label"),
        ("truthfulqa_mc2", {"mc2_labels": [1, 0]}, "a label"),
        ("humaneval", {"test": 3}, "not a text"),
    ],
)
def test_a_row_that_is_no_question_is_named(
    task: str, change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        read_docs(task, file_of(tmp_path, PLAIN[task], PLAIN[task] | change))
    assert caught.value.where.endswith("questions.jsonl:2")


def test_a_missing_key_and_an_empty_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has no 'subject'"):
        read_docs("mmlu", file_of(tmp_path, FOUR))
    with pytest.raises(UserError, match="no questions"):
        read_docs("mmlu", file_of(tmp_path))


SHARED = Path(os.environ.get("PUBLIUS_SHARED_DATA", "no/such/folder")) / "benchmarks"


@pytest.mark.skipif(not SHARED.is_dir(), reason="PUBLIUS_SHARED_DATA names no folder with benchmarks/")
@pytest.mark.parametrize(
    ("task", "file", "count"),
    [
        ("arc_easy", "arc_easy_test.jsonl.gz", 2376),
        ("arc_challenge", "arc_challenge_test.jsonl.gz", 1172),
        ("mmlu", "mmlu_half_test.jsonl.xz", 7658),
        ("mmlu", "mmlu_half_dev.jsonl.gz", 145),
        ("winogrande", "winogrande_val.jsonl.gz", 1267),
        ("truthfulqa_mc2", "truthfulqa_mc.jsonl.gz", 817),
        ("humaneval", "humaneval.jsonl.gz", 164),
    ],
)
def test_the_real_files_are_read_whole(task: str, file: str, count: int) -> None:
    assert len(read_docs(task, str(SHARED / file))) == count
