"""The house: rooms look one way, files stay liveable, nothing dangerous is imported.

`import-linter` reads the layers from `pyproject.toml`; the walk over the syntax trees below also sees
imports inside functions, of which there should be none.
"""

from __future__ import annotations

import ast
import logging
import re
import tomllib
from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "publius").rglob("*.py"))
ROOMS = [
    {"core"},
    {"pipeline"},
    {"data"},
    {"tokenizer"},
    {"model"},
    {"inference"},
    {"training"},
    {"constitution"},
    {"reward"},
    {"rl"},
    {"evals", "redteam"},
    {"safety"},
    {"release"},
    {"serve"},
    {"report"},
    {"recipes"},
    {"testing"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
LONG_FILE, LONG_FUNCTION = 400, 60


def room_of(path: Path) -> str:
    """`core` for publius/core/config.py, `cli` for publius/cli/base.py, '' for publius/__init__.py."""
    first = path.relative_to(ROOT / "publius").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and full module name of every import in the file, at any depth."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found.extend((node.lineno, f"{base}.{alias.name}") for alias in node.names)
    return found


def walls_broken(room: str, source: str) -> list[str]:
    """Imports in `source`, a file of `room`, that look the wrong way."""
    broken: list[str] = []
    for line, name in imported(ast.parse(source)):
        if name.startswith("."):
            broken.append(f"line {line}: relative import {name}")
        parts = name.split(".")
        if parts[0] != "publius" or len(parts) < 2 or parts[1] in ("__version__", room):
            continue
        if parts[1] not in FLOOR:
            broken.append(f"line {line}: {name} is in no known room")
        elif room and FLOOR[parts[1]] >= FLOOR[room]:
            broken.append(f"line {line}: {room} imports {name}")
    return broken


def nested_imports(source: str) -> list[int]:
    """Lines of imports that are not at the top of the file."""
    tree = ast.parse(source)
    top = {id(node) for node in tree.body}
    for node in tree.body:
        if isinstance(node, ast.If | ast.Try):
            top |= {id(child) for child in ast.walk(node)}
    return [
        n.lineno for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in top
    ]


def dangers(source: str) -> list[str]:
    """Pickle, torch.load and eval(), by line."""
    tree = ast.parse(source)
    found = [
        f"line {line}: {name}"
        for line, name in imported(tree)
        if name.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "shelve", "marshal")
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in (
                "eval",
                "exec",
                "torch.load",
                "np.load",
                "numpy.load",
                "builtins.eval",
                "yaml.load",
            ):
                allowed = called.endswith("np.load") and "allow_pickle=False" in ast.unparse(node)
                found.extend([] if allowed else [f"line {node.lineno}: {called}()"])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    room = room_of(path)
    assert room == "" or room in FLOOR, (
        f"{room} is no room of the house: add it to ROOMS and to pyproject.toml"
    )
    assert walls_broken(room, source) == []
    assert nested_imports(source) == []
    assert dangers(source) == []
    docstring = ast.get_docstring(tree)
    assert docstring, "a module starts with a docstring"
    if path.name != "__init__.py":
        assigned = {ast.unparse(t) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets}
        assert "__all__" in assigned, "a module defines __all__"
    if "Long because" not in docstring:
        assert len(source.splitlines()) <= LONG_FILE, (
            "too long: split it, or say 'Long because ...' at the top"
        )
        long = [
            f"{node.name}: {length} lines"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or 0) - node.lineno + 1) > LONG_FUNCTION
        ]
        assert long == []


def test_import_linter_agrees(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    silent = [one.disabled for one in known]
    status = cli.lint_imports(config_filename="pyproject.toml", no_cache=True)
    for one, was in zip(known, silent, strict=True):  # it configures logging, and silences all there is
        one.disabled = was
    assert status == 0, capsys.readouterr().out


def test_layers_in_pyproject_are_these_rooms():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [set(re.findall(r"\w+", layer)) for layer in contracts[0]["layers"]]
    assert layers == ROOMS[::-1]


def test_tests_mirror_the_house():
    known = {*FLOOR, "laws", "golden", "clients", "benchmarks"}
    strangers = {
        p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and not p.name.startswith("_")
    } - known
    assert strangers == set()


# The walls themselves can fail:


def test_a_broken_wall_is_seen():
    assert walls_broken("core", "def f():\n    from publius.rl import ppo\n") == [
        "line 2: core imports publius.rl.ppo"
    ]
    assert walls_broken("evals", "import publius.redteam.attack") == [
        "line 1: evals imports publius.redteam.attack"
    ]
    assert walls_broken(
        "rl", "from . import x\nfrom publius import attic\nfrom publius.core import config"
    ) == [
        "line 1: relative import ..x",
        "line 2: publius.attic is in no known room",
    ]
    assert (
        walls_broken("rl", "from publius.rl.loss import x\nfrom publius.core.errors import UserError") == []
    )


def test_nested_imports_and_dangers_are_seen():
    assert nested_imports(
        "import a\ntry:\n    import b\nexcept ImportError:\n    pass\ndef f():\n    import c\n"
    ) == [7]
    bad = "import pickle\nx = 1\ntorch.load('x')\neval('1')\nnp.load('x')\nnp.load('x', allow_pickle=False)"
    assert dangers(bad) == ["line 1: pickle", "line 3: torch.load()", "line 4: eval()", "line 5: np.load()"]
    assert dangers("model.eval()\nconfig.load('x')") == []
