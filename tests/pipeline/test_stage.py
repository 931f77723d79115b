"""Stages: still functions, and honest about their ports."""

from collections.abc import Sequence

import pytest

from publius.core.config import Config
from publius.core.errors import UserError
from publius.pipeline import Artifact, Recipe, Run, stage, testing_run
from tests.pipeline.toy import Numbers, NumbersConfig, Total, add_up, make_numbers


def test_a_stage_is_still_a_function(tmp_path):
    made = make_numbers(testing_run(tmp_path), NumbersConfig(count=3, seed=5))
    assert isinstance(made, Numbers)
    assert made.values() == [5, 6, 7]
    assert make_numbers.name == "make_numbers"
    assert add_up.__doc__ is not None and "Adds" in add_up.__doc__


def test_signature_tells_the_ports():
    signature = add_up.signature
    assert signature.output is Total
    assert signature.inputs["numbers"] == ((Numbers,), False, True)
    assert signature.inputs["more"] == ((Numbers,), True, False)
    assert str(signature.inputs["more"]) == "list[Numbers]"


@stage(version=1)
def unions(run: Run, config: Config, *, one: Numbers | Total, many: Sequence[Numbers | Total] = ()) -> Total:
    return Total(run.output)


def test_unions_and_sequences():
    assert unions.signature.inputs["one"] == ((Numbers, Total), False, True)
    assert unions.signature.inputs["many"] == ((Numbers, Total), True, False)


def no_output(run: Run, config: NumbersConfig): ...
def no_config(run: Run, config) -> Numbers: ...  # pyright: ignore
def config_is_a_dict(run: Run, config: dict) -> Numbers: ...  # pyright: ignore
def returns_text(run: Run, config: NumbersConfig) -> str: ...  # pyright: ignore
def positional(run: Run, config: NumbersConfig, base: Numbers) -> Numbers: ...  # pyright: ignore
def bad_input(run: Run, config: NumbersConfig, *, base: int) -> Numbers: ...  # pyright: ignore
def bare_input(run: Run, config: NumbersConfig, *, base) -> Numbers: ...  # pyright: ignore
def unresolved(run: Run, config: NumbersConfig, *, base: "Nowhere") -> Numbers: ...  # pyright: ignore # noqa: F821
def no_arguments(run: Run) -> Numbers: ...  # pyright: ignore


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_output, "no annotation on 'return'"),
        (no_config, "no annotation on 'config'"),
        (config_is_a_dict, "not a Config class"),
        (returns_text, "not an Artifact class"),
        (positional, "input 'base'.*keyword-only"),
        (bad_input, "input 'base'"),
        (bare_input, "no annotation on 'base'"),
        (unresolved, "cannot be resolved.*Nowhere"),
        (no_arguments, "must take"),
    ],
)
def test_unfit_signatures_are_refused_when_wired(function, message):
    with pytest.raises(UserError, match=message) as caught:
        Recipe("r").stage("s", stage(version=1)(function), NumbersConfig())
    assert function.__name__ in str(caught.value)


def test_undecorated_function_is_refused():
    with pytest.raises(UserError, match="is not a stage"):
        Recipe("r").stage("s", no_output, NumbersConfig())  # pyright: ignore


def test_base_class_accepts_subclass():
    @stage(version=1)
    def any_artifact(run: Run, config: Config, *, thing: Artifact) -> Artifact:
        return Artifact(run.output)

    recipe = Recipe("r")
    numbers = recipe.stage("n", make_numbers, NumbersConfig())
    assert recipe.stage("a", any_artifact, Config(), thing=numbers).parents() == [numbers]
