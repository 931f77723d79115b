"""Which judge is asked, and how: what `label` and `evaluate_judge` share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from publius.constitution.principles import ConstitutionField
from publius.constitution.styles import StyleName
from publius.core.config import Config, execution
from publius.inference.remote import RemoteConfig

__all__ = ["JudgeConfig", "RemoteJudgeConfig"]

_TOP = 20
"""Most alternatives that the OpenAI dialect lists."""

Clamp = Literal["constitution", "none"] | tuple[float, float]


class RemoteJudgeConfig(RemoteConfig):
    """A remote model as a judge.

    Attributes:
        logprobs: ask for the likeliest tokens (OpenAI dialect) and read the answer's probability from them;
            a server that sends none is read by its words. The Messages API has none.
        instruction: stands after the two options; `{first}` and `{second}` are the answers.
        reasoning_instruction: the same for chain of thought.
        answer_tokens: most new tokens of an answer, without the thought.
        min_read: share of the samples of an order that must give an answer; else it counts as a failure,
            or as an abstention where the model declined.
    """

    logprobs: bool = True
    instruction: str = "Answer with {first} or {second} and nothing else."
    reasoning_instruction: str = (
        "Let's think step by step, then end with a line of its own: the answer is {first}, "
        "or: the answer is {second}."
    )
    answer_tokens: int = Field(default=16, ge=1)
    min_read: float = Field(default=0.5, gt=0, le=1)

    @property
    def alternatives(self) -> int:
        """Likeliest tokens to ask for: as many as the OpenAI dialect lists, or none."""
        return _TOP if self.logprobs and self.dialect == "openai" else 0


class JudgeConfig(Config):
    """How a judge is asked.

    Attributes:
        shots: most examples shown; fewer are shown when the prompt would not fit the context.
        chain_of_thought: reason first, then answer.
        samples: chains of thought averaged per order; of a remote judge without log-probabilities, also
            plain answers.
        clamp: keeps probabilities inside an interval. `constitution` clamps chain-of-thought labels as the
            constitution says and plain ones not at all (Bai et al. 2022, section 4.1), `none` clamps
            nothing, and an interval (0.2, 0.8) clamps every label.
        min_mass: a judgement needs at least this much probability on the two answers together.
        remote: remote models that judge, beside the checkpoints the stage is given.
        panel: how several judges are joined: the mean of their logits, or the share of their votes.
    """

    constitution: ConstitutionField = Field(default="default", validate_default=True)  # pyright: ignore[reportAssignmentType]
    style: StyleName = "raw"
    shots: int = Field(default=8, ge=0)
    chain_of_thought: bool = False
    thought_tokens: int = Field(default=128, ge=1)
    samples: int = Field(default=1, ge=1)
    clamp: Clamp = "constitution"
    min_mass: float = Field(default=0.01, ge=0, le=1)
    remote: tuple[RemoteJudgeConfig, ...] = ()
    panel: Literal["mean", "majority"] = "mean"
    seed: int = 0
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")
    threads: int | None = execution(None)

    @field_validator("clamp")
    @classmethod
    def _is_an_interval(cls, value: Clamp) -> Clamp:
        if not isinstance(value, str) and not 0 <= value[0] < value[1] <= 1:
            raise ValueError("clamp must be two probabilities, the lower first")
        return value

    @property
    def interval(self) -> tuple[float, float] | None:
        """What probabilities are kept inside; None is no clamp."""
        if self.clamp == "constitution":
            return self.constitution.clamp if self.chain_of_thought else None
        return None if isinstance(self.clamp, str) else self.clamp
