from __future__ import annotations

import os
from pathlib import Path

import pytest

from publius.core.sandbox import Limits
from publius.data.sources import rows
from publius.evals.lm.humaneval import passes, program_of
from tests.landlock import CONTAINED

QUESTION = {
    "prompt": 'def double(number):\n    """Twice the number."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}


def test_a_program_is_prompt_completion_tests_and_their_call() -> None:
    told = program_of(QUESTION, "    return 2 * number")
    assert told.endswith("return 2 * number\n" + QUESTION["test"] + "\ncheck(double)\n")


@CONTAINED
@pytest.mark.parametrize(
    ("completion", "ending"),
    [
        ("    return 2 * number\n", "finished"),
        ("    return number\n", "raised"),
        ("    return\n  nothing", "raised"),
        ("    import sys; sys.exit(0)\n", "exited"),
        ("    import os; os._exit(0)\n", "crashed"),
        ("    while True: pass\n", "timeout"),
        ("    import socket; socket.socket(); return 2 * number\n", "raised"),
        ("    open('kept', 'w').write('x' * 5000); return 2 * number\n", None),
        ("    open('/etc/hostname').read(); return 2 * number\n", "raised"),
        ("    x = bytearray(1 << 30); return 2 * number\n", "raised"),
        ("    return 2 * number\ncheck = print\n", "finished"),  # the tests come after it
    ],
)
def test_only_what_is_right_and_runs_to_its_end_passes(completion: str, ending: str | None) -> None:
    limits = Limits(seconds=5.0 if ending != "timeout" else 0.5, disk_kb=0)
    passed, ended = passes(QUESTION, completion, limits)
    assert passed is (ending == "finished")
    assert ending is None or ended == ending


SHARED = Path(os.environ.get("PUBLIUS_SHARED_DATA", "no/such/folder")) / "benchmarks" / "humaneval.jsonl.gz"


@CONTAINED
@pytest.mark.skipif(not SHARED.is_file(), reason="PUBLIUS_SHARED_DATA names no folder with benchmarks/")
def test_published_solutions_pass_and_empty_ones_do_not() -> None:
    for row, _ in list(rows(str(SHARED)))[::20]:
        assert passes(row, row["canonical_solution"]) == (True, "finished")
        assert passes(row, "    pass\n") == (False, "raised")
