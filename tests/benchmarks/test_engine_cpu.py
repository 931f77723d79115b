"""Cases, ratios, tables; our weights in llama.cpp's order; and one quick run."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import engine_cpu as bench
import numpy as np
import pytest
import torch
from engines import SHAPES, EngineCase, bandwidth, jobs, our_engine, prompts, weight_bytes
from harness import child

from publius.core.errors import UserError
from publius.inference import Sampling
from publius.model.fused import split_weights
from publius.model.transformer import Transformer
from publius.testing import byte_tokenizer

SCRIPT = Path(bench.__file__)


@pytest.fixture(autouse=True)
def one_thread():
    """As children of other quick runs have: threads that wait for each other are slow beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def found(**speeds):
    """Results of decoding at 125M: `side__mode` or `side__mode__rows`, `_` in transformers' modes for `:`."""
    made = []
    for name, speed in speeds.items():
        side, mode, *rows = name.split("__")
        case = EngineCase(
            side=side,
            mode=mode.replace("_", ":") if side == "hf" else mode,
            size="125M",
            rows=int(*rows or ["1"]),
        )
        result = {"tokens_per_second": speed, "spread": 0.1, "peak_bytes": 0, "said": [1, 2, 3]}
        if (side, case.rows) == ("ours", 1):
            bytes_each = weight_bytes(
                case.shape, mode
            )  # half, three quarters and all of what is read beside it
            result |= {
                "windows": [speed] * 3,
                "reads": [bytes_each * speed / share for share in (0.5, 0.75, 1)],
            }
        made.append((case, result if speed else {"error": "no compiler"}))
    return made


def test_shapes_are_what_they_are_called():
    counts = {name: shape.parameters() / 1e6 for name, shape in SHAPES.items()}
    assert {name: round(count) for name, count in counts.items() if name != "125M"} == {"1M": 1, "10M": 10}
    assert 100 < counts["125M"] < 130
    small = SHAPES["1M"]
    norms = (2 * small.layers + 1) * small.hidden_size
    assert weight_bytes(small, "bfloat16") == 2 * (small.parameters() - norms)


def test_prompts_and_requests_differ_and_their_lengths_do_not():
    case = EngineCase(size="1M", side="ours", mode="float32", rows=2, count=5)
    first, second = prompts(case, 0), prompts(case, 1)
    assert [len(row) for row in first] == [64, 64] and first != second and first[0] != first[1]
    a, b = jobs(case, 0), jobs(case, 1)
    assert [(len(job.prompt), job.new) for job in a] == [(len(job.prompt), job.new) for job in b]
    assert a != b and all(16 <= len(job.prompt) <= 512 and 16 <= job.new <= 256 for job in a)


def test_ratios_are_of_the_fastest():
    cases = found(
        ours__float32=10.0, ours__bfloat16=20.0, ours__int8=30.0, hf__float32_eager=4.0,
        hf__bfloat16_compiled=16.0, hf__bfloat16_tuned=0.0, llama__f32=20.0, llama__bf16=10.0,
        llama__f16=40.0, llama__q8_0=30.0, ours__int8__16=60.0, llama__q8_0__16=30.0,
    )  # fmt: skip
    asked = bench.targets(cases)
    lines = [(t.what, t.ours.split()[-1], round(t.ratio, 2), t.verdict) for t in asked]
    assert lines == [
        ("125M, 1 row, transformers' best", "(bfloat16)", 1.25, "missed"),
        ("125M, 1 row, transformers' best", "(int8)", 1.88, ""),
        ("125M, 1 row, llama.cpp", "(float32)", 0.5, "missed"),
        ("125M, 1 row, llama.cpp", "(bfloat16)", 0.5, "missed"),
        ("125M, 1 row, llama.cpp", "(int8)", 1.0, "met"),
        ("125M, 16 rows, llama.cpp", "(int8)", 2.0, "met"),
        ("125M, 1 row, memory", "(float32)", 0.75, "met"),
        ("125M, 1 row, memory", "(bfloat16)", 0.75, "met"),
        ("125M, 1 row, memory", "(int8)", 0.75, "met"),
    ]
    assert "| 40 (f16) | 0.50 | 0.80 | missed |" in bench.target_table(asked)
    table = bench.details(cases)
    assert "no compiler" in table and "3 of 3" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_no_ratio_without_both_sides():
    assert bench.targets(found(ours__float32__16=10.0)) == []
    assert bench.targets(found(hf__float32_eager=10.0, ours__float32=0.0)) == []


@pytest.mark.parametrize("programs, why", [([], "has no llama-bench"), (["llama-bench"], "llama-batched")])
def test_a_folder_without_the_programs(programs, why, tmp_path, monkeypatch):
    for name in programs:
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "argv", ["engine_cpu.py", "--quick", "--llama-cpp", str(tmp_path)])
    with pytest.raises(UserError, match=why):
        bench.main()


def test_without_the_package_it_says_so(tmp_path, monkeypatch):
    for name in ("llama-bench", "llama-batched-bench"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "argv", ["engine_cpu.py", "--quick", "--llama-cpp", str(tmp_path)])
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="gguf is missing"):
        bench.main()


@pytest.fixture
def llama(monkeypatch):
    """The helper, without the package it wants for writing."""
    monkeypatch.setitem(sys.modules, "gguf", types.ModuleType("gguf"))
    monkeypatch.delitem(sys.modules, "llama_side", raising=False)
    yield importlib.import_module("llama_side")
    sys.modules.pop("llama_side", None)


def test_weights_go_by_llama_cpps_names_and_order(llama):
    named = {name: llama.name_of(name) for name in split_weights(Transformer(SHAPES["1M"], seed=0))}
    assert named["model.embed_tokens.weight"] == "token_embd.weight" and len(set(named.values())) == len(
        named
    )
    assert named["model.layers.3.self_attn.q_proj.weight"] == "blk.3.attn_q.weight"
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert llama.turned(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_what_its_programs_say(llama, monkeypatch):
    asked = []
    said = {
        "llama-bench": '[{"samples_ts": [5.0, 6.0], "build_commit": "abc"}]',
        "llama-batched-bench": '\n{"speed_tg": 50.0}\n{"speed_tg": 60.0}\n\n',
    }
    monkeypatch.setattr(llama, "_run", lambda program, *words: asked.append(words) or said[program.name])
    one = EngineCase(side="llama", mode="f32", size="1M", threads=2, path="w.gguf", programs="bin")
    assert llama.decode(one, 2) == {"windows": [5.0, 6.0], "peak_bytes": 0, "build": "abc"}
    many = llama.decode(one.model_copy(update={"rows": 16}), 2)
    assert many["windows"] == [50.0, 60.0] and "16,16" in asked[1]
    said["llama-batched-bench"] = "no room"
    with pytest.raises(RuntimeError, match="no result"):
        llama.decode(one.model_copy(update={"rows": 16}), 2)


def test_a_written_file(tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "weights.gguf"
    importlib.import_module("llama_side").write_gguf(path, SHAPES["1M"], "q8_0")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(tensors) == 2 + 9 * SHAPES["1M"].layers and "output.weight" not in tensors
    assert tensors["blk.0.attn_q.weight"].tensor_type.name == "Q8_0"


def test_no_token_ends_a_text():
    engine = our_engine(SHAPES["1M"], "float32")
    end = {byte_tokenizer().end_id: 100.0}
    (done,) = engine.generate([[20]], Sampling(max_tokens=5, temperature=0.0, logit_bias=end))
    assert done.tokens == (*end,) * 5 and done.stop_reason == "max_tokens"


def in_this_process(script, handler, payload, *, seconds, threads):
    """Imports take seconds in every child."""
    return json.loads(json.dumps({"case": bench._case}[handler](payload)))


def test_a_child():
    case = EngineCase(size="1M", side="ours", mode="float32", new=4, windows=2, seconds=0.01, reads=True)
    result = child(SCRIPT, "case", case.model_dump(mode="json"), seconds=60, threads=1)
    assert len(result["windows"]) == len(result["reads"]) == 2 and min(result["reads"]) > 0


def test_memory_is_read_in_several_ways():
    rates = bandwidth(0.001, 2)
    assert len(rates) == 8 and min(rates) > 0


def test_quick(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "child", in_this_process)
    monkeypatch.setattr(bench, "BATCHES", ["float32:batching:4", "float32:padded:4"])
    monkeypatch.setattr(sys, "argv", ["engine_cpu.py", "--quick", "--ours", "float32", "int8",
                                      "--batches", *bench.BATCHES, "--out", str(tmp_path)])  # fmt: skip
    bench.main()
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert all(line["ratio"] > 0 for line in record["targets"])
    errors = [line["error"] for line in record["cases"] if "error" in line]
    assert not errors
    said = {(line["case"]["work"], line["case"]["mode"]): line["said"] for line in record["cases"]}
    for work, modes in (("decode", ["float32:eager"]), ("requests", bench.BATCHES)):
        for mode in modes:  # the same text: the same weights, positions and masks
            assert said[work, mode] == said[work, "float32"]
    printed = capsys.readouterr().out
    assert "transformers' continuous batching" in printed and "1 row, memory" in printed
