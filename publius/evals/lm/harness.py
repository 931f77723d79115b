"""lm-eval, where it is installed: our engine dressed as its model class, questions of files as its tasks.

lm-eval is an extra (`pip install 'publius[eval]'`), imported when it is needed and not before. All that is
particular to it is in this file.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
import yaml

from publius.core.errors import UserError
from publius.evals.lm.docs import READERS, Doc
from publius.evals.lm.humaneval import passes
from publius.evals.lm.model import EngineLM

__all__ = [
    "Answered",
    "Leaf",
    "available",
    "dressed",
    "file_leaf",
    "named_leaves",
    "need_harness",
    "run_leaves",
]


class Leaf(NamedTuple):
    """One task of lm-eval.

    Attributes:
        asked: the name it was asked for by: of a subject, its whole benchmark.
        name: its own.
        task: lm-eval's object.
        docs: the questions, where they came from a file.
        notes: of questions by number, filled while answers are marked: how a program ended.
    """

    asked: str
    name: str
    task: Any
    docs: tuple[Doc, ...] = ()
    notes: Mapping[int, str] = MappingProxyType({})


class Answered(NamedTuple):
    """What came of one task.

    Attributes:
        items: for each question its number in the task, its metrics, and a note (how its program ended).
        totals: metrics that are not means of questions' own, such as a perplexity.
    """

    leaf: Leaf
    items: list[tuple[int, dict[str, float], str]]
    totals: dict[str, float]


def available() -> bool:
    """Whether lm-eval is installed."""
    return importlib.util.find_spec("lm_eval") is not None


def need_harness() -> None:
    """Refuse where lm-eval is not installed.

    Raises:
        UserError: saying how to install it.
    """
    if not available():
        raise UserError(
            "lm-eval is not installed",
            where="lm: tasks",
            fix="pip install 'publius[eval]', or choose other tasks",
        )


def dressed(lm: EngineLM, name: str = "publius") -> Any:
    """`lm` as an instance of lm-eval's `LM`, for its `evaluate` and `simple_evaluate`.

    Args:
        name: of the tokenizer, which keys lm-eval's cache of requests.

    Raises:
        UserError: where lm-eval is not installed.
    """
    need_harness()
    base: Any = importlib.import_module("lm_eval.api.model").LM

    class Dressed(base):
        """Our engine in lm-eval's clothes."""

        tokenizer_name = name

        def loglikelihood(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            found = lm.loglikelihood([request.args for request in requests])
            return self._kept("loglikelihood", requests, [(one.logprob, one.greedy) for one in found])

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            found = lm.loglikelihood_rolling([request.args[0] for request in requests])
            return self._kept("loglikelihood_rolling", requests, found)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            found = lm.generate_until([request.args for request in requests])
            return self._kept("generate_until", requests, found)

        def _kept(self, kind: str, requests: Sequence[Any], found: list[Any]) -> list[Any]:
            for request, one in zip(requests, found, strict=True):
                self.cache_hook.add_partial(kind, request.args, one)
            return found

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return lm.chat(chat_history, reply=add_generation_prompt)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return lm.template.source if chat_template and lm.template is not None else ""

    return Dressed()


def file_leaf(
    asked: str, name: str, config: str, docs: Sequence[Doc], shots: Sequence[Doc], count: int, seed: int
) -> Leaf:
    """A task of questions from a file.

    Args:
        config: YAML in lm-eval's layout.
        shots: examples to show before a question; `count` of them are.
        seed: of which are shown, where the task does not take the first.
    """
    data = importlib.import_module("datasets").Dataset.from_list
    told = cast("dict[str, Any]", yaml.safe_load(config))
    splits = {"test": data([doc.fields for doc in docs])}
    if shots:
        splits["dev"] = data([doc.fields for doc in shots])
        told["fewshot_split"] = "dev"

    def dataset(**_: Any) -> dict[str, Any]:
        return splits

    told |= {"task": name, "num_fewshot": count, "custom_dataset": dataset}
    for key in ("doc_to_text", "description"):
        if "{{" in told.get(key, ""):
            told[key] = _compiled(told[key])
    notes: dict[int, str] = {}
    if asked in _MARKS:
        told["process_results"] = _MARKS[asked](docs, notes)
    task = importlib.import_module("lm_eval.api.task").ConfigurableTask(config=told)
    task.set_fewshot_seed(seed)
    return Leaf(asked, name, task, tuple(docs), notes)


def _compiled(template: str) -> Callable[[Mapping[str, Any]], str]:
    """lm-eval compiles a template again for every question; this is the same one, compiled once."""
    render = importlib.import_module("lm_eval.utils").env.from_string(template).render
    return lambda fields: render(**fields)


Mark = Callable[[Mapping[str, Any], Sequence[Any]], dict[str, float]]


def _truth(docs: Sequence[Doc], notes: dict[int, str]) -> Mark:
    """The probability of the true answers among all (Lin et al. 2022, section 3.2)."""

    def mark(fields: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
        most = max(logprob for logprob, _ in results)
        shares = [math.exp(logprob - most) for logprob, _ in results]
        true = sum(share for share, label in zip(shares, fields["labels"], strict=True) if label)
        return {"acc": true / sum(shares)}

    return mark


def _tests(docs: Sequence[Doc], notes: dict[int, str]) -> Mark:
    """Whether a program passes its tests, run in the sandbox."""
    numbers = {doc.fields["prompt"]: number for number, doc in enumerate(docs)}

    def mark(fields: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        passed, notes[numbers[fields["prompt"]]] = passes(fields, results[0])
        return {"pass@1": float(passed)}

    return mark


_MARKS: dict[str, Callable[[Sequence[Doc], dict[int, str]], Mark]] = {
    "truthfulqa_mc2": _truth,
    "humaneval": _tests,
}
"""Tasks that are not marked by the likeliest choice."""


def named_leaves(asked: str, shots: int | None, seed: int) -> list[Leaf]:
    """The tasks lm-eval knows by this name, with the questions it downloads.

    Raises:
        UserError: for a name it does not know, questions that cannot be had, and tasks that run what a model
            writes outside a sandbox.
    """
    tasks = importlib.import_module("lm_eval.tasks")
    manager = tasks.TaskManager()
    if asked not in manager.all_tasks:
        near = difflib.get_close_matches(asked, manager.all_tasks, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "`lm-eval ls tasks` lists those it knows"
        raise UserError(f"lm-eval knows no task {asked!r}", where="lm: tasks", fix=fix)
    try:
        loaded = cast("dict[Any, Any]", manager.load_task_or_group([asked]))
    except Exception as error:  # whatever a dataset's download or script raises
        raise UserError(
            f"lm-eval cannot load {asked}: {type(error).__name__}: {error}",
            where=f"lm:{asked}",
            fix=f"name a file with --file {asked}=PATH"
            if asked in READERS
            else f"see that its questions can be downloaded; from files come {', '.join(READERS)}",
        ) from error
    leaves = [Leaf(asked, name, task) for name, task in _flat(loaded)]
    for leaf in leaves:
        if leaf.task.get_config("unsafe_code"):
            raise UserError(
                f"{leaf.name} runs programs that a model wrote, and lm-eval would run them without a sandbox",
                where=f"lm:{asked}",
                fix="use lm:humaneval with --file humaneval=PATH",
            )
        fixed = leaf.task.get_config("num_fewshot")
        if fixed is None or (shots is not None and fixed != 0):
            leaf.task.set_config("num_fewshot", shots or 0)
        leaf.task.set_fewshot_seed(seed)
    return leaves


def _flat(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, task in loaded.items():
        if isinstance(task, dict):
            yield from _flat(cast("dict[Any, Any]", task))
        else:
            yield str(name), task


def run_leaves(
    model: Any, leaves: Sequence[Leaf], *, limit: int | None, chat: bool, seed: int
) -> list[Answered]:
    """Ask everything, each kind of request of all tasks in one go.

    Args:
        model: of `dressed`, or any other of lm-eval's.
        limit: most questions of a task.

    Raises:
        UserError: as the model.
    """
    random.seed(seed)
    evaluate: Callable[..., Any] = importlib.import_module("lm_eval.evaluator").evaluate
    with quiet():
        results = evaluate(
            lm=model,
            task_dict={leaf.name: leaf.task for leaf in leaves},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    return [_answered(leaf, results) for leaf in leaves]


def _answered(leaf: Leaf, results: Mapping[str, Any]) -> Answered:
    samples: list[dict[str, Any]] = results["samples"][leaf.name]
    filters = {sample["filter"] for sample in samples}
    found: dict[int, dict[str, float]] = {}
    totals: dict[str, float] = {}
    for sample in samples:
        values = found.setdefault(sample["doc_id"], {})
        for metric in sample["metrics"]:
            value, name = sample[metric], metric if len(filters) == 1 else f"{metric},{sample['filter']}"
            if isinstance(value, int | float):
                values[name] = float(value)
            elif np.ndim(value) == 0:
                values[name] = float(np.asarray(value))
            else:
                total = results["results"][leaf.name].get(f"{metric},{sample['filter']}")
                if isinstance(total, int | float):
                    totals[name] = float(total)
    items = [(number, values, leaf.notes.get(number, "")) for number, values in sorted(found.items())]
    return Answered(leaf, items, totals)


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval's remarks stay out of the terminal; its errors are ours to tell."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
