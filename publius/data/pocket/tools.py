"""Two tools: a calculator for what heads cannot hold, and an almanac of what the text never says."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from publius.core.messages import ToolSpec

__all__ = ["TOOLS", "almanac_tool", "calculator", "draw_birthday", "draw_birthdays"]

TOOLS = (
    ToolSpec(
        name="calculator",
        description="multiply big numbers",
        input_schema={"type": "object", "properties": {"sum": {"type": "string"}}},
    ),
    ToolSpec(
        name="almanac",
        description="birthdays of people",
        input_schema={"type": "object", "properties": {"ask": {"type": "string"}}},
    ),
)
_SUM = re.compile(r"\s*(\d{1,6})\s*([-+*])\s*(\d{1,6})\s*")
_MONTHS = ("frost", "seed", "rain", "hay", "plum", "leaf", "snow")


def calculator(arguments: Mapping[str, Any]) -> str:
    """`{"sum": "34 * 12"}` -> `"408"`; whole numbers, + - and *.

    Raises:
        ValueError: when the sum is not two whole numbers and an operator.
    """
    match = _SUM.fullmatch(str(arguments.get("sum", "")))
    if match is None:
        raise ValueError("the calculator reads two whole numbers with + - or * between them")
    a, op, b = int(match[1]), match[2], int(match[3])
    return str(a + b if op == "+" else a - b if op == "-" else a * b)


def draw_birthdays(seed: int, people: list[str]) -> dict[str, str]:
    """A birthday for everyone, found in the almanac and nowhere else."""
    rng = random.Random(f"almanac/{seed}")
    return {name: draw_birthday(rng) for name in people}


def draw_birthday(rng: random.Random) -> str:
    """Some day of the year."""
    return f"{rng.randint(1, 29)} of {rng.choice(_MONTHS)} month"


def almanac_tool(birthdays: Mapping[str, str]) -> Callable[[Mapping[str, Any]], str]:
    """The almanac as a tool: `{"ask": "birthday of Mara"}` -> `"12 of frost month"`.

    The tool raises KeyError for a name nobody bears.
    """

    def look_up(arguments: Mapping[str, Any]) -> str:
        return birthdays[str(arguments.get("ask", "")).removeprefix("birthday of ")]

    return look_up
