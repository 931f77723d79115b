"""Configs and their canonical form."""

import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from publius.core.config import Config, canonical, execution, is_execution


class Colour(Enum):
    RED = "red"


class Inner(Config):
    size: int = 2
    device: str = execution("auto")


class Outer(Config):
    inner: Inner = Inner()
    rates: tuple[float, ...] = (0.1, 0.2)
    path: Path = Path("a/b")
    colour: Colour = Colour.RED
    table: dict[str, int] = Field(default_factory=dict)
    workers: int = execution(4, ge=1)


def test_frozen_and_strict():
    with pytest.raises(ValidationError, match="frozen"):
        Inner().size = 3  # pyright: ignore
    with pytest.raises(ValidationError, match="Extra inputs"):
        Inner(sise=3)  # pyright: ignore
    with pytest.raises(ValidationError, match="greater than or equal"):
        Outer(workers=0)


def test_canonical_leaves_execution_fields_out_at_every_depth():
    value = Outer(inner=Inner(device="cuda"), workers=9, table={"b": 1, "a": 2})
    assert canonical(value) == {
        "inner": {"size": 2},
        "rates": [0.1, 0.2],
        "path": "a/b",
        "colour": "red",
        "table": {"a": 2, "b": 1},
    }
    assert list(canonical(value)["table"]) == ["a", "b"]
    assert [n for n, f in Outer.model_fields.items() if is_execution(f)] == ["workers"]


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, math.nan]}, r"config\.a\[1\]"),
        ({"a": math.inf}, r"config\.a"),
        ({1: 2}, "config has a key"),
        ({"s": {1}}, r"config\.s is a set"),
        ([print], r"config\[0\] is a builtin"),
    ],
)
def test_values_without_a_stable_form_are_named(value, where):
    with pytest.raises(TypeError, match=where):
        canonical(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values)
def test_json_values_are_their_own_form(value):
    assert canonical(value) == value


class Square(Config):
    size: float = 1.0


class Circle(Config):
    size: float = 1.0


class Either(Config):
    shape: Square | Circle = Square()


class Several(Config):
    shapes: tuple[Circle | Square, ...] = ()


class Told(Config):
    kind: Literal["told"] = "told"


class Known(Config):
    kind: Literal["known"] = "known"


class Decided(Config):
    one: Annotated[Told | Known, Field(discriminator="kind")] = Told()
    some: tuple[Annotated[Told | Known, Field(discriminator="kind")], ...] = ()
    maybe: Square | None = None
    beside: Square | Circle = execution(Square())


def test_one_of_several_configs_must_say_which() -> None:
    """With equal fields both would have one identity, and be read back as the first."""
    for odd, name in ((Either(shape=Circle()), "shape"), (Several(), "shapes")):
        with pytest.raises(TypeError, match=rf"config\.{name} may be one of several configs"):
            canonical(odd)
    assert canonical(Decided(one=Known())) == {"one": {"kind": "known"}, "some": [], "maybe": None}
