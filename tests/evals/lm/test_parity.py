"""Ours against lm-eval itself, where there is one: installed here, or in the Python that
PUBLIUS_LM_EVAL_PYTHON names (with `lm-eval transformers accelerate` and what publius needs)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from publius.evals.lm.harness import available
from publius.model.checkpoint import Checkpoint
from tests.evals.lm import parity

PYTHON = os.environ.get("PUBLIUS_LM_EVAL_PYTHON") or (sys.executable if available() else "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="lm-eval is not installed, and PUBLIUS_LM_EVAL_PYTHON names no Python that has it"
)


@pytest.fixture(scope="module")
def found(merging: Checkpoint) -> dict[str, Any]:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [PYTHON, str(parity.__file__), str(merging.path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    lines = [line for line in done.stdout.splitlines() if line.startswith("PARITY ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("PARITY "))


def test_likelihoods_are_those_of_its_own_model_class(found: dict[str, Any]) -> None:
    ours, theirs = found["ours"], found["theirs"]
    pairs = zip(ours["loglikelihood"], theirs["loglikelihood"], strict=True)
    for (one, greedy), (other, likeliest) in pairs:
        assert one == pytest.approx(other, abs=1e-4) and greedy is likeliest
    assert ours["rolling"] == pytest.approx(theirs["rolling"], rel=1e-5)


def test_texts_and_chats_are_too(found: dict[str, Any]) -> None:
    for kind in ("written", "chat", "begun"):
        assert found["ours"][kind] == found["theirs"][kind]


@pytest.mark.parametrize("task", parity.ROWS)
def test_a_task_asks_and_marks_as_its_own(found: dict[str, Any], task: str) -> None:
    ours, theirs = found["tasks"][task]["ours"], found["tasks"][task]["theirs"]
    assert ours["requests"] == theirs["requests"]
    for one, other in zip(ours["marks"], theirs["marks"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_report_has_the_means_with_intervals(found: dict[str, Any]) -> None:
    marks = found["tasks"]["arc_easy"]["ours"]["marks"]
    measure = found["report"]["lm.arc_easy.acc_norm"]
    assert measure["value"] == sum(mark["acc_norm"] for mark in marks) / 4
    assert measure["n"] == 4 and measure["low"] < measure["value"] < measure["high"]
    names = {"arc_easy.acc", "arc_easy.acc_norm", "winogrande.acc", "mmlu.acc", "truthfulqa_mc2.acc"}
    assert {f"lm.{name}" for name in names} <= set(found["report"])
