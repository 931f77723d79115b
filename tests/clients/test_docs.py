"""The examples of docs/clients.md run, each in the environments of its client, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients.conftest import client_env, program_env

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
ENVS: dict[str, tuple[str, ...]] = {
    "anthropic": ("", "anthropic-0x"), "anthropic: the tool runner": ("",), "@anthropic-ai/sdk": ("npm",),
    "openai": ("",), "langchain-anthropic": ("langchain",), "LiteLLM": ("litellm",),
    "inspect_ai": ("inspect",), "lm-eval": ("lm-eval",),
}  # fmt: skip
"""Section -> environments; "" is ours."""


class Example(NamedTuple):
    """A block of the page."""

    section: str
    number: int
    env: str
    language: str
    code: str


def examples() -> list[Example]:
    """All blocks that are programs."""
    found: list[Example] = []
    for part in PAGE.read_text("utf-8").split("\n## ")[1:]:
        section = part.split("\n", 1)[0]
        blocks = re.findall(r"^```(py|js)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        for number, (language, code) in enumerate(blocks):
            found += [Example(section, number, env, language, code) for env in ENVS[section]]
    return found


def test_every_client_has_an_example():
    assert {example.section for example in examples()} == set(ENVS)


@pytest.mark.parametrize(
    "example", examples(), ids=lambda one: f"{one.section}-{one.number}-{one.env or 'ours'}"
)
def test_example(server, tmp_path, example):
    place = client_env(example.env) if example.env else None
    code = example.code.replace("http://127.0.0.1:8080", server.url).replace("secret", server.key)
    assert server.url in code and server.key in code
    env = program_env(tmp_path)
    if example.language == "js":
        assert place is not None
        (tmp_path / "node_modules").symlink_to(place / "node_modules")
        (tmp_path / "example.mjs").write_text(code)
        command = ["node", "example.mjs"]
    else:
        (tmp_path / "example.py").write_text(code)
        command = [str(place / "bin" / "python") if place else sys.executable, "example.py"]
        env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "") if place is None else ""
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
