"""Finding recipes and applying settings."""

import sys
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import load_recipe, parse_settings
from publius.pipeline.load import builtin_recipes
from tests.pipeline.toy import NumbersConfig, SumConfig

TOY = f"{Path(__file__).parent / 'toy.py'}"
SEEDS_ALONE = {"planted", *(name for name in builtin_recipes() if name.startswith("studies/"))} - {
    "studies/search"
}
"""Take how many seeds, not which."""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of recipes, as `publius.recipes` is one."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tiny.py").write_text("from tests.pipeline.toy import toy as tiny\n")
    (folder / "broken.py").write_text("import no_such_module_anywhere\n")
    (folder / "_private.py").write_text("")
    (folder / "inner").mkdir()
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "small.py").write_text("from tests.pipeline.toy import toy as small\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "shelf"
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf"]:
        del sys.modules[name]


def test_builtin(package):
    assert builtin_recipes(package) == ["broken", "inner/small", "tiny"]
    assert builtin_recipes("no_such_package") == []
    recipe = load_recipe("tiny", {"seed": "3", "total.steps": "9"}, package)
    config = recipe.nodes["numbers"].config
    assert isinstance(config, NumbersConfig) and config.seed == 3
    total = recipe.nodes["total"].config
    assert isinstance(total, SumConfig) and total.steps == 9
    assert recipe.settings == {"seed": "3", "total.steps": "9"} and recipe.source == "tiny"


def test_a_package_inside(package):
    recipe = load_recipe("inner/small", {"seed": "3"}, package)
    assert recipe.source == "inner/small" and "total" in recipe.nodes
    with pytest.raises(UserError, match="unknown recipe 'inner/smal'") as caught:
        load_recipe("inner/smal", {}, package)
    assert caught.value.fix == "did you mean 'inner/small'?"


def test_unknown_builtin_has_a_suggestion(package):
    with pytest.raises(UserError, match="unknown recipe 'tinny'") as caught:
        load_recipe("tinny", {}, package)
    assert caught.value.fix == "did you mean 'tiny'?"


def test_a_broken_recipe_is_not_called_unknown(package):
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        load_recipe("broken", {}, package)


def test_from_a_file():
    assert list(load_recipe(f"{TOY}:toy").nodes) == ["numbers", "other", "total"]
    assert list(load_recipe(TOY).nodes) == ["numbers", "other", "total"]
    assert list(load_recipe(f"{TOY}:needs", {"path": "here"}).nodes) == ["here"]


@pytest.mark.parametrize(
    ("source", "settings", "message", "fix"),
    [
        ("nowhere.py:toy", {}, "no such Python file", "path"),
        (f"{TOY}:ty", {}, "there is no recipe 'ty'", "did you mean 'toy'?"),
        (f"{TOY}:not_a_recipe", {}, "did not return a Recipe", "return recipe"),
        (f"{TOY}:needs", {}, "needs path", "--set path="),
        (f"{TOY}:toy", {"sed": "1"}, "has no setting 'sed'", "did you mean 'seed'?"),
        (f"{TOY}:toy", {"seed": "x"}, "integer", ""),
        (f"{TOY}:toy", {"totl.steps": "1"}, "unknown stage 'totl'", "did you mean 'total'?"),
        (f"{TOY}:toy", {"total.step": "1"}, "no field 'step'", "did you mean 'steps'?"),
    ],
)
def test_mistakes(source, settings, message, fix):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(source, settings)
    assert fix in caught.value.fix


ODD = """
from publius.pipeline import Recipe
from tests.pipeline.toy import toy

class Mine:
    pass

def nowhere(seed: "NoSuchName" = 0) -> Recipe: return toy()
def own(what: Mine | None = None) -> Recipe: return toy()
def loose(*args: int, seed: int = 0, **more: int) -> Recipe: return toy(seed=seed)
def first(seed: int = 0, /) -> Recipe: return toy()
def named() -> Recipe: return Recipe("a/b")
"""


def test_odd_recipes_are_no_bugs_of_ours(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(ODD)
    for name, settings, message, where in (
        ("nowhere", {}, "an annotation of recipe .* cannot be resolved: name 'NoSuchName'", f"{path}:8"),
        ("own", {"what": "x"}, "cannot be given as text", "--set what=x"),
        ("loose", {"more": "1"}, "has no setting 'more'", "--set more=1"),
        ("first", {"seed": "1"}, "has no setting 'seed'", "--set seed=1"),
        ("named", {}, "'a/b' cannot name a recipe", "a recipe's name"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_recipe(f"{path}:{name}", settings)
        assert caught.value.where == where and caught.value.fix
    loose = load_recipe(f"{path}:loose", {"seed": "3"})
    assert loose.settings == {"seed": "3"} and loose.nodes["numbers"].config.seed == 3
    assert "numbers" in load_recipe(f"{path}:own").nodes


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
@pytest.mark.parametrize("name", [n for n in builtin_recipes() if n not in SEEDS_ALONE])
def test_a_seed_that_no_generator_takes_is_told_before_any_work(name, seed):
    data = {"data": "x"} if name == "base" else {}
    with pytest.raises(UserError, match="Input should be") as caught:
        load_recipe(name, {"seed": seed} | data)
    assert caught.value.where == f"--set seed={seed}"


def test_a_file_that_fails_is_not_half_imported(tmp_path):
    path = tmp_path / "bad.py"
    for source, told, beyond in (
        ("\nraise RuntimeError('at import\\nof this')\n", "RuntimeError: at import", ""),
        ("import json\njson.loads('{')\n", "json.decoder.JSONDecodeError: Expecting", ", in /"),
        ("x = 1\nexit(3)\n", "SystemExit: 3", ", in "),
        ("\nimport no_such_module_anywhere\n", "ModuleNotFoundError: No module named", ""),
    ):
        path.write_text(source)
        for _ in range(2):
            with pytest.raises(UserError, match=f"the file cannot be imported: {told}") as caught:
                load_recipe(f"{path}:bad")
            assert caught.value.where.startswith(f"{path}:2{beyond}") and "\n" not in caught.value.what
    path.write_text("from publius.core.errors import UserError\nraise UserError('mine')\n")
    with pytest.raises(UserError, match=r"^mine$"):
        load_recipe(f"{path}:bad")


def test_parse_settings():
    assert parse_settings(["a=1", "b.c=x=y", "d="]) == {"a": "1", "b.c": "x=y", "d": ""}
    for bad in ("a", "=1"):
        with pytest.raises(UserError, match="is not a setting"):
            parse_settings([bad])
