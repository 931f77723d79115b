"""Every text that a schema's grammar takes is valid: numbers, bounds and names, each beside `jsonschema`."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from publius.core.errors import UserError
from publius.inference.grammar import Grammar
from publius.inference.guide import Guides
from publius.inference.sampling import Sampling
from tests.inference.guided import PROMPT, TOKENIZER


@pytest.mark.parametrize(
    "bounds",
    [
        {"minimum": -1e20, "maximum": -1e20},
        {"minimum": -1e300, "exclusiveMaximum": -(10**30)},
        {"maximum": -(2**63) + 1024},
        {"minimum": 2**63, "maximum": 1e20},
        {"exclusiveMinimum": 1e19},
        {"const": 2**53 + 1},
        {"enum": [1, -(2**53) - 1]},
    ],
)
def test_numbers_past_what_the_grammar_can_count_are_refused(bounds: dict[str, Any]) -> None:
    """The first of them ended the whole process, the others let another number through."""
    for schema in ({"type": "integer", **bounds}, {"allOf": [{"type": "integer"}, {"not": bounds}]}):
        with pytest.raises(UserError, match="holds the number"):
            Grammar.json_schema(schema)


def takes(schema: dict[str, Any], text: str) -> bool:
    """Whether the whole of `text` may be written."""
    guide = Guides(TOKENIZER).guide(0, PROMPT, Sampling(grammar=Grammar.json_schema(schema)))
    assert guide is not None
    for token in [*TOKENIZER.encode(text), TOKENIZER.end_id]:
        bits = guide.allowed()
        if bits is not None and not bits[token >> 5] >> (token & 31) & 1:
            return False
        guide.take(token)
    return True


A_IS_WHOLE = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (A_IS_WHOLE, '{"\\u0061":"x"}'),
        (A_IS_WHOLE, '{"a":1,"\\u0061":"x"}'),
        ({"anyOf": [{**A_IS_WHOLE, "additionalProperties": {"type": "string"}}]}, '{"\\u0061":"x"}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, '{"\\u0061b":"x"}'),
        ({"type": "object", "properties": {'q"': {"type": "integer"}}}, '{"q\\u0022":"x"}'),
    ],
)
def test_a_name_is_no_other_for_being_spelt_otherwise(schema: dict[str, Any], text: str) -> None:
    assert not jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    assert not takes(schema, text)


def test_names_and_texts_stay_open_otherwise() -> None:
    assert takes(A_IS_WHOLE, '{"a":1,"b":"\\n\\"é"}')
    closed = {**A_IS_WHOLE, "properties": {"b": {"type": "string"}}, "additionalProperties": False}
    assert takes(closed, '{"b":"\\u001b\\n"}')


NUMBERS = ("-2", "-1.5", "-0.25", "-0.1", "-0", "0", "0.1", "0.25", "0.5", "1", "2", "2.5", "1000", "1000.2")
WHOLE = tuple(
    str(around + step) for around in (2**53, -(2**53), 2**57, -(2**57)) for step in (-256, 0, 1, 256)
)


@pytest.mark.parametrize(
    "bounds",
    [
        {"exclusiveMinimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 0.25},
        {"exclusiveMinimum": 2.0, "maximum": 2.5},
        {"minimum": -2.25, "exclusiveMaximum": -2},
        {"minimum": -0.25, "exclusiveMaximum": 0},
        {"exclusiveMinimum": 1000, "maximum": 1000.5},
        {"allOf": [{"exclusiveMinimum": 0}, {"maximum": 0.5}]},
        {"exclusiveMinimum": 0},
        {"minimum": 0, "exclusiveMaximum": 1},
    ],
)
def test_a_bound_that_is_excluded_is_not_written(bounds: dict[str, Any]) -> None:
    schema = {"type": "number", **bounds}
    valid = jsonschema.Draft202012Validator(schema).is_valid
    wrong = [text for text in NUMBERS if takes(schema, text) != valid(json.loads(text))]
    assert set(wrong) <= {"-0"}  # of which only one spelling need come
    assert not [text for text in wrong if takes(schema, text)]


@pytest.mark.parametrize("key", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
@pytest.mark.parametrize("bound", [2**53 + 1, 2**53 + 3, -(2**53) - 3, 2**57, -(2**57), 2**57 + 1])
def test_whole_numbers_stay_within_bounds_that_no_double_tells(key: str, bound: int) -> None:
    schema = {"type": "integer", key: bound}
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert not [text for text in WHOLE if takes(schema, text) and not valid(json.loads(text))]


def test_what_looks_like_a_bound_but_is_data_stays() -> None:
    value = {"exclusiveMinimum": 0, "maximum": 2**53 + 1}
    assert takes({"const": {"exclusiveMinimum": 0}}, '{"exclusiveMinimum":0}')
    named = {"type": "object", "properties": {"const": {"exclusiveMinimum": 0, "type": "number"}}}
    assert not takes({**named, "required": ["const"]}, '{"const":0}')
    assert takes({"default": value, "type": "integer"}, "1")
