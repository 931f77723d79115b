"""Standard benchmarks on checkpoints: names of tasks in, reports out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.core.stats import Estimate, mean_estimate, wilson
from publius.evals.lm.docs import READERS, read_docs
from publius.evals.lm.harness import (
    Answered,
    Leaf,
    dressed,
    file_leaf,
    named_leaves,
    need_harness,
    quiet,
    run_leaves,
)
from publius.evals.lm.model import EngineLM
from publius.evals.report import Measure, ReportDocument
from publius.inference.host import Dtype
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline.names import did_you_mean

__all__ = ["LmItem", "LmResult", "evaluate_lm", "leaves_of"]

_PREFIX = "lm"
_MMLU_SHOTS = 5
_SHARED = {"truthfulqa_mc1": "truthfulqa", "truthfulqa_mc2": "truthfulqa"}
"""One file holds the questions of both."""


class LmItem(NamedTuple):
    """How one question was answered, for comparisons question by question.

    Attributes:
        task: the name it was asked for by.
        group: of questions that are not independent; empty when it stands alone.
        values: by metric; 0 or 1 where that is a mark.
        note: how a program ended; else empty.
    """

    task: str
    id: str
    group: str
    values: dict[str, float]
    note: str = ""


class LmResult(NamedTuple):
    """The report on one model, and every question behind it."""

    document: ReportDocument
    items: list[LmItem]


def evaluate_lm(
    tasks: Sequence[str],
    models: Sequence[Checkpoint],
    *,
    files: Mapping[str, str | Path] | None = None,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
    max_gen_toks: int | None = None,
    device: str = "auto",
    dtype: Dtype = None,
    max_batch: int = 64,
    seed: int = 1234,
) -> list[LmResult]:
    """Ask models the questions of lm-eval's tasks, and mark the answers as lm-eval does; one result a model.

    Metrics are `lm.TASK.METRIC`, with n and an interval. `by_category` has those of each subject.

    Args:
        tasks: of those with a file (`READERS`) by that file; any other by lm-eval's own name, with the
            questions that it downloads.
        files: by task the file of its questions (`truthfulqa` for both of its tasks), and by TASK_dev
            (`mmlu_dev`) that of the examples shown before a question.
        limit: most questions of a task; of MMLU, of a subject.
        shots: examples before a question. None is five of `mmlu_dev` where that is given, else what lm-eval's
            task says, else none.
        chat: put it all into the checkpoint's chat template.
        max_gen_toks: most new tokens of tasks that write; None is what the task says.
        dtype: of products; None is the weights' own, which is what comparable numbers need.
        seed: of lm-eval's choice of examples.

    Raises:
        UserError: when lm-eval is not installed, a task is unknown, a file has rows that are no questions, or
            a task cannot be asked of a model.
    """
    need_harness()
    leaves = leaves_of(tasks, files or {}, shots=shots, seed=seed)
    if max_gen_toks is not None:
        for leaf in leaves:
            if leaf.task.get_config("output_type") == "generate_until":
                leaf.task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
    config: dict[str, Any] = {
        "tasks": [*tasks],
        "files": {name: Path(file).name for name, file in (files or {}).items()},
        "limit": limit, "shots": shots, "chat": chat, "max_gen_toks": max_gen_toks,
        "dtype": None if dtype is None else str(dtype), "seed": seed,
    }  # fmt: skip
    results: list[LmResult] = []
    for checkpoint in models:
        lm = EngineLM.of(checkpoint, device=str(pick_device(device)), dtype=dtype, max_batch=max_batch)
        answered = run_leaves(dressed(lm), leaves, limit=limit, chat=chat, seed=seed)
        results.append(_result(checkpoint, tasks, answered, config))
    return results


def leaves_of(
    tasks: Sequence[str], files: Mapping[str, str | Path], *, shots: int | None = None, seed: int = 1234
) -> list[Leaf]:
    """The tasks behind these names, ready to be asked; errors and arguments as `evaluate_lm`."""
    known = {*READERS, *(f"{name}_dev" for name in READERS), "truthfulqa"}
    for name in files:
        if name not in known:
            raise UserError(
                f"{name!r} is no task that reads a file",
                where="--file",
                fix=did_you_mean(name, sorted(known)),
            )
    if len({*tasks}) != len(tasks) or not tasks:
        raise UserError("no tasks, or one twice", where="lm: tasks", fix="name each task once")
    leaves: list[Leaf] = []
    with quiet():
        for task in tasks:
            file = files.get(task) or files.get(_SHARED.get(task, task))
            if file is not None:
                leaves += _file_leaves(task, str(file), files.get(f"{task}_dev"), shots, seed)
            elif task == "humaneval":
                raise UserError(
                    "humaneval runs what a model wrote, in our sandbox, on questions from a file",
                    where="lm:humaneval",
                    fix="name the file with --file humaneval=PATH",
                )
            else:
                leaves += named_leaves(task, shots, seed)
    return leaves


def _file_leaves(task: str, file: str, dev: str | Path | None, shots: int | None, seed: int) -> list[Leaf]:
    if dev is not None and Path(dev).resolve() == Path(file).resolve():
        raise UserError(
            f"the examples of {task} are its own questions, so their answers would stand in the prompt",
            where=f"{task}_dev={dev}",
            fix="name a file with other questions",
        )
    docs = read_docs(task, file)
    examples = [] if dev is None else read_docs(task, str(dev))
    count = shots if shots is not None else _MMLU_SHOTS if task == "mmlu" and examples else 0
    if count and not examples:
        raise UserError(
            f"{count} examples before each question of {task}, and no file of examples",
            where="shots",
            fix=f"name one with --file {task}_dev=PATH",
        )
    config = resources.files("publius.evals.lm.tasks").joinpath(f"{task}.yaml").read_text("utf-8")
    if task != "mmlu":
        return [file_leaf(task, task, config, docs, examples, count, seed)]
    leaves: list[Leaf] = []
    for subject in dict.fromkeys(doc.group for doc in docs):
        shown = [doc for doc in examples if doc.group == subject]
        if len(shown) < count:
            raise UserError(
                f"{len(shown)} examples of {subject}, where {count} are shown before each question",
                where=str(dev),
                fix="give a file with more, or ask for fewer shots",
            )
        told = config.replace("{subject}", subject.replace("_", " "))
        mine = [doc for doc in docs if doc.group == subject]
        leaves.append(file_leaf(task, f"mmlu_{subject}", told, mine, shown, count, seed))
    return leaves


def _result(
    checkpoint: Checkpoint, tasks: Sequence[str], answered: Sequence[Answered], config: dict[str, Any]
) -> LmResult:
    items = [item for one in answered for item in _items(one)]
    metrics: dict[str, Measure] = {}
    categories: dict[str, dict[str, Measure]] = {}
    for task in tasks:
        mine = [one for one in answered if one.leaf.asked == task]
        for name, measure in _measures([item for item in items if item.task == task]).items():
            metrics[f"{_PREFIX}.{task}.{name}"] = measure
        for one in mine:
            for name, value in one.totals.items():
                metrics[f"{_PREFIX}.{one.leaf.name}.{name}"] = Measure.of(value)
            if len(mine) > 1:
                categories[one.leaf.name] = _measures(_items(one))
    document = ReportDocument(
        model=fingerprint(checkpoint), prefix=_PREFIX, split="test", metrics=metrics, by_category=categories,
        config=config,
    )  # fmt: skip
    return LmResult(document, items)


def _items(answered: Answered) -> list[LmItem]:
    leaf = answered.leaf
    group = leaf.name if leaf.name != leaf.asked else ""
    return [
        LmItem(
            leaf.asked, leaf.docs[number].id if leaf.docs else f"{leaf.name}-{number}", group, values, note
        )
        for number, values, note in answered.items
    ]


def _measures(items: Sequence[LmItem]) -> dict[str, Measure]:
    """Each metric's mean over the questions that have it."""
    names = dict.fromkeys(name for item in items for name in item.values)
    return {
        name: Measure.of(_interval([item.values[name] for item in items if name in item.values]))
        for name in names
    }


def _interval(values: Sequence[float]) -> Estimate:
    """Marks are a rate; other numbers (a probability of truth) a mean."""
    if {*values} <= {0.0, 1.0}:
        return wilson(round(sum(values)), len(values))
    mean = mean_estimate(values)
    if all(0 <= value <= 1 for value in values):
        return mean._replace(low=max(0.0, mean.low), high=min(1.0, mean.high))
    return mean
