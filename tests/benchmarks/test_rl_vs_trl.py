"""Models that never end, prompts of exact length, ratios; our side, and a stand-in for TRL's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import rl_side
import rl_vs_trl as bench
import torch

from publius.core.errors import UserError
from publius.inference import Engine, Sampling
from publius.testing import byte_tokenizer
from publius.tokenizer.renderer import Renderer
from tests.slow import slow

CASE = rl_side.RLCase(side="ours", method="ppo", mode="float32", size="0.1M", batch=4, epochs=1, windows=1)


def test_sizes_are_what_they_are_called():
    for name in ("3M", "10M"):
        assert rl_side.SIZES[name].parameters() / 1e6 == pytest.approx(float(name[:-1]), rel=0.06)


def test_prompts_are_exactly_so_long():
    renderer = Renderer(byte_tokenizer())
    rows = [renderer.prompt(c) for c in rl_side.prompts_of(5, 32, seed=0)]
    assert {len(row) for row in rows} == {32} and len({tuple(row) for row in rows}) == 5


def test_a_speaker_writes_letters_and_never_ends():
    engine = Engine(rl_side.speaker(rl_side.SIZES["0.1M"], seed=0), byte_tokenizer())
    rows = [Renderer(byte_tokenizer()).prompt(c) for c in rl_side.prompts_of(16, 32, seed=0)]
    for done in engine.generate(rows, Sampling(max_tokens=32, temperature=1.0, seed=0)):
        assert len(done.tokens) == 32
        assert set(byte_tokenizer().decode(list(done.tokens))) <= set(rl_side.LETTERS)


def test_both_sides_load_the_same_weights(tmp_path):
    transformers = pytest.importorskip("transformers")
    paths = rl_side.write_models(tmp_path, CASE)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(paths["policy"], dtype=torch.float32)
    rows = json.loads(Path(paths["prompts"]).read_text())
    tokens = torch.tensor(rows[:3])
    ours = rl_side.speaker(rl_side.SIZES["0.1M"], CASE.seed)
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(paths["policy"])
    texts = [tokenizer.decode(row, skip_special_tokens=False) for row in rows]
    assert tokenizer(texts)["input_ids"] == rows, "GRPO's prompts are texts"


@pytest.mark.parametrize("method", bench.METHODS)
def test_our_steps_are_of_one_shape_for_every_method(tmp_path, method):
    case = CASE.model_copy(update={"method": method, "batch": 8, "group": 4})
    trainer = rl_side.our_trainer(case, rl_side.write_models(tmp_path, case))
    assert trainer.config.batch * trainer.config.group == 8
    assert (trainer.critic is None) == (method == "grpo")
    assert (trainer.config.trunk == "shared") == (method == "lora")
    assert rl_side.our_config(case.model_copy(update={"mode": "auto small"})).chunk_tokens == 1024
    paths = rl_side.write_models(tmp_path, case)
    result = bench.outcome(case, rl_side.train_ours(case, paths))
    assert len(result["windows"]) == 1 and result["windows"][0] > 0


def line(side: str, rate: float, peak: int, mode: str = "float32") -> dict:
    return {
        "size": "3M", "method": "ppo", "epochs": 1, "side": side, "mode": mode, "samples_per_second": rate,
        "peak_bytes": peak, "first_reward": 0.0, "last_reward": 0.1, "spread": 0.0,
        "samples_per_core_second": rate,
    }  # fmt: skip


def test_ratios_are_of_the_fastest_and_of_the_smallest():
    results = [
        line("ours", 300.0, 600_000_000),
        line("ours", 200.0, 300_000_000, "float32 small"),
        line("trl", 100.0, 1_000_000_000),
        line("trl", 80.0, 500_000_000, "float32 recompute"),
        {"size": "3M", "method": "ppo", "epochs": 1, "side": "trl", "mode": "bfloat16", "error": "x"},
    ]
    found = bench.summary(results)
    assert found["speed"] == 3.0 and found["memory"] == 0.6 and found["least_memory"] == 0.6
    assert found["ours"]["least_mode"] == "float32 small"
    assert "| 3M | ppo | 1 | 300.0 (float32) | 100.0 (float32) | 3.00 | 600 | 1,000 | 0.60 |" in bench.table(
        [found]
    )
    assert "| x |" in bench.details(results)
    failed = bench.summary(results[:2])
    assert failed["speed"] is None and "failed" in bench.table([failed])


def test_an_error_of_a_case_stays_one():
    assert bench.outcome(CASE, {"error": "killed"}) == {"error": "killed"}
    assert bench.named(CASE, {"error": "killed"})["error"] == "killed"


def test_where_there_is_no_python(tmp_path):
    with pytest.raises(UserError, match="no Python at"):
        bench.checked(tmp_path / "python")
    assert bench.checked(Path(sys.executable)) == Path(sys.executable)


STAND_IN = """#!{python}
import json, sys
case = json.loads(sys.argv[4])
assert sys.argv[1].endswith("trl_side.py") and sys.argv[2] == "--child"
rows = json.load(open(case["prompts"]))
assert {{len(row) for row in rows}} == {{case["prompt_tokens"]}}
marks = [1.0 + i for i in range(case["steps"])]
print("RESULT " + json.dumps({{"marks": marks, "work": marks, "rewards": marks, "peak_bytes": 10**9}}))
"""


@slow
def test_quick_with_a_stand_in_for_trl(script, tmp_path):
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    done = script(
        "rl_vs_trl.py", "--quick", "--threads", "1", "--trl-python", str(python), "--out", "results"
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    rates = {line["method"]: line["trl"]["samples_per_second"] for line in record["summary"]}
    assert rates == {"ppo": 8.0, "grpo": 8.0, "lora": 8.0}
    assert all(s["speed"] > 0 and s["ours"]["peak_bytes"] > 0 for s in record["summary"])


def test_a_trl_that_fails_is_said_and_the_exit_code_tells(script, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named trl' >&2\nexit 1\n")
    broken.chmod(0o755)
    done = script(
        "rl_vs_trl.py", "--quick", "--methods", "grpo", "--threads", "1", "--trl-python", str(broken)
    )
    assert done.returncode == 1 and "no module named trl" in done.stdout and "failed" in done.stdout


def test_a_wrong_path_ends_with_a_message(script):
    done = script("rl_vs_trl.py", "--quick", "--trl-python", "nowhere/python")
    assert done.returncode == 2 and "trl==1.12.0" in done.stderr and "Traceback" not in done.stderr
