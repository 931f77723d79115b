"""Arithmetic with written-out working: the thinking a small model needs to add two numbers.

Operand pairs are split by a hash, so a held-out sum has never been written anywhere in the world.
"""

from __future__ import annotations

import random
import zlib
from typing import NamedTuple

__all__ = ["Sum", "ask_sum", "draw_sum", "split_of", "work_out"]

_QUESTIONS = {
    "+": ("What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?",
          "What do {a} and {b} make?", "I have {a} {n} and get {b} more. How many {n}?",
          "Tell me {a} plus {b}.", "There are {a} {n} and {b} {n} come. How many {n}?"),
    "-": ("What is {a} minus {b}?", "Take {b} from {a}.", "How much is {a} minus {b}?",
          "What is left of {a} without {b}?", "I have {a} {n} and lose {b}. How many {n}?",
          "Tell me {a} minus {b}.", "There are {a} {n} and {b} {n} go. How many {n}?"),
}  # fmt: skip
_HELD_OUT = {
    "+": ("Please work out {a} plus {b}.", "I have {a} plums and get {b} more. How many plums?"),
    "-": ("Please work out {a} minus {b}.", "I have {a} plums and lose {b}. How many plums?"),
}


_COUNTED = (
    "eggs", "hens", "apples", "onions", "nuts", "beans", "cakes", "pears", "berries", "carrots", "goats",
    "ducks", "horses", "swans",
)  # fmt: skip
"""Never plums, which are counted in held-out questions only."""


class Sum(NamedTuple):
    """a op b = result, all three from 10 to 99: every number has two digits, in every place."""

    a: int
    op: str
    b: int

    @property
    def result(self) -> int:
        """The true answer."""
        return self.a + self.b if self.op == "+" else self.a - self.b


def split_of(item: Sum) -> str:
    """The split of a sum, by a hash of its numbers; a + b and b + a are of one split."""
    a, b = sorted((item.a, item.b)) if item.op == "+" else (item.a, item.b)  # b + a would give a + b away
    bucket = zlib.crc32(f"{a}{item.op}{b}".encode()) % 10
    return "test" if bucket == 0 else "val" if bucket == 1 else "train"


def draw_sum(rng: random.Random, split: str) -> Sum:
    """A random sum whose numbers and result all have two digits, from one split."""
    while True:
        item = Sum(rng.randint(10, 99), rng.choice("+-"), rng.randint(10, 89))
        if 10 <= item.result <= 99 and split_of(item) == split:
            return item


def work_out(item: Sum) -> str:
    """The written-out working, ones before tens, ending in the result.

    Without spaces inside: before a digit each would be a token of its own.
    """
    (ta, oa), (tb, ob) = divmod(item.a, 10), divmod(item.b, 10)
    if item.op == "+":
        ones = oa + ob
        carry = ones // 10
        tens = f"{ta}+{tb}+{carry}={ta + tb + carry}"
        return f"{item.a}+{item.b}. ones {oa}+{ob}={ones}. tens {tens}. so {item.result}"
    borrow = int(oa < ob)
    tens = f"{ta}-{tb}-{borrow}={ta - tb - borrow}"
    oa += 10 * borrow
    return f"{item.a}-{item.b}. ones {oa}-{ob}={oa - ob}. tens {tens}. so {item.result}"


def ask_sum(item: Sum, rng: random.Random, *, held_out: bool) -> str:
    """The sum as a question, in a training or a held-out phrasing."""
    asked = rng.choice((_HELD_OUT if held_out else _QUESTIONS)[item.op])
    return asked.format(a=item.a, b=item.b, n=rng.choice(_COUNTED))
