"""What a reply must match: a JSON schema, a regular expression or a Lark grammar, and where in the reply.

A Grammar is only the wish, as a Sampling carries it; `guide` makes it so. Grammars are read by llguidance
(https://github.com/guidance-ai/llguidance): its `docs/syntax.md` tells the Lark it knows, and its
`docs/json_schema.md` the schemas. What it cannot enforce it refuses, so that what is taken is kept, but for
three corners: the 29th of February of any year is a "date", names that only `additionalProperties` allows may
come twice, and a number without bounds may have an exponent too large for a float.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from publius.core.errors import UserError

__all__ = ["Grammar", "Lead", "schema_text"]

Kind = Literal["json_schema", "regex", "lark"]
Lead = Literal["nothing", "thinking", "text", "anything"]

_MULTIPLES = 10_000
"""Largest common multiple a schema may ask for: its automaton has as many states."""


_CRASHES = range(-(2**63) - 1024, -(2**63) + 513)
"""Numbers that round to the least of 64 bits: llguidance 1.9 ends the whole process on one of them."""


@dataclass(frozen=True)
class Grammar:
    """What a reply must match. Made by `json_schema`, `regex` or `lark`, and put in its place by `placed`.

    As made, it is matched by the whole reply, and the end token may follow only where it is matched. Thinking
    that the prompt has opened is always finished first.

    Args:
        kind: the language of `text`.
        text: what must be matched.
        begin: the grammar applies after any of these tokens; without, from the reply's first token on.
        end: tokens that must follow in this order what was matched.
        then: after that, "stop" lets nothing but the end token follow; "free" lets anything, and after a
            `begin` token the grammar applies again.
        lead: what may come before it (before the `begin` token, if it has one): "nothing"; "thinking", one
            block of it; "text", which may hold thinking and calls but not end the reply; "anything", and the
            reply may end without it.

    Raises:
        UserError: naming the field that does not fit the others.
    """

    kind: Kind
    text: str
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    then: Literal["stop", "free"] = "stop"
    lead: Lead = "nothing"

    def __post_init__(self) -> None:
        if self.lead in ("text", "anything") and not self.begin:
            _refuse("lead", f"{self.lead!r} without begin", "give the token it begins after")
        if self.then == "free" and not self.end:
            _refuse("then", "'free' without end", "give the token that closes it")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any], *, whitespace: bool = False) -> Grammar:
        """Any JSON value that `schema` takes, its properties in the order of `properties`.

        Args:
            schema: JSON schema, draft 2020-12.
            whitespace: False writes as tool calls are written, without spaces; True leaves it to the model.

        Raises:
            UserError: for what is no JSON, and for multiples that no small automaton counts. What else is
                wrong with it is refused when it is first used, before any compute.
        """
        return cls("json_schema", schema_text(schema, "Grammar.json_schema", whitespace=whitespace))

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Texts that `pattern` matches as a whole (Rust's syntax: no look-around, no back-references)."""
        return cls("regex", pattern)

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """Texts of the rule `start`; special tokens stand in it bare, `<|think|>` or by id `<[7]>`."""
        return cls("lark", text)

    def placed(
        self,
        *,
        begin: int | Sequence[int] = (),
        end: int | Sequence[int] = (),
        then: Literal["stop", "free"] = "stop",
        lead: Lead = "nothing",
    ) -> Grammar:
        """The same grammar at another place of the reply; arguments as the class's, one id or several.

        Raises:
            UserError: as the class.
        """
        opens, closes = ((ids,) if isinstance(ids, int) else tuple(ids) for ids in (begin, end))
        return replace(self, begin=opens, end=closes, then=then, lead=lead)


def schema_text(schema: Mapping[str, Any], where: str, *, whitespace: bool = False) -> str:
    """A JSON schema as llguidance reads it.

    Raises:
        UserError: as `Grammar.json_schema`, naming `where`.
    """
    if not isinstance(schema, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"a schema is {type(schema).__name__}", where=where, fix="give a JSON object")
    # In place of its own options: a schema from outside must not have what is not supported left out.
    options = {"whitespace_flexible": whitespace}
    try:
        crashes = next(_crashing(schema), None)
        text = json.dumps({**schema, "x-guidance": options}, allow_nan=False)
        steps = math.lcm(*_multiples(schema))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"a schema is not JSON: {error}", where=where, fix="use objects, arrays, texts and finite numbers"
        ) from error
    if crashes is not None:
        raise UserError(f"a schema holds the number {crashes}", where=where, fix="stay above -2**63 + 512")
    if steps > _MULTIPLES:
        raise UserError(
            f"multipleOf asks for multiples of {steps}",
            where=f"{where}: multipleOf",
            fix=f"stay at {_MULTIPLES} or less in all, factors of 2 and 5 not counted",
        )
    return text


def _crashing(node: Any) -> Iterator[int | float]:
    """Numbers in a schema that must not be read."""
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _crashing(value)
    elif isinstance(node, int | float) and _CRASHES[0] <= node <= _CRASHES[-1]:
        yield node


def _multiples(node: Any) -> Iterator[int]:
    """What every `multipleOf` counts, factors of 2 and 5 left out: those are seen in the last digits."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "multipleOf" and isinstance(value, int | float) and value > 0:
                steps = Fraction(str(value)).numerator
                for prime in (2, 5):
                    while steps % prime == 0:
                        steps //= prime
                yield steps
            else:
                yield from _multiples(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _multiples(value)


def _refuse(field: str, what: str, fix: str) -> None:
    raise UserError(f"{field} is {what}", where=f"Grammar.{field}", fix=fix)
