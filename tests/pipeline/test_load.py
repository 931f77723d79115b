"""Finding recipes and applying settings."""

import sys
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import load_recipe, parse_settings
from publius.pipeline.load import builtin_recipes
from tests.pipeline.toy import NumbersConfig, SumConfig

TOY = f"{Path(__file__).parent / 'toy.py'}"


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
