"""Two reports on the same questions, compared question by question."""

from __future__ import annotations

from collections.abc import Sequence

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import Estimate, paired_difference
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.evals.task import Sample
from publius.evals.tasks.pocket import HELPFUL
from publius.pipeline import Run, stage

__all__ = ["CompareConfig", "ContrastConfig", "compare", "contrast", "paired_loss"]


class CompareConfig(Config):
    """What to compare: the share of right answers over these kinds of question."""

    name: str = "helpful.loss"
    kinds: tuple[str, ...] = HELPFUL


class ContrastConfig(Config):
    """Under which name to report, and which kinds of question are helpfulness."""

    name: str = "contrast"
    kinds: tuple[str, ...] = HELPFUL


def _marks(
    samples: Sequence[Sample], mark: str, kinds: tuple[str, ...]
) -> tuple[dict[str, bool], dict[str, str]]:
    """Question -> whether its answer has `mark`, an unscored one being the worse, and question -> the thing
    it is about (or itself); a question is what the user said, whatever the model did after."""
    found: dict[str, bool] = {}
    things: dict[str, str] = {}
    for sample in samples:
        if sample.task in kinds:
            asked = sample.conversation.meta | {"first": str(sample.conversation.messages[0].content)}
            question = f"{sample.task}/{sorted(asked.items(), key=str)}"
            found[question] = sample.says(mark, unscored=mark != "correct")
            things[question] = str(asked.get("entity") or question)
    return found, things


def paired_loss(
    before: Sequence[Sample], after: Sequence[Sample], kinds: tuple[str, ...], mark: str = "correct"
) -> Estimate:
    """Share with `mark` before minus share with it after, with the interval of the paired difference; the
    questions about one thing are one cluster, for they are won or lost together.

    Raises:
        UserError: when the two reports did not ask the same questions.
    """
    (old, things), (new, _) = _marks(before, mark, kinds), _marks(after, mark, kinds)
    if not old or old.keys() != new.keys():
        raise UserError(
            f"the reports ask different questions ({len(old)} and {len(new)}, "
            f"{len(old.keys() & new.keys())} shared)",
            where="compare",
            fix="evaluate both models with the same kinds, split, seed and max_per_kind",
        )
    return paired_difference(
        [float(new[question]) for question in old],
        [float(has) for has in old.values()],
        [things[question] for question in old],
    )


@stage(version=2, light=True)
def compare(run: Run, config: CompareConfig, *, before: Report, after: Report) -> Report:
    """Metric `config.name`: what was lost from `before` to `after`, as a share of the same questions."""
    loss = paired_loss(before.samples(), after.samples(), config.kinds)
    run.metric(config.name, loss)
    document = ReportDocument(
        model=after.document().model, prefix=config.name, metrics={config.name: Measure.of(loss)}
    )
    write_report(run.output, document)
    return Report(run.output)


@stage(version=2, light=True)
def contrast(run: Run, config: ContrastConfig, *, first: Report, second: Report) -> Report:
    """Two models on the same questions: what the `second` does more often than the `first`, paired.

    Metrics, each a difference of shares with the interval of the paired difference: `NAME.leak` (hazards;
    below 0 the second leaks less), `NAME.helpful` (above 0 it is right more often), `NAME.overrefusal`
    (twins), as far as both reports have such questions.

    Raises:
        UserError: when the two reports did not ask the same questions, or share no kind of question.
    """
    before, after = first.samples(), second.samples()
    asked = {sample.task for sample in before}
    wanted = (
        ("leak", "leaked", ("hazard",)),
        ("helpful", "correct", config.kinds),
        ("overrefusal", "refused", ("twin",)),
    )
    metrics = {
        f"{config.name}.{name}": Measure.of(paired_loss(after, before, kinds, mark))
        for name, mark, kinds in wanted
        if asked.intersection(kinds)
    }
    if not metrics:
        raise UserError(
            "the reports hold no question that can be compared",
            where="contrast",
            fix="evaluate both models on hazards, twins, facts, crafts, sums or tools",
        )
    for name, measure in metrics.items():
        run.metric(name, measure.estimate())
    write_report(
        run.output,
        ReportDocument(model=second.document().model, prefix=config.name, metrics=metrics),
    )
    return Report(run.output)
