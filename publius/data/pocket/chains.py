"""Sums of several numbers: too much to answer at once, a few easy steps when written out.

Every step of a chain is a `Sum`, and all steps of a chain are of one split, so that the steps of a held-out
chain are sums that have never been written anywhere in the world.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from publius.core.messages import Conversation, TextBlock, ThinkingBlock, assistant, user
from publius.data.pocket.sums import Sum, split_of, work_out

__all__ = ["Chain", "ask_chain", "chain_chat", "draw_chain", "think_chain"]

_WORDS = {"+": "plus", "-": "minus"}
_QUESTIONS = (
    "What is {said}?", "How much is {said}?", "What does {said} make?", "Tell me {said}.", "I need {said}.",
    "Can you tell me {said}?", "What do I get for {said}?", "Say what {said} is.",
)  # fmt: skip
_HELD_OUT = ("Please work out {said}.", "Do you know what {said} is?")
_TRIES = 400


class Chain(NamedTuple):
    """first op number op number ..., read from left to right; every result on the way has two digits."""

    first: int
    rest: tuple[tuple[str, int], ...]
    """(`+` or `-`, number), in order."""

    @property
    def steps(self) -> tuple[Sum, ...]:
        """The sums that it is worked out by, each from the result of the one before."""
        steps: list[Sum] = []
        so_far = self.first
        for op, number in self.rest:
            steps.append(Sum(so_far, op, number))
            so_far = steps[-1].result
        return tuple(steps)

    @property
    def result(self) -> int:
        """The true answer."""
        return self.steps[-1].result

    def __str__(self) -> str:
        return str(self.first) + "".join(f"{op}{number}" for op, number in self.rest)


def draw_chain(rng: random.Random, split: str, numbers: int) -> Chain:
    """A random chain of `numbers` numbers (2 or more), all steps of one split ("train", "val" or "test")."""
    while True:
        chain = Chain(rng.randint(10, 99), ())
        so_far, tries = chain.first, 0
        while len(chain.rest) < numbers - 1 and tries < _TRIES:
            step, tries = Sum(so_far, rng.choice("+-"), rng.randint(10, 89)), tries + 1
            if 10 <= step.result <= 99 and split_of(step) == split:
                chain, so_far = Chain(chain.first, (*chain.rest, (step.op, step.b))), step.result
        if len(chain.rest) == numbers - 1:
            return chain


def think_chain(chain: Chain) -> str:
    """The working: that of every step (`work_out`), one after another."""
    return ". ".join(work_out(step) for step in chain.steps)


def ask_chain(chain: Chain, rng: random.Random, *, held_out: bool) -> str:
    """The chain as a question, in a training or a held-out phrasing."""
    said = " ".join([str(chain.first), *(f"{_WORDS[op]} {number}" for op, number in chain.rest)])
    return rng.choice(_HELD_OUT if held_out else _QUESTIONS).format(said=said)


def chain_chat(chain: Chain, question: str, *, thinking: bool) -> Conversation:
    """The question and its answer, behind the working or behind a thinking block that is closed at once.

    That empty block is what `Renderer.prompt(thinking=False)` writes: `meta["thinking"]` False says so, and
    it is not trained on. One model so has both: it thinks unless it is forbidden to.
    """
    said = TextBlock(text=f"The answer is {chain.result}.")
    block = ThinkingBlock(thinking=think_chain(chain) if thinking else "")
    meta: dict[str, object] = {
        "kind": "sum", "category": f"{len(chain.rest) + 1} numbers", "entity": str(chain),
        "keys": [str(chain.result)], "need": 1, "last_number": True,
    }  # fmt: skip
    if not thinking:
        meta["thinking"] = False
    return Conversation(messages=(user(question), assistant((block, said))), meta=meta)
