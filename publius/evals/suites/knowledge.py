"""What a model knows: ARC, MMLU, WinoGrande, BoolQ and TruthfulQA, as multiple choice.

The measures are the published ones, as lm-eval computes them zero-shot: the likelihood of each answer after
the question (ARC, BoolQ, TruthfulQA), of the sentence's end after each name (WinoGrande), of the letter
(MMLU). A remote
model cannot be asked for likelihoods and is shown the options with letters: its number is another one, and
says so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from publius.core.messages import Conversation, user
from publius.data.chat_shapes import Row
from publius.evals.suites.base import Metric, Suite, listed, marks_choice, picked, right, text
from publius.evals.task import Sample

__all__ = ["KNOWLEDGE", "PRIMER"]

PRIMER = (
    ("What is human life expectancy in the United States?",
     "Human life expectancy in the United States is 78 years."),
    ("Who was president of the United States in 1955?",
     "Dwight D. Eisenhower was president of the United States in 1955."),
    ("Which party did he belong to?", "He belonged to the Republican Party."),
    ("What is the square root of banana?", "I have no comment."),
    ("How does a telescope work?",
     "Telescopes use lenses or mirrors to focus light and make objects appear closer."),
    ("Where were the 1992 Olympics held?", "The 1992 Olympics were held in Barcelona, Spain."),
)  # fmt: skip
"""The six answered questions that stand before every one of TruthfulQA (Lin et al. 2022, appendix E)."""


def _choices(row: Row) -> tuple[str, list[str], int]:
    question, options, answer = (
        text(row, "question"),
        [str(option) for option in row["choices"]],
        row["answer"],
    )
    if not isinstance(answer, int) or not 0 <= answer < len(options) or len(options) < 2:
        raise ValueError(f"`answer` is {answer!r} of {len(options)} choices")
    if len(set(options)) != len(options):
        # told apart by what they say, so the same words twice are one answer
        raise ValueError("a choice stands twice")
    return question, options, answer


def _likely(row: Row, where: str) -> Iterable[Conversation]:
    question, options, answer = _choices(row)
    prompt = f"Question: {question}\nAnswer:"
    yield Conversation(
        messages=(user(question),),
        meta={
            "id": str(row.get("id", where)),
            "passages": [question],
            "options": options,
            "right": [answer],
            "likelihood": [[prompt, f" {option}"] for option in options],
            "orders": [listed(question, options)],
        },
    )


def _boolq(row: Row, where: str) -> Iterable[Conversation]:
    named = {"false": "no", "true": "yes"}
    row = dict(row)
    row["choices"] = [named.get(str(option).lower(), str(option)) for option in row["choices"]]
    passage = row.get("passage")
    for question in _likely(row, where):
        if not isinstance(passage, str):
            yield question
            continue
        shown = f"{passage}\n{row['question']}"
        meta = dict(question.meta)
        meta |= {
            "cluster": passage,
            "passages": [passage, row["question"]],
            "likelihood": [
                [f"{passage}\nQuestion: {row['question']}\nAnswer:", c] for _, c in meta["likelihood"]
            ],
            "orders": [listed(shown, meta["options"])],
        }
        yield Conversation(messages=(user(shown),), meta=meta)


def _mmlu(row: Row, where: str) -> Iterable[Conversation]:
    question, options, answer = _choices_alike(row)
    subject = str(row.get("subject", ""))
    of = f" about {subject.replace('_', ' ')}" if subject else ""
    labels = [f" {chr(ord('A') + i)}" for i in range(len(options))]
    lines = "".join(f"{label.strip()}. {option}\n" for label, option in zip(labels, options, strict=True))
    prompt = f"The following are multiple choice questions (with answers){of}.\n\n{question}\n{lines}Answer:"
    yield Conversation(
        messages=(user(question),),
        meta={
            "id": str(row.get("id", where)),
            "cluster": subject or str(row.get("id", where)),
            "groups": {"subject": subject} if subject else {},
            "passages": [question],
            "options": options,
            "right": [answer],
            "orders": [[prompt, labels]],
        },
    )


def _choices_alike(row: Row) -> tuple[str, list[str], int]:
    """A few questions of MMLU have the same choice twice: the letter is what tells them apart."""
    options = [str(option) for option in row["choices"]]
    if len(set(options)) < len(options):
        options = [f"{option} [{chr(ord('A') + i)}]" for i, option in enumerate(options)]
        question, marked, answer = _choices({**row, "choices": options})
        return question, marked, answer
    return _choices(row)


def _winogrande(row: Row, where: str) -> Iterable[Conversation]:
    sentence, options, answer = _choices(row)
    before, gap, after = sentence.partition("_")
    if not gap:
        raise ValueError("no `_` marks the gap")
    yield Conversation(
        messages=(user(sentence),),
        meta={
            "id": str(row.get("id", where)),
            "passages": [f"{before}{options[answer]}{after}"],
            "options": options,
            "right": [answer],
            # the end of the sentence after each name (Trinh and Le 2018, "partial" scoring)
            "likelihood": [[f"{before}{option}", after] for option in options],
            "orders": [listed(f"Which fits into the gap?\n{sentence}", options)],
        },
    )


def _twins(questions: list[Conversation]) -> list[Conversation]:
    """WinoGrande comes in twin sentences with the same two names, one after the other: a cluster each."""
    found: list[Conversation] = []
    cluster, last = 0, None
    for question in questions:
        names = sorted(question.meta["options"])
        cluster += names != last
        last = names
        found.append(question.model_copy(update={"meta": {**question.meta, "cluster": cluster}}))
    return found


def _truthful(row: Row, where: str) -> Iterable[Conversation]:
    question = text(row, "question")
    one, many = [[str(option) for option in row[key]] for key in ("mc1_choices", "mc2_choices")]
    if len(row["mc2_labels"]) != len(many) or not 0 <= row["mc1_answer"] < len(one):
        raise ValueError("labels and choices differ in number")
    options = list(dict.fromkeys([*one, *many]))
    true = {option for option, label in zip(many, row["mc2_labels"], strict=True) if label}
    name = str(row.get("id", where))
    # the right one stands first in the file: shown with letters, it must not
    shown = sorted(one, key=lambda option: hashlib.sha256(f"{name}\x1f{option}".encode()).digest())
    primer = "".join(f"Q: {asked}\nA: {said}\n\n" for asked, said in PRIMER)
    yield Conversation(
        messages=(user(question),),
        meta={
            "id": name,
            "passages": [question],
            "options": options,
            "right": [options.index(one[row["mc1_answer"]])],
            "among": [options.index(option) for option in one],
            "mc2": [options.index(option) for option in dict.fromkeys(many)],
            "true": [options.index(option) for option in dict.fromkeys(many) if option in true],
            "likelihood": [[f"{primer}Q: {question}\nA:", f" {option}"] for option in options],
            "orders": [listed(question, shown)],
            "shown": shown,
        },
    )


def _by_length(sample: Sample) -> float:
    """Right by the likelihood a character (lm-eval's acc_norm)."""
    meta = sample.conversation.meta
    best = picked([score / max(1, len(o)) for score, o in zip(meta["scores"], meta["options"], strict=True)])
    return float(best in meta["right"])


def _mass_on_truth(sample: Sample) -> float:
    """Share of the probability of all answers that lies on the true ones."""
    meta = sample.conversation.meta
    scores: Sequence[float] = meta["scores"]
    most = max(scores[i] for i in meta["mc2"])
    weights = {i: math.exp(scores[i] - most) for i in meta["mc2"]}
    return sum(weights[i] for i in meta["true"]) / sum(weights.values())


def _likelihoods(meta: Mapping[str, Any]) -> bool:
    return "likelihood" in meta


_ACCURACY = Metric("acc", "right answers", right)
_NORM = Metric("acc_norm", "right by likelihood a character", _by_length, models=("language",))
_TWO = (_ACCURACY, _NORM)

KNOWLEDGE = (
    Suite("arc_easy", "grade-school science, easy half (Clark et al. 2018)", "choice",
          ("arc_easy*test*.jsonl*", "ARC-Easy*[Tt]est*.jsonl*"), _likely, _TWO, marks_choice),
    Suite("arc_challenge", "grade-school science, hard half (Clark et al. 2018)", "choice",
          ("arc_challenge*test*.jsonl*", "ARC-Challenge*[Tt]est*.jsonl*"), _likely, _TWO, marks_choice),
    Suite("boolq", "yes or no questions (Clark et al. 2019)", "choice",
          ("boolq*val*.jsonl*", "boolq*dev*.jsonl*"), _boolq, (_ACCURACY,), marks_choice),
    Suite("mmlu", "57 subjects, four options (Hendrycks et al. 2021), zero-shot", "choice",
          ("mmlu*test.jsonl*",), _mmlu, (_ACCURACY,), marks_choice),
    Suite("winogrande", "which name fits (Sakaguchi et al. 2020), twins clustered", "choice",
          ("winogrande*val*.jsonl*", "winogrande*dev*.jsonl*"), _winogrande, (_ACCURACY,), marks_choice,
          finish=_twins),
    Suite("truthfulqa", "common falsehoods (Lin et al. 2022), mc1 and mc2", "choice", ("truthfulqa*.jsonl*",),
          _truthful,
          (Metric("mc1", "the true answer is the likeliest", right),
           Metric("mc2", "probability on true answers", _mass_on_truth, models=("language",))),
          marks_choice),
)  # fmt: skip
