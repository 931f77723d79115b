"""A judge's reading of replies that no program can mark: one question each, yes or no, in both orders."""

from __future__ import annotations

from collections.abc import Sequence

from publius.constitution.raw_text import visible
from publius.core.messages import text_of
from publius.evals.choices import ChoiceItem, ChoiceScorer, Chosen, MultipleChoice
from publius.evals.suites.base import Suite, listed
from publius.evals.task import Sample

__all__ = ["judge"]


def judge(suite: Suite, samples: Sequence[Sample], scorer: ChoiceScorer) -> list[Sample]:
    """The samples, with `judged` in the meta of those the judge was asked about.

    `judge_consistent` says whether both orders of yes and no gave the same.

    True for yes, False for no, None where it gave no answer, or as likely one as the other, and where there
    was no reply to ask about.
    """
    asked: list[tuple[int, ChoiceItem]] = []
    found = list(samples)
    for index, sample in enumerate(samples):
        question = suite.judge(sample.conversation.meta) if suite.judge else None
        if question is not None and sample.verdict is None:
            found[index] = _with(sample, None)
        elif question is not None:
            asked.append((index, _item(sample, question)))
    if not asked:
        return found
    for (index, _), said in zip(asked, scorer.score([item for _, item in asked]), strict=True):
        yes = said.probabilities[0] if isinstance(said, Chosen) else 0.5
        consistent = said.consistent if isinstance(said, Chosen) else None
        found[index] = _with(samples[index], None if yes == 0.5 else yes > 0.5, consistent)
    return found


def _item(sample: Sample, question: str) -> ChoiceItem:
    said = sample.conversation.messages
    request = "\n\n".join(visible(message) for message in said[:-1])
    shown = f"Request:\n{request}\n\nReply:\n{text_of(said[-1]).strip() or '(nothing)'}\n\n{question}"
    orders = tuple(
        MultipleChoice(prompt, tuple(labels))
        for prompt, labels in (listed(shown, ["Yes", "No"]), listed(shown, ["No", "Yes"]))
    )
    return ChoiceItem(str(sample.conversation.meta["id"]), orders, ())


def _with(sample: Sample, judged: bool | None, consistent: bool | None = None) -> Sample:
    meta = {**sample.conversation.meta, "judged": judged, "judge_consistent": consistent}
    return sample.model_copy(update={"conversation": sample.conversation.model_copy(update={"meta": meta})})
