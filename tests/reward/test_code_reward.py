from __future__ import annotations

import pytest

from publius.core.errors import UserError
from publius.core.sandbox import Limits, run
from publius.reward.code_reward import CodePart, CodeReward, code_of
from publius.reward.guard import RewardError
from tests.landlock import CONTAINED
from tests.reward.episodes import episode

pytestmark = CONTAINED

SUM = "```python\ndef add(a, b):\n    return a + b\n```"
ASSERTS = ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"]
CALLS = [{"call": "add(2, 3)", "value": 5}, {"call": "add([1], [2.5])", "value": [1, 2.5]}]


def score(reply: str, tests: object, **given):
    [reward] = CodeReward(limits=Limits(seconds=2), **given)([episode(reply, tests=tests)])
    return reward


def test_code_of() -> None:
    assert code_of("x = 1") == "x = 1"
    assert code_of("Here:\n```python\na = 1\n```\nand\n```py\nb = 2\n```\nbye") == "b = 2\n"
    assert code_of("```\nplain\n```\n```bash\nls\n```") == "plain\n"
    assert code_of("```bash\nls\n```") == ""
    assert code_of("~~~python\nc = 3\n~~~") == "c = 3\n"
    assert code_of("```python\nnever closed") == "```python\nnever closed"


@pytest.mark.parametrize("tests", [ASSERTS, CALLS])
def test_right_and_wrong(tests: list) -> None:
    assert score(f"Sure.\n{SUM}\nDone.", tests).value == 1
    assert score("```python\ndef add(a, b):\n    return a - b\n```", tests).value == 0
    assert score("I cannot.", tests).value == 0
    assert score("", tests).value == 0


def test_partial_credit_and_details() -> None:
    half = "def add(a, b):\n    return 5"
    assert score(half, ASSERTS).value == 0
    found = score(half, ASSERTS, partial=True, name="tests")
    assert found.value == 0.5
    assert found.parts == {"tests": 0.5, "tests.passed": 0.5, "tests.timeout": 0.0, "tests.refused": 0.0}
    assert score("def add(a, b):\n    while True: pass", ASSERTS[:1]).parts["code.timeout"] == 1
    assert score("while True: print('x' * 10000)", ASSERTS[:1]).parts["code.refused"] == 1


def test_programs_that_read_and_print() -> None:
    tests = [{"input": "2\n3\n", "output": "5"}, {"input": "0\n0\n", "output": "0\n"}]
    assert score("print(int(input()) + int(input()))", tests).value == 1
    assert score("import sys\nprint(int(input()) + int(input()))\nsys.exit()", tests).value == 1
    assert score("print(5)", tests, partial=True).value == 0.5
    assert score("print(int(input()) + int(input()))\n1 / 0", tests).value == 0


HACKS = {
    "leave": "import sys\nsys.exit(0)",
    "leave hard": "import os\nos._exit(0)",
    "raise": "raise SystemExit",
    "open quotes": "x = '''",
    "open block": "if False:",
    "open bracket": "x = (",
    "take the next line": "def never(): \\",
}
EQUAL = "class E(int):\n    def __eq__(self, other): return True\ndef add(a, b): return E(1)"


@pytest.mark.parametrize("name", HACKS)
@pytest.mark.parametrize("tests", [ASSERTS, CALLS])
def test_hacks_earn_nothing(name: str, tests: list) -> None:
    assert score(HACKS[name], tests).value == 0


def test_what_is_compared_outside_cannot_be_equal_to_everything() -> None:
    assert score(EQUAL, CALLS).value == 0
    assert score(EQUAL, ASSERTS).value == 1  # the limit of asserts, as its docstring says
    assert score("def add(a, b): print(5)\nprint(5)", CALLS[:1]).value == 0
    assert score("def add(a, b): return True", [{"call": "add(1, 2)", "value": 1}]).value == 0
    assert score("def add(a, b): return 0.1 + 0.2", [{"call": "add(1, 2)", "value": 0.3}]).value == 1
    assert score(
        "def add(a, b): return (1, {'k': None})", [{"call": "add(1, 2)", "value": [1, {"k": None}]}]
    ).value


def test_what_a_call_may_be() -> None:
    said = "def add(a, b): return a + b"
    assert score(said, [{"call": "add(1, 2)  # three", "value": 3}]).value == 1
    assert score(said, [{"call": "add(1, 2), add(3, 4)", "value": [3, 7]}]).value == 1


def test_an_integer_that_no_float_holds_is_wrong_and_ends_nothing() -> None:
    assert score("def add(a, b): return 10 ** 400", [{"call": "add(1, 2)", "value": 0.5}]).value == 0


@pytest.mark.parametrize(
    "tests", [None, [], "assert True", [3], [{"call": "add(", "value": 1}], [{"call": "f()"}]]
)
def test_no_tests_is_an_error_not_a_zero(tests: object) -> None:
    with pytest.raises(RewardError, match=r"no list of tests|none of the known forms") as error:
        score(SUM, tests)
    assert "prompt 0, part code" in error.value.where


def test_no_sandbox_is_an_error_not_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.platform, "machine", lambda: "pdp11")
    with pytest.raises(UserError, match="no sandbox here"):
        score(SUM, ASSERTS)


def test_the_config_makes_it() -> None:
    assert CodePart(limits=Limits(seconds=1)).limits.seconds == 1
    assert CodePart(workers=1) == CodePart(workers=1)
