"""A real server, and programs that talk to it in the environments of their clients."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from publius.testing import RunningServer, served, write_tiny_checkpoint
from tests.clients.make_envs import folder

PROGRAMS = Path(__file__).parent / "programs"
CONTEXT = 16384
sys.path.insert(0, str(PROGRAMS))  # programs import each other as scripts do
pytest.register_assert_rewrite(
    "setting", "anthropic_text", "anthropic_tools", "anthropic_thinking", "anthropic_errors", "anthropic_2x"
)

Results = dict[str, str | None]


def checks(*programs: str) -> list[tuple[str, str]]:
    """(program, check) of all checks of some programs, without importing their clients."""
    found: list[tuple[str, str]] = []
    for program in programs:
        text = (PROGRAMS / program).read_text("utf-8")
        if program.endswith(".py"):
            names = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
        else:
            names = [
                line.split("(")[0].split()[-1] for line in text.splitlines() if "function check_" in line
            ]
        found += [(program, name) for name in names if name.startswith("check_")]
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`publius serve` with a random model that writes printable text and ends by itself."""
    folder = tmp_path_factory.mktemp("served")
    model = write_tiny_checkpoint(folder / "tiny", max_position=CONTEXT)
    with served(model, options=["--unreleased"], folder=folder / "home") as running:
        yield running


@pytest.fixture(scope="session")
def setting(server: RunningServer) -> list[Any]:
    """What programs get to know: url, key, model, context, facts."""
    return [server.url, server.key, server.model, CONTEXT]


@pytest.fixture(scope="session")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    """The release of a finished quickstart, served, and its home: a folder named by PUBLIUS_POCKET_HOME."""
    if "PUBLIUS_POCKET_HOME" not in os.environ:
        pytest.skip("set PUBLIUS_POCKET_HOME to a folder with a finished run `quickstart`")
    home = Path(os.environ["PUBLIUS_POCKET_HOME"])
    at = tmp_path_factory.mktemp("pocket")
    with served("quickstart", options=["--home", str(home)], folder=at) as running:
        yield running, home


@pytest.fixture(scope="session")
def run_program(setting: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Results]:
    """Run a program in a client's environment; why each of its checks failed, None where it did not."""
    done: dict[tuple[str, str], Results] = {}

    def run(env: str, program: str, facts: str = "") -> Results:
        if (env, program) not in done:
            given = json.dumps([*setting, facts])
            done[env, program] = _run(env, program, given, tmp_path_factory.mktemp(env))
        return done[env, program]

    return run


def client_env(env: str) -> Path:
    """The folder of a client's environment; the test is skipped where it is not made."""
    at = folder() / env
    if not (at / "made").exists():
        pytest.skip(f"no environment {env}: python tests/clients/make_envs.py {env}")
    return at.absolute()


def program_env(at: Path) -> dict[str, str]:
    """The environment variables of a program: nothing of ours, no key but the test's, nothing from a hub."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL")}
    return {
        **kept, "HOME": str(at), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def report(error: str | None) -> None:
    """Fail with what a check said in its own process."""
    if error is not None:
        pytest.fail(error, pytrace=False)


def _run(env: str, program: str, setting: str, at: Path) -> Results:
    place = client_env(env)
    if program.endswith(".py"):
        command = [str(place / "bin" / "python"), str(PROGRAMS / "run.py"), str(PROGRAMS / program), setting]
    else:
        command = ["node", str(PROGRAMS / program), setting, str(place)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, cwd=at, env=program_env(at), check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = {one["name"]: one["error"] for one in (json.loads(line[7:]) for line in lines)}
    if done.returncode:
        pytest.fail(f"{program} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return found
