"""What a reply must match: a JSON schema, a regular expression or a Lark grammar, and where in the reply.

A Grammar is only the wish, as a Sampling carries it; `guide` makes it so. Grammars are read by llguidance
(https://github.com/guidance-ai/llguidance): its `docs/syntax.md` tells the Lark it knows, and its
`docs/json_schema.md` the schemas. What it cannot enforce it refuses, so that what is taken is kept, but for
three corners: the 29th of February of any year is a "date", names that only `additionalProperties` allows may
come twice, and a number without bounds may have an exponent too large for a float. Not all that is valid can
be written: an object that takes names beside those it declares has no control characters (but line ends and
tabs), and beside a whole number that an exclusive bound leaves out, 1e-9 is left out with it.
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
"""Numbers that round to the least of 64 bits: llguidance 1.9 ends the whole process on one of them, and on
any lower one as the upper bound of integers."""
_NAMING = ("properties", "required", "patternProperties")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords that hold schemas by names of the user's own."""
_ESCAPES = 'nrbtf\\"'
"""All escapes of JSON that llguidance writes, but for the one by number."""


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
    options: dict[str, Any] = {"whitespace_flexible": whitespace}
    try:
        crashes = next(_crashing(schema), None)
        if _leaves_names_open(schema):
            # Else "\\u0061" is taken for another name than "a", and may hold what "a" must not.
            options["json_allowed_escapes"] = _ESCAPES
        text = json.dumps({**_tightened(schema), "x-guidance": options}, allow_nan=False)
        steps = math.lcm(*_multiples(schema))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"a schema is not JSON: {error}", where=where, fix="use objects, arrays, texts and finite numbers"
        ) from error
    if crashes is not None:
        fix = "stay above -2**63 + 512 and below 2**63, and give large numbers that a double holds"
        raise UserError(f"a schema holds the number {crashes}", where=where, fix=fix)
    if steps > _MULTIPLES:
        raise UserError(
            f"multipleOf asks for multiples of {steps}",
            where=f"{where}: multipleOf",
            fix=f"stay at {_MULTIPLES} or less in all, factors of 2 and 5 not counted",
        )
    return text


def _crashing(node: Any) -> Iterator[int | float]:
    """Numbers in a schema that must not be read: they end the process, or another would stand in for them."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            for number in _listed(value) if key == "enum" else (value,):
                if isinstance(number, int | float) and _lost(key, number):
                    yield number
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _crashing(value)
    elif isinstance(node, int | float) and _CRASHES[0] <= node <= _CRASHES[-1]:
        yield node


def _lost(key: str, number: float) -> bool:
    """Whether llguidance would take another number than `number` under the keyword `key`, past 64 bits."""
    if key in ("minimum", "exclusiveMinimum"):
        return number >= 2**63
    if key in ("maximum", "exclusiveMaximum"):
        return number <= _CRASHES[-1] + 2**14  # `_inside` may lower it by some 4096
    return key in ("const", "enum") and math.isfinite(double := _double(number)) and double != number


def _double(value: float) -> float:
    """As the nearest double: llguidance reads all numbers so."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _leaves_names_open(node: Any) -> bool:
    """Whether an object in a schema gives some names schemas of their own and takes others beside them."""
    if isinstance(node, Mapping):
        if node.get("additionalProperties") is not False and any(node.get(key) for key in _NAMING):
            return True
        node = list(node.values())
    return isinstance(node, list | tuple) and any(map(_leaves_names_open, node))


def _tightened(node: Any) -> Any:
    """A schema whose bounds mean the same or a hair less, and never more once llguidance has read them: it
    takes a whole number that is excluded where the other bound is less than 1 away, and rounds large ones."""
    if isinstance(node, list | tuple):
        return [_tightened(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("const", "enum", "default", "examples"):  # data
            made[key] = value
        elif key in _NAMED and isinstance(value, Mapping):
            made[key] = {name: _tightened(schema) for name, schema in value.items()}
        elif key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            made[key] = _inside(value, key.endswith("inimum"), key.startswith("exclusive"))
        else:
            made[key] = _tightened(value)
    return made


def _inside(bound: Any, lower: bool, exclusive: bool) -> Any:
    """A bound in place of `bound`, on its inner side; the same where that is right already."""
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(_double(bound)):
        return bound
    double, inward = _double(bound), math.inf if lower else -math.inf
    if (double < bound) if lower else (bound < double < 2**63):  # from 2**63 on it is cut to 2**63 - 1
        bound = double = math.nextafter(double, inward)
    # From 2**53 on one more, or one less, is no other double.
    taken = abs(double) >= 2**53 or (double >= 0 if lower else double <= 0)
    if exclusive and taken and double.is_integer() and abs(double) < 2**63:
        # Several doubles away: llguidance may misread one by the last digit.
        return double + math.copysign(max(1e-9, 4 * math.ulp(double)), inward)
    return bound


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
