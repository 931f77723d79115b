"""A suite: a named set of questions in a file the user has, how they are marked, and what is reported.

    suite.task(files, solver)            # a Task(dataset, solver, scorer), as everywhere

A question is a `Conversation` whose `meta` holds what solver and scorer need:

- `id`; `cluster` (items of one passage, subject or template share it); `groups` (dimension -> value, reported
  apart);
- `passages`: the item's own text, without the words a layout adds, for the contamination check;
- `options`, `right` (indices), and how they are put: `orders` (`[[prompt, [labels]], ...]`, the second with
  its options the other way round) and, where the published measure is the likelihood of the answers
  themselves, `likelihood` (`[[prompt, continuation], ...]`, one an option);
- `replies`: the texts behind two options, which a preference model reads.

A solver adds `scores` (one an option, natural logarithms up to a constant), `lengths` in characters, and
`consistent` (both orders prefer the same).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.data.chat_shapes import Row
from publius.data.files import expand
from publius.data.sources import rows
from publius.evals.task import Sample, Scorer, Solver, Task, Verdict

__all__ = [
    "Form",
    "Kind",
    "Metric",
    "Suite",
    "draw",
    "group_names",
    "letters",
    "listed",
    "marks_choice",
    "picked",
    "right",
    "text",
]

Kind = Literal["language", "preference", "remote"]
"""Of a model: one that writes, one that scores replies, one behind an address."""
Form = Literal["choice", "reply"]
"""An option is chosen, or a reply written."""


class Metric(NamedTuple):
    """One number of a suite: a mean over the samples it covers.

    Attributes:
        mark: what a sample gives; None where it does not count (a bias among those that took a side).
        worst: what a sample without a verdict gives: it counts against the model.
        better: whether more is better, or neither.
        covers: which questions, by their meta.
        unit: how far one sample can part two models.
        models: the kinds of model it can be read of.
        silent: a sample that has no mark of this kind, and counts as the worst; one without a verdict has
            none.
    """

    name: str
    about: str
    mark: Callable[[Sample], float | None]
    worst: float | None = 0.0
    better: Literal["higher", "lower", ""] = "higher"
    covers: Callable[[Mapping[str, Any]], bool] = lambda _: True
    unit: float = 1.0
    models: tuple[Kind, ...] = ("language", "preference", "remote")
    silent: Callable[[Sample], bool] = lambda _: False
    of_model: bool = True
    """False of a rule's number, that says nothing of the model: it needs no answer, and has no difference."""

    def unscored(self, sample: Sample) -> bool:
        """Whether nothing could be told of it."""
        return self.of_model and (sample.verdict is None or self.silent(sample))

    def of(self, sample: Sample) -> float | None:
        """The number a sample gives."""
        return self.worst if self.unscored(sample) else self.mark(sample)


@dataclass(frozen=True)
class Suite:
    """A named set of questions.

    Args:
        about: a line for `publius eval list`.
        files: what its files are called in a folder of data, as patterns.
        read: a row of a file and where it stands -> its questions.
        finish: all questions of the files -> the same, with clusters that no row can tell alone.
        judge: what a judge is asked about the reply to a question ("Does this reply ...?"); None: nothing.
        judged_only: the questions that nothing but a judge can mark; without one they are not asked.
        metrics: the first is the one a plot shows.
        models: kinds of model it can be asked of.
    """

    name: str
    about: str
    form: Form
    files: tuple[str, ...]
    read: Callable[[Row, str], Iterable[Conversation]]
    metrics: tuple[Metric, ...]
    scorer: Scorer
    finish: Callable[[list[Conversation]], list[Conversation]] = list
    judge: Callable[[Mapping[str, Any]], str | None] | None = None
    judged_only: Callable[[Mapping[str, Any]], bool] = lambda _: False
    models: tuple[Kind, ...] = ("language", "preference", "remote")

    def questions(self, paths: Sequence[str]) -> list[Conversation]:
        """The questions of `paths`, in order.

        Raises:
            UserError: for a file that cannot be read, or holds none.
        """
        found: list[Conversation] = []
        for path in expand(paths):
            for row, where in rows(path):
                try:
                    found += [_filed(question, path) for question in self.read(row, where)]
                except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                    raise UserError(
                        f"no question of {self.name}: {type(error).__name__} {error}; its keys are "
                        + ", ".join(map(repr, row)),
                        where=where,
                        fix="see docs/evals.md for the layouts",
                    ) from None
        if not found:
            raise UserError("there are no questions", where=", ".join(paths), fix="give a file with rows")
        return self.finish(_distinct(found))

    def task(self, questions: Sequence[Conversation], solver: Solver) -> Task:
        """The questions, a model's solver, and the suite's scorer."""
        return Task(self.name, questions, solver, self.scorer)


def _filed(question: Conversation, path: str) -> Conversation:
    """An id that begins with the file's path, with its name alone: the same draw wherever the file lies."""
    name = str(question.meta["id"])
    if not name.startswith(path):
        return question
    moved = PurePath(path).name + name[len(path) :]
    return question.model_copy(update={"meta": {**question.meta, "id": moved}})


def _distinct(questions: list[Conversation]) -> list[Conversation]:
    """Ids are told apart, where files name two questions alike."""
    seen: dict[str, int] = {}
    found: list[Conversation] = []
    for question in questions:
        name = str(question.meta["id"])
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        found.append(question.model_copy(update={"meta": {**question.meta, "id": name}}))
    return found


def draw(questions: Sequence[Conversation], limit: int | None) -> list[Conversation]:
    """At most `limit` of them, those whose ids hash lowest, in their own order.

    So every model is asked the same ones, and they are a fair draw of the file.
    """
    if limit is None or len(questions) <= limit:
        return list(questions)
    chosen = sorted(range(len(questions)), key=lambda i: _hash(questions[i]))[:limit]
    return [questions[i] for i in sorted(chosen)]


def _hash(question: Conversation) -> bytes:
    return hashlib.sha256(str(question.meta["id"]).encode("utf-8", "surrogatepass")).digest()


def text(row: Mapping[str, Any], key: str) -> str:
    """The text at a key.

    Raises:
        ValueError: when it is none.
    """
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` is no text")
    return value


def letters(count: int) -> list[str]:
    """(A), (B), ... as many as are wanted.

    Raises:
        ValueError: for more than 26.
    """
    if not 2 <= count <= 26:
        raise ValueError(f"{count} options")
    return [f" ({chr(ord('A') + i)})" for i in range(count)]


def listed(question: str, options: Sequence[str], *, cue: str = "The answer is:") -> list[Any]:
    """A question with its options on lines of their own and a cue: one of `orders`."""
    labels = letters(len(options))
    lines = "".join(f"\n{label} {option}" for label, option in zip(labels, options, strict=True))
    return [f"{question}\n{lines}\n\n{cue}", labels]


def right(sample: Sample) -> float:
    """1 for a right answer."""
    return float(sample.verdict is not None and sample.verdict.correct)


def picked(scores: Sequence[float]) -> int | None:
    """The best option; None for a tie."""
    best = max(scores)
    found = [i for i, score in enumerate(scores) if score == best]
    return found[0] if len(found) == 1 else None


def marks_choice(meta: Mapping[str, Any], reply: str) -> Verdict:
    """Right when the text of a right option was chosen."""
    wanted = {str(meta["options"][i]) for i in meta["right"]}
    return Verdict(correct=reply in wanted, leaked=False, refused=False)


def group_names(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """`dimension.value` -> its samples, in alphabetical order."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        for dimension, value in (sample.conversation.meta.get("groups") or {}).items():
            found.setdefault(f"{dimension}.{value}", []).append(sample)
    return dict(sorted(found.items()))
