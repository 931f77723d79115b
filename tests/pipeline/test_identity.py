"""Identity: what moves it, what does not, and that it never drifts between versions of this code."""

import hashlib
import json

import pytest

from publius.core.config import Config
from publius.core.errors import UserError
from publius.pipeline import Recipe, Record, Run, stage
from publius.pipeline.identity import changes, identify
from tests.pipeline.toy import Numbers, NumbersConfig, SumConfig, add_up, make_numbers, toy


def sha(parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_identity_is_the_hash_of_the_documented_parts():
    numbers, other, total = identify(toy(seed=3))
    first = {
        "stage": "make_numbers",
        "version": 1,
        "config": {"count": 4, "seed": 3},
        "inputs": {},
    }
    assert numbers.id == sha(first)
    second = sha(first | {"config": {"count": 1, "seed": 100}})
    assert other.id == second
    config = {"steps": 4, "scale": 1.0}
    inputs = {"numbers": numbers.id, "more": [other.id]}
    assert total.id == sha({"stage": "add_up", "version": 1, "config": config, "inputs": inputs})
    assert total.folder == f"add_up-{total.id[:12]}"


def test_names_and_execution_fields_do_not_move_it():
    one, two = Recipe("one"), Recipe("two")
    one.stage("a", make_numbers, NumbersConfig(workers=1))
    two.stage("b", make_numbers, NumbersConfig(workers=8))
    assert identify(one)[0].id == identify(two)[0].id


def test_a_change_moves_everything_below_and_nothing_beside():
    before, after = toy(), toy()
    after.override("numbers.count", "5")
    old = {i.node.name: i.id for i in identify(before)}
    new = {i.node.name: i.id for i in identify(after)}
    assert {name for name in old if old[name] != new[name]} == {"numbers", "total"}


def test_order_of_a_list_input_matters():
    ids = set()
    for flip in (False, True):
        recipe = Recipe("r")
        a = recipe.stage("a", make_numbers, NumbersConfig(seed=1))
        b = recipe.stage("b", make_numbers, NumbersConfig(seed=2))
        recipe.stage("t", add_up, SumConfig(), numbers=a, more=[b, a] if flip else [a, b])
        ids.add(identify(recipe)[-1].id)
    assert len(ids) == 2


def test_fingerprint_enters_only_when_given():
    content = ["old"]

    @stage(version=1, fingerprint=lambda config: {"file": content[0]})
    def read(run: Run, config: Config) -> Numbers:
        return Numbers(run.output)

    recipe = Recipe("r")
    recipe.stage("read", read, Config())
    before = identify(recipe)[0]
    content[0] = "new"
    after = identify(recipe)[0]
    assert before.id != after.id
    record = Record(stage="read", version=1, id=before.id, config={}, fingerprint=before.fingerprint)
    assert changes(after, record) == ["files outside"]


def test_changes_name_the_field():
    now = identify(toy())[-1]
    inputs = {"numbers": "0" * 64, "more": now.inputs["more"]}
    config = {"steps": 50, "gone": [1], "deep": {"er": 1}}
    before = Record(stage="add_up", version=3, id="", config=config, inputs=inputs)
    assert changes(now, before) == [
        "version: 3 -> 1",
        "deep.er: field removed, was 1",
        "gone: field removed, was [1]",
        "scale: new field, 1.0",
        "steps: 50 -> 4",
        "input numbers",
    ]
    assert changes(now, Record(stage="sub", version=1, id="", config={})) == ["function: sub -> add_up"]


def test_changes_shorten_long_values():
    before = Record(stage="make_numbers", version=1, id="", config={"count": "x" * 100, "seed": 0})
    (change,) = changes(identify(toy())[0], before)
    assert len(change) < 60 and "..." in change


def test_two_functions_of_one_name_are_not_taken_for_each_other():
    def make_numbers_too(run: Run, config: NumbersConfig) -> Numbers:
        return Numbers(run.output)

    make_numbers_too.__name__ = "make_numbers"
    recipe = Recipe("two")
    recipe.stage("a", make_numbers, NumbersConfig())
    recipe.stage("b", make_numbers, NumbersConfig())  # the same one may stand twice
    assert len(identify(recipe)) == 2
    recipe.stage("c", stage(version=make_numbers.version)(make_numbers_too), NumbersConfig())
    with pytest.raises(UserError, match="two stage functions are called 'make_numbers'"):
        identify(recipe)
