"""Wiring is checked before any compute; settings are typed."""

from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.pipeline import Recipe, Run, stage
from publius.pipeline.recipe import parse_setting
from tests.pipeline.toy import Numbers, NumbersConfig, Primes, SumConfig, add_up, make_numbers, toy


def parts():
    recipe = Recipe("r")
    return recipe, recipe.stage("numbers", make_numbers, NumbersConfig())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'numbers' .Numbers. is missing"),
        ({"numbers": None}, "missing"),
        ({"numbers": "NODE", "mor": ["NODE"]}, "no input 'mor'"),
        ({"numbers": ["NODE"]}, "takes one stage"),
        ({"numbers": "NODE", "more": "NODE"}, "takes a list"),
        ({"numbers": "text"}, "takes one stage|not a stage"),
        ({"numbers": "NODE", "more": [3]}, "not a stage of this recipe"),
        ({"numbers": "TOTAL"}, "takes Numbers, but stage 'total' gives Total"),
        ({"numbers": "FOREIGN"}, "not a stage of this recipe"),
    ],
)
def test_miswired_stage(inputs, message):
    recipe, node = parts()
    total = recipe.stage("total", add_up, SumConfig(), numbers=node)
    foreign = parts()[1]
    swap: dict[str, Any] = {"NODE": node, "TOTAL": total, "FOREIGN": foreign}

    def real(value):
        return [real(v) for v in value] if isinstance(value, list) else swap.get(value, value)

    with pytest.raises(UserError, match=message) as caught:
        recipe.stage("bad", add_up, SumConfig(), **{key: real(value) for key, value in inputs.items()})
    assert "stage bad" in caught.value.where
    assert "bad" not in recipe.nodes


def test_suggestion_for_a_misspelt_input():
    recipe, node = parts()
    with pytest.raises(UserError) as caught:
        recipe.stage("bad", add_up, SumConfig(), numbrs=node)
    assert caught.value.fix == "did you mean 'numbers'?"


def test_subclass_fits():
    @stage(version=1)
    def primes(run: Run, config: NumbersConfig) -> Primes:
        return Primes(run.output)

    recipe = Recipe("r")
    node = recipe.stage("p", primes, NumbersConfig())
    assert recipe.stage("t", add_up, SumConfig(), numbers=node).inputs == {"numbers": node}


def test_names_and_configs_are_checked():
    recipe, _ = parts()
    with pytest.raises(UserError, match="two stages are called"):
        recipe.stage("numbers", make_numbers, NumbersConfig())
    with pytest.raises(UserError, match="cannot name a stage"):
        recipe.stage("a.b", make_numbers, NumbersConfig())
    with pytest.raises(UserError, match="config is a SumConfig, the stage takes a NumbersConfig"):
        recipe.stage("x", make_numbers, SumConfig())


class Odd(Config):
    seen: Any = None


@stage(version=1)
def odd(run: Run, config: Odd) -> Numbers:
    return Numbers(run.output)


@pytest.mark.parametrize("value", [{1, 2}, print, float("nan"), {1: 2}, object()])
def test_unhashable_config_value_is_refused_by_name(value):
    with pytest.raises(UserError, match=r"config\.seen"):
        Recipe("r").stage("odd", odd, Odd(seen=value))


def test_ancestors():
    recipe = toy()
    assert [n.name for n in recipe.ancestors("total")] == ["numbers", "other", "total"]
    assert [n.name for n in recipe.ancestors("other")] == ["other"]
    with pytest.raises(UserError, match="unknown stage 'totl'"):
        recipe.ancestors("totl")


class Kind(Enum):
    A = "a"
    B = "b"


class Inner(Config):
    size: int = Field(default=2, ge=1)


class Many(Config):
    inner: Inner = Inner()
    paths: tuple[str, ...] = ()
    sizes: list[int] = Field(default_factory=list)
    rate: float = 0.1
    flag: bool = False
    limit: int | None = 3
    kind: Kind = Kind.A
    text: str = ""


@stage(version=1)
def many(run: Run, config: Many) -> Numbers:
    return Numbers(run.output)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("inner.size", "5", 5),
        ("paths", "a.txt", ("a.txt",)),
        ("paths", "a.txt,b.txt", ("a.txt", "b.txt")),
        ("paths", '["a,b"]', ("a,b",)),
        ("sizes", "1,2", [1, 2]),
        ("sizes", "[3]", [3]),
        ("rate", "1e-3", 1e-3),
        ("flag", "true", True),
        ("limit", "null", None),
        ("limit", "None", None),
        ("limit", "7", 7),
        ("kind", "b", Kind.B),
        ("text", "50", "50"),
        ("inner", '{"size": 9}', Inner(size=9)),
    ],
)
def test_override_is_typed(path, text, value):
    recipe = Recipe("r")
    node = recipe.stage("m", many, Many())
    recipe.override(f"m.{path}", text)
    found: Any = node.config
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)
    assert recipe.settings == {f"m.{path}": text}


@pytest.mark.parametrize(
    ("key", "text", "message", "fix"),
    [
        ("n.rate", "1", "unknown stage 'n'", "m"),
        ("m.rat", "1", "Many has no field 'rat'", "did you mean 'rate'?"),
        ("m", "1", "has no field ''", ""),
        ("m.inner.siz", "1", "Inner has no field 'siz'", "did you mean 'size'?"),
        ("m.rate.x", "1", "has no fields of its own", "rate"),
        ("m.rate", "fast", "number", ""),
        ("m.inner.size", "0", "size: .*greater than or equal to 1", ""),
    ],
)
def test_bad_override(key, text, message, fix):
    recipe = Recipe("r")
    node = recipe.stage("m", many, Many())
    with pytest.raises(UserError, match=message) as caught:
        recipe.override(key, text)
    assert f"--set {key}={text}" in caught.value.where
    assert fix in caught.value.fix
    assert node.config == Many()


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.booleans()))
def test_setting_round_trips(value):
    text = value if isinstance(value, str) else repr(value)
    assert parse_setting(type(value), text, "here") == value


class Nested(Config):
    size: int = Field(default=1, ge=1)


def test_what_is_wrong_inside_of_a_list_is_told():
    kind = tuple[Nested, ...]
    assert parse_setting(kind, '[{"size": 2}]', "here") == (Nested(size=2),)
    with pytest.raises(UserError, match=r"0\.size: .*greater than or equal to 1"):
        parse_setting(kind, '[{"size": 0}]', "here")
    with pytest.raises(UserError, match=r"has no field '0\.szie'"):
        parse_setting(kind, '[{"szie": 2}]', "here")
