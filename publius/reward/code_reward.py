"""A verifier of programs: the reply's code runs against the prompt's tests in the sandbox."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from publius.core.config import Config, execution
from publius.core.messages import text_of
from publius.core.sandbox import Job, Limits, Outcome, run_all
from publius.reward.guard import RewardError
from publius.reward.reward_fn import Reward, Trajectory

__all__ = ["CodePart", "CodeReward", "code_of"]

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL
)
_PYTHON = ("", "py", "python", "python3")
_DEEPEST = 100
"""Levels of JSON that a value may have; deeper ones are not read."""


class CodePart(Config):
    """The part `code` of a reward.

    Attributes:
        tests: the key of `meta` that holds the tests: a list, each item one of
            a text of Python that runs after the reply's code and raises when it fails (`assert f(2) == 4`);
            `{"call": "f(2)", "value": 4}`, whose value, as JSON, is compared outside the sandbox;
            `{"input": "2\\n", "output": "4\\n"}`, for a program that reads and prints.
        partial: the share of tests passed; else 1 when all pass and 0 when one does not.
        optional: prompts without that key get nothing from this part; else they are an error.
        limits: of each test.
        workers: tests run at once.
    """

    kind: Literal["code"] = "code"
    name: str = "code"
    weight: float = 1.0
    tests: str = "tests"
    partial: bool = False
    optional: bool = False
    limits: Limits = Limits()
    workers: int = execution(2, ge=1)


class _Test(NamedTuple):
    """One run: what is appended to the code, what it reads, and what must come of it."""

    suffix: str
    stdin: str
    kind: Literal["assert", "value", "output"]
    wanted: Any = None


class CodeReward:
    """1 when the last reply's code passes every test, else 0 (or the share passed); each test runs by itself.

    The code is the reply's last fenced block of Python, or the whole reply when it has no fence. Details:
    `code.passed`, the share of tests passed; `code.timeout`, the share that ran out of time; `code.refused`,
    the share that the sandbox stopped for another limit.

    Tests that are asserts run beside the code they test, so code written to can make them pass (an object
    equal to everything, say). Where the policy may find that out, use calls or outputs: what is expected then
    never enters the sandbox.

    Raises:
        RewardError: when a prompt's `meta` holds no tests, or one that has none of the three forms.
        UserError: where there can be no sandbox.
    """

    def __init__(
        self,
        tests: str = "tests",
        *,
        partial: bool = False,
        limits: Limits | None = None,
        workers: int = 2,
        name: str = "code",
    ) -> None:
        self._tests, self._partial, self._limits = tests, partial, limits
        self._workers, self._name = workers, name

    def applies(self, trajectory: Trajectory) -> bool:
        """Whether there are tests."""
        return self._tests in trajectory.conversation.meta

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        suites = [self._suite(t) for t in trajectories]
        jobs: list[Job] = []
        for trajectory, suite in zip(trajectories, suites, strict=True):
            code = code_of(text_of(trajectory.conversation.messages[-1]))
            # an empty line between, so that a backslash at the code's end takes nothing of the test
            jobs += [Job(f"{code}\n\n{test.suffix}", test.stdin) for test in suite]
        outcomes = iter(run_all(jobs, limits=self._limits, workers=self._workers))
        return [self._score([(test, next(outcomes)) for test in suite]) for suite in suites]

    def _suite(self, trajectory: Trajectory) -> list[_Test]:
        where = f"prompt {trajectory.prompt}, part {self._name}"
        found = trajectory.conversation.meta.get(self._tests)
        if not isinstance(found, list | tuple) or not found:
            raise RewardError(
                f"meta[{self._tests!r}] is no list of tests",
                where=where,
                fix="give each prompt its tests, or set the part's optional=true for a mixture",
            )
        return [_read(test, where) for test in found]

    def _score(self, results: Sequence[tuple[_Test, Outcome]]) -> Reward:
        n, name = len(results), self._name
        passed = sum(_passes(test, outcome) for test, outcome in results) / n
        value = passed if self._partial else float(passed == 1)
        return Reward(
            value,
            {
                name: value,
                f"{name}.passed": passed,
                f"{name}.timeout": sum(o.ending == "timeout" for _, o in results) / n,
                f"{name}.refused": sum(o.ending in ("output", "disk") for _, o in results) / n,
            },
        )


def code_of(text: str) -> str:
    """The last fenced block of Python in `text`; the whole of it when nothing is fenced."""
    blocks = _FENCE.findall(text)
    python = [body for _, language, body in blocks if language.lower() in _PYTHON]
    if blocks:
        return python[-1] if python else ""
    return text


def _read(test: object, where: str) -> _Test:
    if isinstance(test, str):
        return _Test(test, "", "assert")
    if isinstance(test, Mapping):
        if set(test) == {"call", "value"} and _is_expression(test["call"]):
            # on a line of its own, after whatever else was printed
            # the brackets are for a call that is a tuple, or ends with a comment
            suffix = f"import json as _json\nprint('\\n' + _json.dumps((\n{test['call']}\n)))"
            return _Test(suffix, "", "value", test["value"])
        if set(test) == {"input", "output"} and isinstance(test["output"], str):
            return _Test("", str(test["input"]), "output", test["output"])
    raise RewardError(
        f"a test has none of the known forms: {str(test)[:80]!r}",
        where=where,
        fix='write "assert f(2) == 4", {"call": "f(2)", "value": 4} or {"input": "2", "output": "4"}',
    )


def _is_expression(text: object) -> bool:
    try:
        return isinstance(text, str) and isinstance(ast.parse(text, mode="eval"), ast.Expression)
    except (SyntaxError, ValueError):
        return False


def _passes(test: _Test, outcome: Outcome) -> bool:
    if test.kind == "assert":
        return outcome.finished  # leaving before the asserts is no pass
    if test.kind == "output":
        ended = outcome.ending in ("finished", "exited")
        return ended and _lines(outcome.output) == _lines(test.wanted)
    if not outcome.finished or not (lines := outcome.output.splitlines()):
        return False
    try:
        return _equal(json.loads(lines[-1]), test.wanted)
    except (ValueError, RecursionError, OverflowError):  # an integer that no float can hold
        return False


def _lines(text: str) -> list[str]:
    """Without white space at the ends of lines and of the whole."""
    return [line.rstrip() for line in text.strip().splitlines()]


def _equal(given: Any, wanted: Any, depth: int = 0) -> bool:
    """Equal as JSON: floats within 1e-9 of their size, true is not 1, a tuple is a list."""
    if depth > _DEEPEST or isinstance(given, bool) != isinstance(wanted, bool):
        return False
    if isinstance(wanted, list | tuple):
        same = isinstance(given, list) and len(given) == len(wanted)
        return same and all(_equal(a, b, depth + 1) for a, b in zip(given, wanted, strict=True))
    if isinstance(wanted, Mapping):
        same = isinstance(given, dict) and given.keys() == wanted.keys()
        return same and all(_equal(given[key], wanted[key], depth + 1) for key in wanted)
    if isinstance(wanted, int | float) and isinstance(given, int | float):
        exact = isinstance(wanted, int) and isinstance(given, int)
        return given == wanted if exact else math.isclose(given, wanted, rel_tol=1e-9, abs_tol=1e-12)
    return type(given) is type(wanted) and given == wanted
