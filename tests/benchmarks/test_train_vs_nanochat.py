"""Matching sizes, ratios, the refusal of a folder that is no checkout; and a quick run on a stand-in."""

from __future__ import annotations

import json

import pytest
import train_vs_nanochat as bench

from publius.core.errors import UserError
from tests.slow import slow

GPT = '''
import dataclasses, os
import torch
from nanochat.optim import MuonAdamW
DTYPE = {"bfloat16": torch.bfloat16, "float32": torch.float32}[os.environ["NANOCHAT_DTYPE"]]

@dataclasses.dataclass
class GPTConfig:
    sequence_len: int; vocab_size: int; n_layer: int; n_head: int; n_kv_head: int; n_embd: int
    window_pattern: str

class GPT(torch.nn.Module):
    """A stand-in: an embedding and a head."""
    def __init__(self, config):
        super().__init__()
        assert torch.get_default_device().type == "meta" and config.window_pattern == "L"
        self.wte = torch.nn.Embedding(config.vocab_size, config.n_embd)
        self.head = torch.nn.Linear(config.n_embd, config.vocab_size, bias=False)
    def init_weights(self):
        torch.nn.init.normal_(self.wte.weight)
        torch.nn.init.zeros_(self.head.weight)
    def num_matmul_params(self):
        return self.head.weight.numel()
    def setup_optimizer(self, unembedding_lr, embedding_lr, scalar_lr, matrix_lr, weight_decay):
        return MuonAdamW(self.parameters(), lr=embedding_lr)
    def forward(self, idx, targets):
        logits = self.head(self.wte(idx)).float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
'''


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "nanochat").mkdir(parents=True)
    (folder / "nanochat/__init__.py").touch()
    (folder / "nanochat/gpt.py").write_text(GPT)
    (folder / "nanochat/optim.py").write_text("import torch\nclass MuonAdamW(torch.optim.Adam): pass\n")
    return folder


@pytest.mark.parametrize("depth", [2, 4, 6])
def test_blocks_and_head_weigh_the_same(depth):
    width, vocab = 64 * depth, 8192
    shape = bench.matched(depth, vocab, 512)
    theirs = depth * 12 * width * width + vocab * width  # 4 + 8 squares a block, and the head
    ours = shape.layers * shape.layer_matrices() + vocab * width
    assert ours == pytest.approx(theirs, rel=0.02)
    assert (shape.hidden_size, shape.layers, shape.heads, shape.kv_heads) == (width, depth, depth, depth)


def test_more_layers_until_all_weights_match():
    shape = bench.matched(4, 8192, 512, weights=14_000_000)
    one = bench.matched(4, 8192, 512).layer_matrices()
    assert shape.layers > 4 and abs(shape.parameters() - 14_000_000) <= one


def test_what_is_no_checkout(tmp_path, checkout):
    assert bench.checked(checkout) == checkout
    with pytest.raises(UserError, match=r"not a checkout of nanochat: nanochat/gpt\.py"):
        bench.checked(tmp_path / "nowhere")
    (checkout / "nanochat/optim.py").write_text("# nothing")
    with pytest.raises(UserError, match="MuonAdamW"):
        bench.checked(checkout)


def line(speed: float, muon: bool, *, last: float = 5.0) -> dict:
    return {
        "mode": "m", "muon": muon, "tokens_per_second": speed, "weights": 2_000_000, "first_loss": 8.0,
        "last_loss": last, "flops_per_token": 10.0,
    }  # fmt: skip


def test_ratios_by_optimizer():
    ours = [line(300.0, True), line(400.0, False), {"muon": True, "error": "x"}]
    theirs = [line(100.0, True), line(150.0, True), line(900.0, True, last=9.0)]
    found = bench.summary(4, "products", ours, theirs, ceiling=6000.0)
    assert found["muon"]["ratio"] == 2.0, "a loss that rose is not taken"
    assert found["muon"]["ours"]["of_ceiling"] == 0.5
    assert found["adamw"]["ratio"] is None
    printed = bench.table([found])
    assert "| 2.00 | 50%, 25% |" in printed and "not measured" in printed


@slow
def test_quick(script, tmp_path, checkout):
    done = script("train_vs_nanochat.py", str(checkout), "--quick", "--threads", "1", "--out", "results")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    sides = {case["side"]: case for case in record["cases"]}
    assert set(sides) == {"ours", "nanochat"} and record["summary"][0]["muon"]["ratio"] > 0
    assert sides["nanochat"]["weights_in_products"] == 512 * 128
    assert sides["nanochat"]["last_loss"] < sides["nanochat"]["first_loss"]


def test_a_wrong_path_ends_with_a_message(script, tmp_path):
    done = script("train_vs_nanochat.py", str(tmp_path))
    assert done.returncode == 2 and "not a checkout of nanochat" in done.stderr
    assert "git clone" in done.stderr and "Traceback" not in done.stderr
