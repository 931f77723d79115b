"""Stages that hand out sums of several numbers: worked demonstrations, and prompts for RL and for tests.

They need no world: which sums are held out is fixed once and for all, by a hash of their numbers.
"""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field, field_validator

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.data.artifacts import Conversations, Prompts, write_conversations, write_prompts
from publius.data.pocket.chains import Chain, ask_chain, chain_chat, draw_chain
from publius.pipeline import Run, stage

__all__ = ["SumPromptsConfig", "WorkedSumsConfig", "sum_prompts", "worked_sums"]


_REPEATS = 10
"""After so many draws in a row for every sum that there is, none of them new, there are no more: one that is
left would have been missed with a chance of e^-10."""


class _SumsConfig(Config):
    numbers: tuple[int, ...] = (2, 3, 4)
    """How many numbers a question has; equally many questions of each."""
    seed: int = 0

    @field_validator("numbers")
    @classmethod
    def _sensible(cls, numbers: tuple[int, ...]) -> tuple[int, ...]:
        if not numbers or min(numbers) < 2 or max(numbers) > 8:
            raise ValueError("give numbers from 2 to 8")
        return numbers


class WorkedSumsConfig(_SumsConfig):
    """How many demonstrations."""

    questions: int = Field(default=3000, ge=1)
    """Training questions; a twentieth as many are held out (split `val`)."""
    modes: tuple[Literal["on", "off"], ...] = Field(default=("on", "off"), min_length=1)
    """Each question is answered behind written-out thinking (on), without (off), or once each."""


class SumPromptsConfig(_SumsConfig):
    """How many prompts."""

    train: int = Field(default=600, ge=0)
    held_out: int = Field(default=96, ge=0)
    split: Literal["val", "test"] = "val"
    """The split of the held-out prompts; `test` is asked in held-out phrasings."""
    thinking: bool | None = None
    """Written into `meta["thinking"]`, which rollouts heed: True opens thinking, False forbids it, None
    leaves it to the model."""


@stage(version=1, light=True)
def worked_sums(run: Run, config: WorkedSumsConfig) -> Conversations:
    """Sums of several numbers, worked out in a thinking block and answered, and the same ones without.

    Metric: `sums.conversations`, training ones.
    """

    def chats(split: str, amount: int) -> list[Conversation]:
        rng = random.Random(f"worked/{config.seed}/{split}")
        return [
            chain_chat(chain, asked, thinking=mode == "on")
            for chain, asked in _draw(rng, config.numbers, split, amount)
            for mode in config.modes
        ]

    train = chats("train", config.questions)
    run.metric("sums.conversations", len(train))
    write_conversations(run.output, train=train, val=chats("val", max(1, config.questions // 20)))
    return Conversations(run.output)


@stage(version=1, light=True)
def sum_prompts(run: Run, config: SumPromptsConfig) -> Prompts:
    """Sums of several numbers as prompts, their truth in `meta`: no two alike."""

    def prompts(split: str, amount: int) -> list[Conversation]:
        rng = random.Random(f"sum_prompts/{config.seed}/{split}")
        chats = [
            chain_chat(chain, asked, thinking=True)
            for chain, asked in _draw(rng, config.numbers, split, amount)
        ]
        mode = {} if config.thinking is None else {"thinking": config.thinking}
        return [c.model_copy(update={"messages": c.messages[:1], "meta": c.meta | mode}) for c in chats]

    write_prompts(
        run.output, train=prompts("train", config.train), val=prompts(config.split, config.held_out)
    )
    return Prompts(run.output)


def _draw(rng: random.Random, numbers: tuple[int, ...], split: str, amount: int) -> list[tuple[Chain, str]]:
    """`amount` different chains of one split, with their questions.

    Raises:
        UserError: when there are not as many.
    """
    found: dict[str, tuple[Chain, str]] = {}
    repeats = 0
    while len(found) < amount and repeats <= _REPEATS * (len(found) + 10):
        chain, before = draw_chain(rng, split, numbers[len(found) % len(numbers)]), len(found)
        found.setdefault(str(chain), (chain, ask_chain(chain, rng, held_out=split == "test")))
        repeats = 0 if len(found) > before else repeats + 1
    if len(found) < amount:
        raise UserError(
            f"there are not {amount} different sums of {numbers} numbers in split {split!r}",
            where="worked sums",
            fix="ask for fewer, or for more numbers in each",
        )
    return list(found.values())
