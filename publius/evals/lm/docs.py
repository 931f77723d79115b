"""Benchmark questions from files: rows in the plain layout, or their publisher's, as fields of our tasks.

- `arc_easy`, `arc_challenge`: `question`, `choices`, `answer` (an index); or `choices` of `text` and `label`,
  with `answerKey`;
- `mmlu`: `question`, four `choices`, `answer` (an index), `subject`;
- `winogrande`: `question` with a blank (`_`), `choices`, `answer` (an index); or `sentence`, `option1`,
  `option2`, `answer` (1 or 2);
- `truthfulqa_mc1`, `truthfulqa_mc2`: `question`, `mc1_choices`, `mc1_answer`, `mc2_choices`, `mc2_labels`; or
  `mc1_targets` and `mc2_targets` of `choices` and `labels`;
- `humaneval`: `prompt`, `entry_point`, `test`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from publius.core.errors import UserError
from publius.data.files import expand
from publius.data.sources import rows

__all__ = ["READERS", "Doc", "read_docs"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Doc(NamedTuple):
    """One question.

    Attributes:
        fields: what the task's templates read.
        group: of questions that are not independent: a subject; empty when it stands alone.
    """

    id: str
    fields: dict[str, Any]
    group: str = ""


def read_docs(task: str, path: str) -> list[Doc]:
    """The questions of a file (jsonl, json or parquet, packed or not), in order.

    Raises:
        UserError: for a row that is no question of this task, naming file and line; for a file without any.
    """
    found: list[Doc] = []
    for file in expand([path]):
        for row, where in rows(file):
            try:
                fields = READERS[task](row)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"this row is no question of {task}: {told}",
                    where=where,
                    fix="give the file of another task, or write rows as docs/evals.md says",
                ) from error
            name = next((str(row[key]) for key in ("id", "task_id") if key in row), where)
            found.append(Doc(name, fields, str(fields.get("subject", ""))))
    if not found:
        raise UserError("there are no questions", where=path, fix="give a file with rows")
    return found


def _texts(value: Any, least: int = 2) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("its choices are not a list")
    texts = cast("list[Any]", value)
    if len(texts) < least or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"its choices are not {least} texts or more")
    return texts


def _index(value: Any, count: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise ValueError(f"its answer {value!r} is no index into {count} choices")
    return value


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise ValueError(f"its {key} is not a text")
    return row[key]


def _arc(row: Mapping[str, Any]) -> dict[str, Any]:
    question, choices = _text(row, "question"), row["choices"]
    if isinstance(choices, Mapping):
        given = cast("Mapping[str, Any]", choices)
        texts = _texts(given["text"])
        gold = [*given["label"]].index(row["answerKey"])
    else:
        texts, gold = _texts(choices), row["answer"]
    return {"question": question, "choices": texts, "gold": _index(gold, len(texts))}


def _mmlu(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = _texts(row["choices"], 4)
    if len(texts) != 4:
        raise ValueError(f"it has {len(texts)} choices, not 4")
    return {
        "question": _text(row, "question"),
        "subject": _text(row, "subject"),
        "choices": texts,
        "answer": _index(row["answer"], 4),
    }


def _winogrande(row: Mapping[str, Any]) -> dict[str, Any]:
    if "sentence" in row:
        sentence, options = _text(row, "sentence"), [_text(row, "option1"), _text(row, "option2")]
        gold = ["1", "2"].index(str(row["answer"]))
    else:
        sentence, options = _text(row, "question"), _texts(row["choices"])
        gold = _index(row["answer"], len(options))
    before, blank, after = sentence.partition("_")
    if not blank:
        raise ValueError("its sentence has no blank (_)")
    return {"contexts": [before + option for option in options], "rest": after.strip(), "gold": gold}


def _truthful(row: Mapping[str, Any]) -> dict[str, Any]:
    question = _text(row, "question")
    if "mc1_targets" in row:
        one, two = (row[name] for name in ("mc1_targets", "mc2_targets"))
        parts = [(one["choices"], one["labels"]), (two["choices"], two["labels"])]
    else:
        texts = _texts(row["mc1_choices"])
        right = _index(row["mc1_answer"], len(texts))
        labels = [int(i == right) for i in range(len(texts))]
        parts = [(texts, labels), (row["mc2_choices"], row["mc2_labels"])]
    for texts, labels in parts:
        if len(labels) != len(_texts(texts)) or not {*labels} <= {0, 1} or 1 not in labels:
            raise ValueError("its choices do not have a label, 0 or 1, each, and one that is right")
    (one, labels), (two, others) = parts
    if labels[0] != 1:
        raise ValueError("the first of its mc1 choices is not the right one")
    return {"question": question, "mc1": one, "mc2": two, "labels": [*others]}


def _humaneval(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _text(row, key) for key in ("prompt", "entry_point", "test")}


READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "mmlu": _mmlu,
    "winogrande": _winogrande,
    "truthfulqa_mc1": _truthful,
    "truthfulqa_mc2": _truthful,
    "humaneval": _humaneval,
}
"""Tasks that can be read from files, and how a row becomes the fields of a question."""
