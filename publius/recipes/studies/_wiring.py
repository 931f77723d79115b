"""What studies share: one workshop a seed in one recipe, and the numbers to be read off at the end.

Stages are those of `quickstart` with the same settings, so what a seed's quickstart has made already is not
made again: models of the family, helpful-only fine-tuning, revisions, labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from publius.core.errors import UserError
from publius.evals.study import Claim, Place, Reading, StudyConfig, study
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes, Workshop

__all__ = ["StudyWiring", "places"]


def places(*arms: str, at: Iterable[float | None] = (None,)) -> tuple[Place, ...]:
    """Each arm at each place of the axis."""
    return tuple(Place(arm=arm, x=x) for arm in arms for x in at)


class StudyWiring:
    """A study being wired.

    Args:
        name: of the recipe.
        seeds: how many; they are 0, 1, 2, ...

    Raises:
        UserError: for no seed at all.
    """

    def __init__(self, name: str, sizes: Sizes, seeds: int) -> None:
        if seeds < 1:
            raise UserError(f"{seeds} seeds measure nothing", where="--set seeds", fix="give at least 1")
        self.recipe = Recipe(name, jobs=2)
        self.workshops = [Workshop(self.recipe, sizes, seed, prefix=f"s{seed}-") for seed in range(seeds)]
        self._parts: list[Node] = []
        self._readings: list[Reading] = []

    def read(
        self, workshop: Workshop, part: Node, arm: str, metrics: dict[str, str], x: float | None = None
    ) -> None:
        """Take metrics of `part` (the study's name -> the stage's) as what `arm` measured."""
        if part not in self._parts:
            self._parts.append(part)
        number = self._parts.index(part)
        self._readings += [
            Reading(part=number, metric=metric, measure=measure, arm=arm, seed=workshop.seed, x=x)
            for measure, metric in metrics.items()
        ]

    def conclude(
        self,
        title: str,
        claims: Sequence[Claim],
        *,
        x_label: str = "",
        units: dict[str, Literal["share", "number"]] | None = None,
    ) -> Recipe:
        """The study stage, and the finished recipe."""
        config = StudyConfig(
            title=title,
            readings=tuple(self._readings),
            claims=tuple(claims),
            x_label=x_label,
            units=units or {},
        )
        last = self.recipe.stage("study", study, config, parts=self._parts)
        for number in range(1, len(claims) + 1):
            self.recipe.publish(f"claim.{number}", last, f"study.claim.{number}")
        self.recipe.publish("study.as_published", last, "study.as_published")
        return self.recipe
