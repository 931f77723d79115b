"""The newest `anthropic` package, which is in our own environment, against a real server."""

from __future__ import annotations

import importlib

import pytest

from tests.clients.conftest import checks

PROGRAMS = (
    "anthropic_text.py",
    "anthropic_tools.py",
    "anthropic_thinking.py",
    "anthropic_errors.py",
    "anthropic_2x.py",
)


@pytest.fixture(scope="module", autouse=True)
def closed():
    yield
    importlib.import_module("anthropic_text").close_clients()


@pytest.mark.parametrize(("program", "name"), checks(*PROGRAMS), ids=lambda word: word.removeprefix("check_"))
def test_anthropic(setting, program, name):
    module = importlib.import_module(program.removesuffix(".py"))
    getattr(module, name)(module.Setting(*setting))
