"""What is the same, how ratios are taken, the checkpoint; the sides themselves run where lm-eval is."""

from __future__ import annotations

import json
from pathlib import Path

import lm_eval_vs_hf as bench
import pytest

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint


def answered(wall: float, value: float = 0.5, answers: object = None) -> dict[str, object]:
    return {"wall": wall, "cpu": 2 * wall, "n": 2, "metrics": {"acc": value}, "answers": answers or []}


def test_gaps_are_of_metrics_likelihoods_and_greedy_flags() -> None:
    ours = answered(1, 0.5, [[-1.0, True], [-2.0, False]])
    theirs = answered(1, 0.75, [[-1.25, True], [-2.0, True]])
    found = bench.compare(ours, theirs)
    assert (found["metric_gap"], found["largest_gap"], found["mean_gap"]) == (0.25, 0.25, 0.125)
    assert found["same_greedy"] == 0.5
    assert bench.compare(answered(1, 1, ["a", "b"]), answered(1, 1, ["a", "c"]))["same_texts"] == 0.5


def test_the_fastest_of_their_modes_counts_for_each_task() -> None:
    found = {
        "ours:float32": {"one": answered(1), "two": answered(2)},
        "hf:float32:1": {"one": answered(3), "two": answered(9)},
        "hf:float32:8": {"one": answered(4), "two": answered(4)},
        "hf:bfloat16:8": {"one": answered(0.1), "two": answered(0.1)},
    }
    lines = bench.ratios(found, ["one", "two"], "float32")
    assert (lines["one"]["wall"], lines["one"]["mode"]) == (3, "hf:float32:1")
    assert (lines["two"]["wall"], lines["two"]["mode"]) == (2, "hf:float32:8")
    assert lines["all"]["wall"] == pytest.approx(7 / 3)
    assert bench.ratios(found, ["one"], "bfloat16") == {}


def test_a_dtype_in_which_a_side_failed_is_not_fast() -> None:
    done = {"all": {"wall": 3.0}}
    assert bench.fast_enough({"float32": done})
    assert not bench.fast_enough({"float32": done, "bfloat16": {}})
    assert not bench.fast_enough({"float32": done, "bfloat16": {"all": {"wall": 1.5}}})


def test_the_checkpoint_has_a_vocabulary_of_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "The river of Elmford is the Esk."}) + "\n")
    monkeypatch.setattr(bench, "VOCABULARY", 300)
    bench.make_checkpoint(tmp_path / "model", "2M", [str(text)])
    config = Checkpoint(tmp_path / "model").config()
    assert config.vocab_size <= 300 and config.layers == 4 and config.max_position == bench.CONTEXT


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["bench", "--data", str(tmp_path), "--model", "x", "--quick"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(UserError, match="is missing"):
        bench.measure(bench.arguments(), tmp_path)
