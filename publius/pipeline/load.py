"""Finding a recipe: by the name of a built-in one, or `file.py:function`; with settings applied."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from publius.core.errors import UserError
from publius.pipeline.job import load_file
from publius.pipeline.names import did_you_mean
from publius.pipeline.recipe import Recipe, parse_setting, refused

__all__ = ["builtin_recipes", "load_recipe", "parse_settings"]


def builtin_recipes(package: str = "publius.recipes") -> list[str]:
    """Names of the recipes in `package`: modules that may hold a function of the same name.

    Those of a package inside it have its name before theirs, `studies/principles`.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    found: list[str] = []
    for module in pkgutil.iter_modules(folders):
        if module.name.startswith("_"):
            continue
        inside = builtin_recipes(f"{package}.{module.name}") if module.ispkg else None
        found += [module.name] if inside is None else [f"{module.name}/{name}" for name in inside]
    return sorted(found)


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """`["sft.steps=50", "seed=1"]` as a mapping; `UserError` for one without `=`."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r} is not a setting", where="--set", fix="write --set stage.field=value")
        settings[key.strip()] = value
    return settings


def load_recipe(
    source: str, settings: Mapping[str, str] | None = None, package: str = "publius.recipes"
) -> Recipe:
    """The recipe that `source` names, with `settings`: those without a dot are the recipe's own parameters.

    Raises:
        UserError: for an unknown recipe, parameter, stage or field (with a suggestion), or a bad value,
            be it in a setting or written in the recipe.
    """
    settings = dict(settings or {})
    function = _function(source, package)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind in named}
    hints = _hints(function, source)
    arguments: dict[str, Any] = {}
    for key in [key for key in settings if "." not in key]:
        where = f"--set {key}={settings[key]}"
        if key not in parameters:
            known = [*parameters, "<stage>.<field>"]
            raise UserError(
                f"recipe {source!r} has no setting {key!r}", where=where, fix=did_you_mean(key, known)
            )
        arguments[key] = parse_setting(hints.get(key, str), settings[key], where)
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in arguments]
    if missing:
        fix = " ".join(f"--set {name}=..." for name in missing)
        raise UserError(f"recipe {source!r} needs {', '.join(missing)}", where=source, fix=fix)
    try:
        recipe = function(**arguments)
    except ValidationError as error:  # a config written in the recipe, with a field it does not have
        raise refused(error, _line_in(error, function, source)) from error
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"{source!r} did not return a Recipe", where=source, fix="end the function with `return recipe`"
        )
    recipe.source = source
    recipe.settings = {key: settings[key] for key in arguments}
    for key in [key for key in settings if "." in key]:
        recipe.override(key, settings[key])
    return recipe


def _hints(function: Callable[..., Any], source: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)  # what bounds a number, too
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        told = f"an annotation of recipe {source!r} cannot be resolved: {error}"
        raise UserError(told, where=_place_of(function, source), fix="import what it names") from None


def _place_of(function: Callable[..., Any], source: str) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return source if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _line_in(error: Exception, function: Callable[..., Any], source: str) -> str:
    """`file:line` of the deepest place in the recipe's own file that `error` came through."""
    file = inspect.getsourcefile(function)
    frames = traceback.extract_tb(error.__traceback__)
    return next((f"{f.filename}:{f.lineno}" for f in reversed(frames) if f.filename == file), source)


def _function(source: str, package: str) -> Callable[..., Any]:
    if ".py" in source:
        file, _, name = source.partition(":")
        module: Any = load_file(Path(file))
        name = name or Path(file).stem
    else:
        names = builtin_recipes(package)
        if source not in names:
            raise UserError(f"unknown recipe {source!r}", where=package, fix=did_you_mean(source, names))
        module = importlib.import_module(f"{package}.{source.replace('/', '.')}")
        name = source.rpartition("/")[2]
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(f"there is no recipe {name!r}", where=source, fix=did_you_mean(name, functions))
    return function
