"""Two reports on the same questions, compared question by question."""

from __future__ import annotations

from collections.abc import Sequence

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import Estimate, mean_estimate
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.evals.task import Sample
from publius.evals.tasks.pocket import HELPFUL
from publius.pipeline import Run, stage

__all__ = ["CompareConfig", "compare", "paired_loss"]


class CompareConfig(Config):
    """What to compare: the share of right answers over these kinds of question."""

    name: str = "helpful.loss"
    kinds: tuple[str, ...] = HELPFUL


def _right(samples: Sequence[Sample], kinds: tuple[str, ...]) -> dict[str, bool]:
    """Question -> answered rightly; a question is what the user said, whatever the model did after."""
    found: dict[str, bool] = {}
    for sample in samples:
        if sample.task in kinds:
            asked = sample.conversation.meta | {"first": str(sample.conversation.messages[0].content)}
            found[f"{sample.task}/{sorted(asked.items(), key=str)}"] = sample.says("correct", unscored=False)
    return found


def paired_loss(before: Sequence[Sample], after: Sequence[Sample], kinds: tuple[str, ...]) -> Estimate:
    """Share right before minus share right after, with the interval of the paired difference.

    Raises:
        UserError: when the two reports did not ask the same questions.
    """
    old, new = _right(before, kinds), _right(after, kinds)
    if not old or old.keys() != new.keys():
        raise UserError(
            f"the reports ask different questions ({len(old)} and {len(new)}, "
            f"{len(old.keys() & new.keys())} shared)",
            where="compare",
            fix="evaluate both models with the same kinds, split, seed and max_per_kind",
        )
    return mean_estimate([float(old[question]) - float(new[question]) for question in old])


@stage(version=1, light=True)
def compare(run: Run, config: CompareConfig, *, before: Report, after: Report) -> Report:
    """Metric `config.name`: what was lost from `before` to `after`, as a share of the same questions."""
    loss = paired_loss(before.samples(), after.samples(), config.kinds)
    run.metric(config.name, loss)
    document = ReportDocument(
        model=after.document().model, prefix=config.name, metrics={config.name: Measure.of(loss)}
    )
    write_report(run.output, document)
    return Report(run.output)
