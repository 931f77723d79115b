"""A chain: a style, the mutators put over it, and the seed that drew its words. Played again, it says the
same.

chain = Chain(style="persona", mutators=("typos",), seed=7)
play = begin(chain, goal)                       # what a driver plays
asked = first_words(chain, twin)                # the same clothes around another request
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.redteam.attacker import Attacker, Goal, Play, Seen, Send
from publius.redteam.attackers import ATTACKERS
from publius.redteam.mutators import MUTATORS, Mutator, mutated

__all__ = ["LONGEST", "Chain", "begin", "first_words", "named_attackers", "named_mutators", "through"]

LONGEST = 3
"""Mutators of a chain. A longer one keeps the last: what Ruby Teaming (arXiv 2406.11654) remembers, too."""


class Chain(BaseModel):
    """How an attack was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: str
    mutators: tuple[str, ...] = ()
    seed: int = 0

    def then(self, mutator: str) -> Chain:
        """With one more mutator ("" for none), of the last `LONGEST`."""
        if not mutator:
            return self
        return self.model_copy(update={"mutators": (*self.mutators, mutator)[-LONGEST:]})

    @property
    def names(self) -> tuple[str, ...]:
        """The style, then the mutators."""
        return (self.style, *self.mutators)


def begin(
    chain: Chain,
    goal: Goal,
    memory: Sequence[Conversation] = (),
    *,
    attackers: Mapping[str, Attacker] = ATTACKERS,
    mutators: Mapping[str, Mutator] = MUTATORS,
) -> Play:
    """Start the attack on `goal`.

    Args:
        memory: earlier attacks on the same cell, best first.

    Raises:
        UserError: for a style or mutator of another name.
    """
    attacker = named_attackers([chain.style], attackers)[chain.style]
    play = attacker.play(goal, random.Random(f"{chain.seed}/{chain.style}"), memory)
    for place, mutator in enumerate(named_mutators(chain.mutators, mutators)):
        play = through(play, mutator, random.Random(f"{chain.seed}/{place}/{mutator.name}"))
    return play


def through(play: Play, mutator: Mutator, rng: random.Random) -> Play:
    """`play`, everything that it sends changed by `mutator`; what it asks its own model stays as it is."""
    seen: Seen | None = None
    try:
        while True:
            try:
                move = next(play) if seen is None else play.send(seen)
            except StopIteration:
                return
            seen = yield Send(mutated(move.conversation, mutator, rng)) if isinstance(move, Send) else move
    finally:
        play.close()


def first_words(chain: Chain, goal: Goal) -> Conversation | None:
    """What the chain sends first for `goal`; None where it asks its own model before."""
    play = begin(chain, goal)
    try:
        move = next(play)
    except StopIteration:
        return None
    finally:
        play.close()
    return move.conversation if isinstance(move, Send) else None


def named_attackers(
    names: Sequence[str], attackers: Mapping[str, Attacker] = ATTACKERS
) -> dict[str, Attacker]:
    """Those of these names; all of them for no names.

    Raises:
        UserError: for an unknown name.
    """
    _check(names, attackers, "attack style")
    return {name: attackers[name] for name in names or attackers}


def named_mutators(names: Sequence[str], mutators: Mapping[str, Mutator] = MUTATORS) -> list[Mutator]:
    """Those of these names, in order; none for no names.

    Raises:
        UserError: for an unknown name.
    """
    _check(names, mutators, "mutator")
    return [mutators[name] for name in names]


def _check(names: Sequence[str], known: Mapping[str, object], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"unknown {what} {', '.join(unknown)}",
            where="redteam search",
            fix=f"choose from {', '.join(known)}",
        )
