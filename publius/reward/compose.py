"""A reward by config: the parts that a recipe, or `--set`, puts together, and their weights."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from publius.constitution.consistency import ConsistencyJudge, consistency_judge
from publius.constitution.judges import EngineJudge, seated
from publius.core.config import Config, execution
from publius.core.errors import UserError
from publius.core.sandbox import check_sandbox
from publius.inference.engine import Engine
from publius.reward.code_reward import CodePart, CodeReward
from publius.reward.comparison_reward import ComparisonPart, ComparisonReward, Rival
from publius.reward.format_reward import FormatPart, FormatReward
from publius.reward.guard import OnNan
from publius.reward.judge_reward import JudgePart, JudgeReward
from publius.reward.math_reward import MathPart, MathReward
from publius.reward.reward_fn import ModelReward, Part, RewardFn, WeightedReward
from publius.reward.shaping import LengthPart, LengthReward, RepetitionPart, RepetitionReward
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["AnyPart", "ModelPart", "RewardSpec", "Sources", "check_sources", "compose"]


class ModelPart(Config):
    """The part `model` of a reward: the preference model's centred score."""

    kind: Literal["model"] = "model"
    name: str = "model"
    weight: float = 1.0


AnyPart = Annotated[
    ModelPart | JudgePart | ComparisonPart | LengthPart | RepetitionPart | FormatPart | MathPart | CodePart,
    Field(discriminator="kind"),
]


class RewardSpec(Config):
    """What a reward is made of: the weighted sum of its parts.

    Attributes:
        parts: each with a `kind` (model, judge, comparison, length, repetition, format, math, code), a
            `weight` (0 only watches), and a `name` where two are of one kind.
        on_nan: a reward that is not finite ends the stage, its work kept ("error"), or its episode is left
            out and counted ("skip"). Not part of the identity: after an error the same run may go on from its
            saved state with "skip".
    """

    parts: tuple[AnyPart, ...] = Field(default=(ModelPart(),), min_length=1)
    on_nan: OnNan = execution("error")

    @model_validator(mode="after")
    def _names_are_unique(self) -> RewardSpec:
        twice = [name for name, count in Counter(p.name for p in self.parts).items() if count > 1]
        if twice:
            raise ValueError(f"two parts are called {twice[0]!r}: give each a name")
        if any(not part.name or "." in part.name for part in self.parts):
            raise ValueError("a part's name is not empty and has no point in it")
        if not any(part.weight for part in self.parts):
            raise ValueError("every part has weight 0, so there is no reward")
        return self

    @property
    def is_model_only(self) -> bool:
        """The default: the preference model by itself."""
        return self.parts == (ModelPart(),)

    def wants(self, kind: str) -> bool:
        """Whether some part is of this kind."""
        return any(part.kind == kind for part in self.parts)


class Sources(NamedTuple):
    """What parts read from: None where the stage was given none.

    Attributes:
        tokenizer: the policy's.
        model: of the part `model`.
        judge: of the parts `judge` and `comparison`, unless they name remote models.
        rival: what the part `comparison` compares replies with.
    """

    tokenizer: Tokenizer
    model: ModelReward | None = None
    judge: Engine | ConsistencyJudge | None = None
    rival: Rival | None = None


def compose(spec: RewardSpec, sources: Sources, stack: ExitStack) -> RewardFn:
    """The reward function of a config. The default is the preference model itself.

    Args:
        stack: closes what parts hold open (connections to remote judges).

    Raises:
        UserError: for a part without its source, a remote judge that cannot be set up, or code where there is
            no sandbox.
    """
    check_sources(spec, model=sources.model is not None, judge=sources.judge is not None)
    if spec.wants("code"):
        check_sandbox()
    if spec.is_model_only and sources.model is not None:
        return sources.model
    return WeightedReward({part.name: _part(part, sources, stack) for part in spec.parts})


def check_sources(spec: RewardSpec, *, model: bool, judge: bool) -> None:
    """Whether what the parts need is there: before anything is loaded.

    Raises:
        UserError: for a part without its source.
    """
    for part in spec.parts:
        lacks_model = part.kind == "model" and not model
        judges = isinstance(part, JudgePart | ComparisonPart)
        lacks_judge = judges and not judge and not part.remote
        if lacks_model or lacks_judge:
            what, given = ("judge", "judge") if judges else ("model", "reward")
            fix = f"give the stage its input {given!r}, or take the part out"
            raise UserError(
                f"the reward has a part {part.kind!r} and there is no {what}",
                where=f"reward.parts: {', '.join(part.kind for part in spec.parts)}",
                fix=fix + (", or name a judge in its `remote`" if lacks_judge else ""),
            )


def _part(part: AnyPart, sources: Sources, stack: ExitStack) -> Part:
    match part:
        case ModelPart():
            assert sources.model is not None
            return Part(part.weight, sources.model)
        case JudgePart():
            return Part(part.weight, JudgeReward(consistency_judge(part, sources.judge, stack), part))
        case ComparisonPart():
            if sources.rival is None:
                raise UserError(
                    "the reward has a part 'comparison' and there is nothing to compare with",
                    where="reward.parts",
                    fix="give Sources a rival (in the stage it is the start of the policy)",
                )
            own = [EngineJudge.from_config(e, e.tokenizer, part) for e in _engines(sources.judge)]
            bench = stack.enter_context(seated(part, [], own))
            return Part(part.weight, ComparisonReward(bench.judge, sources.rival, part))
        case LengthPart():
            return Part(part.weight, LengthReward(part.soft, part.hard, part.name))
        case RepetitionPart():
            return Part(part.weight, RepetitionReward(part.n, part.name))
        case FormatPart():
            return Part(part.weight, FormatReward(part, sources.tokenizer))
        case MathPart():
            right = MathReward(part.answer, stated=part.stated, tolerance=part.tolerance, name=part.name)
            return Part(part.weight, right, right.applies if part.optional else None)
        case CodePart():
            works = CodeReward(
                part.tests, partial=part.partial, limits=part.limits, workers=part.workers, name=part.name
            )
            return Part(part.weight, works, works.applies if part.optional else None)


def _engines(judge: Engine | ConsistencyJudge | None) -> list[Engine]:
    return [judge] if isinstance(judge, Engine) else []
