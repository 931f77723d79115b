"""Law: over several processes, in every layout, a training is the training of one process.

gloo on this machine's CPUs; the same code takes NCCL on GPUs, which no test here sees.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from publius.model.fused import split_weights
from publius.model.transformer import Transformer
from publius.pipeline import run_recipe
from publius.testing.fakes import byte_tokenizer, tiny_config
from tests.laws.parallel_recipe import STEPS, one

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("distributed_worker.py")
RESHARD = Path(__file__).with_name("reshard_worker.py")
RECIPE = Path(__file__).with_name("parallel_recipe.py")
TOLERANCE = 1e-3
THIN = {"qk_norm": True, "head_dim": 2}  # norms of two weights: two of four ranks hold none
QK = {"qk_norm": True, "tie_embeddings": False}

CURVES = [
    {"name": "one", "ranks": 1},
    {"name": "fsdp2", "ranks": 2},
    {"name": "fsdp4", "ranks": 4},
    {"name": "tensor2", "ranks": 2, "parallel": {"tensor": 2}},
    {"name": "context2", "ranks": 2, "parallel": {"context": 2}},
]
SHORT = {"steps": 8, "accumulation": 2, "model": QK}
MIXED = [
    {"name": "qk-one", "ranks": 1, **SHORT},
    {"name": "qk-hsdp", "ranks": 4, "parallel": {"replicate": 2}, **SHORT},
    {"name": "qk-tensor-fsdp", "ranks": 4, "parallel": {"tensor": 2}, "recompute": "block", **SHORT},
    {
        "name": "qk-tensor-flex",
        "ranks": 4,
        "parallel": {"tensor": 2},
        "recompute": "block",
        "flex": True,
        **SHORT,
    },
    {"name": "qk-tensor-context", "ranks": 4, "parallel": {"tensor": 2, "context": 2}, **SHORT},
    {"name": "bf16-one", "ranks": 1, "dtype": "bfloat16", **SHORT},
    {"name": "bf16-fsdp2", "ranks": 2, "dtype": "bfloat16", **SHORT},
    {"name": "reward-one", "ranks": 1, "steps": 8, "reward": True},
    {"name": "reward-fsdp2", "ranks": 2, "steps": 8, "reward": True},
]
STATE = {"save_every": 20}
RELOADS = [
    {"name": "saved-by-4", "ranks": 4, "state": "four", "die_at": 31, **STATE},
    {
        "name": "saved-cut",
        "ranks": 4,
        "state": "cut",
        "parallel": {"tensor": 2},
        "die_at": 7,
        "save_every": 5,
    },
    {"name": "saved-thin", "ranks": 4, "state": "thin", "model": THIN, "die_at": 4, "save_every": 2},
    {"name": "saved-by-1", "ranks": 1, "state": "single", "die_at": 31, **STATE},
]


def work(folder, cases):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(folder), json.dumps(cases)]
    done = subprocess.run(command, env=environment, timeout=280, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def curve(folder, name, key="loss"):
    lines = json.loads((folder / f"{name}.json").read_text())
    return [line[key] for line in lines if key in line]


def apart(a, b):
    assert len(a) == len(b) > 0
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    work(folder, [*CURVES, *MIXED, *RELOADS])
    return folder


@pytest.mark.parametrize("name", [case["name"] for case in CURVES[1:]])
def test_fifty_steps_give_the_curve_of_one_process(trained, name):
    one = curve(trained, "one")
    assert len(one) == 50 and one[-1] < one[0] - 1
    assert apart(curve(trained, name), one) <= TOLERANCE
    assert apart(curve(trained, name, "grad_norm"), curve(trained, "one", "grad_norm")) <= 10 * TOLERANCE
    assert apart(curve(trained, name, "val_loss"), curve(trained, "one", "val_loss")) <= TOLERANCE
    expected = load_file(trained / "one.safetensors")
    found = load_file(trained / f"{name}.safetensors")
    assert set(found) == set(expected)
    moved = [float((found[n] - expected[n]).abs().max()) for n in expected]
    assert max(moved) < 0.02, dict(zip(expected, moved, strict=True))


@pytest.mark.parametrize(
    ("name", "other", "tolerance"),
    [
        ("qk-hsdp", "qk-one", TOLERANCE),
        ("qk-tensor-fsdp", "qk-one", TOLERANCE),
        ("qk-tensor-flex", "qk-one", TOLERANCE),
        ("qk-tensor-context", "qk-one", TOLERANCE),
        ("bf16-fsdp2", "bf16-one", 0.02),
        ("reward-fsdp2", "reward-one", TOLERANCE),
    ],
)
def test_directions_combine(trained, name, other, tolerance):
    assert apart(curve(trained, name), curve(trained, other)) <= tolerance
    norms, others = curve(trained, name, "grad_norm"), curve(trained, other, "grad_norm")
    shares = [mine / theirs for mine, theirs in zip(norms, others, strict=True)]  # they span 3 to 60
    assert apart(shares, [1.0] * len(shares)) <= 10 * tolerance


def assembled(files):
    """The weights in a sharded state, put together by the offsets in its headers."""
    parts = {}
    for path in sorted(files.glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            offsets = json.loads(shard.metadata()["DCP_SHARDING_INFO"])
            for name in shard.keys():  # noqa: SIM118
                if name.startswith("model."):
                    parts.setdefault(name, []).append(
                        (offsets[name]["saved_offsets"], shard.get_tensor(name))
                    )
    whole = {}
    for name, pieces in parts.items():
        ends = [[o + s for o, s in zip(offset, piece.shape, strict=True)] for offset, piece in pieces]
        whole[name] = torch.full([max(e) for e in zip(*ends, strict=True)], float("nan"))
        for (offset, piece), end in zip(pieces, ends, strict=True):
            whole[name][tuple(slice(o, e) for o, e in zip(offset, end, strict=True))] = piece
    return {name.removeprefix("model."): value for name, value in whole.items()}


def test_a_state_of_four_ranks_is_reloaded_by_two_and_by_one_bit_for_bit(trained):
    (files,) = (trained / "four" / "resume").glob("*/files")
    assert len(list(files.glob("*.safetensors"))) == 4 and not list(files.glob("*metadata*"))
    saved = assembled(files)
    cases = []
    for ranks in (2, 1):
        for steps in (20, 50):  # up to the saved step, so that nothing moves, and on to the end
            copy = f"four-{ranks}-{steps}"
            subprocess.run(["cp", "-r", str(trained / "four"), str(trained / copy)], check=True)
            cases.append({"name": f"by-{ranks}-{steps}", "ranks": ranks, "state": copy, "steps": steps})
    subprocess.run(["cp", "-r", str(trained / "single"), str(trained / "single-2")], check=True)
    cases.append({"name": "by-1-5", "ranks": 1, "state": "cut", "steps": 5})
    cases.append({"name": "by-1-2", "ranks": 1, "state": "thin", "steps": 2, "model": THIN})
    thin = assembled(next((trained / "thin" / "resume").glob("*/files")))
    cut = assembled(next((trained / "cut" / "resume").glob("*/files")))
    cases.append({"name": "single-by-2", "ranks": 2, "state": "single-2", "steps": 50})
    work(trained, cases)
    for name, expected in (("by-2-20", saved), ("by-1-20", saved), ("by-1-5", cut), ("by-1-2", thin)):
        loaded = load_file(trained / f"{name}.safetensors")
        assert set(loaded) == set(expected)
        for weight, value in expected.items():
            assert torch.equal(loaded[weight], value), weight
    whole = curve(trained, "one")
    for name in ("by-2-50", "by-1-50", "single-by-2"):
        rest = curve(trained, name)
        assert apart(rest, whole[20:]) <= TOLERANCE, name


def start(home, *more):
    command = [sys.executable, "-m", "publius.cli", "run", f"{RECIPE}:one", "--home", str(home), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, cwd=home, stderr=subprocess.PIPE, text=True)


def test_a_lost_rank_ends_the_job_with_one_line_and_the_next_run_goes_on(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    job = start(tmp_path, "--nproc", "2", "--set", f"marks={marks}", "--set", "pace=0.05")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("artifacts/*.partial/resume/*")):
        assert time.monotonic() < deadline and job.poll() is None, job.communicate()[1]
        time.sleep(0.02)
    lost = int((marks / "1").read_text())
    os.kill(lost, signal.SIGKILL)
    killed = time.monotonic()
    words = job.communicate(timeout=60)[1]
    assert time.monotonic() - killed < 60 and job.returncode == 2
    assert words.count("error:") == 1 and "process 1 of this job was killed by SIGKILL" in words
    assert "Traceback" not in words
    with pytest.raises(ProcessLookupError):
        os.kill(int((marks / "0").read_text()), 0)
    (partial,) = (tmp_path / "artifacts").glob("*")
    assert {path.name for path in partial.iterdir()} <= {"resume", "metrics.jsonl", "lock"}

    run_recipe(one(), "together", tmp_path)  # by one process
    (done,) = (tmp_path / "artifacts").glob("*")
    steps = [json.loads(line)["step"] for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((done / "record.json").read_text())["tokens"] == 64 * STEPS


@pytest.mark.parametrize(("ranks", "tensor"), [(2, 1), (2, 2), (4, 2)])
def test_every_rank_has_an_engine_that_follows_the_shards(tmp_path, ranks, tensor):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RESHARD), str(tmp_path), str(ranks), str(tensor)]
    done = subprocess.run(command, env=environment, timeout=280, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    tokenizer = byte_tokenizer()
    config = tiny_config(vocab_size=tokenizer.vocab_size, qk_norm=True, tie_embeddings=False)
    whole = Transformer(config, seed=0)
    expected = {name: weight * 1.5 * 1.5 for name, weight in split_weights(whole).items()}
    for rank in range(ranks):
        before, after = json.loads((tmp_path / f"{rank}.json").read_text())
        for found in (before, after):
            for mine, theirs in zip(found["engine"], found["trainer"], strict=True):
                assert apart(mine, theirs) <= TOLERANCE
        assert apart(before["engine"][0], after["engine"][0]) > 10 * TOLERANCE
        weights = load_file(tmp_path / f"{rank}.safetensors")
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
