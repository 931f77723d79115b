"""Training tokens/s on this CPU, ours beside nanochat's GPT with its own optimizer.

    git clone https://github.com/karpathy/nanochat /tmp/nanochat
    python benchmarks/train_vs_nanochat.py /tmp/nanochat --out docs/results

Nanochat's model and optimizer are imported from PATH in processes of their own; nothing of it is needed
here, and nothing is copied. Its models are as `runs/runcpu.sh` makes them (width 64 x depth, heads of 64,
full windows), in fp32, its default on CPU, and in bf16; eager and compiled; with its Muon + AdamW (whose
kernels it always compiles) and with AdamW alone. Its fastest counts. It gets ready batches (its loader wants
its own tokenizer and data), unmasked; ours reads the same rows packed and masked, through the whole loop.

Two models have no one size in common, so there are two rows a depth:

- `products`: equal width, depth, heads, vocabulary, and so equal weights in matrix products (blocks and
  head), which is what nanochat itself counts for scaling, and equal FLOPs a token. Its value embeddings and
  untied head come on top: they cost memory and no arithmetic.
- `all`: ours has more layers, until all weights, look-ups included, are as many as its.

FLOPs are counted alike: 6 a token for every weight in a product, 6 x layers x heads x head_dim x row for
attention, causal half counted once. The losses are of different models and only have to fall.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import (
    Memory,
    child,
    commit,
    cores,
    cpu_ceilings,
    entry,
    in_rounds,
    markdown,
    record_of,
    say,
    write_record,
)
from sides import Case, batches_of, outcome, time_steps, train

from publius.core.errors import UserError
from publius.model import ModelConfig

NEEDED = {"nanochat/gpt.py": "class GPT", "nanochat/optim.py": "class MuonAdamW"}
REFERENCE_BATCH = 2**19
"""Tokens a step that nanochat's rates are for; it scales them by the square root of the batch."""
GUESS = 0.3


class Match(NamedTuple):
    """One of our models and what it is held against."""

    kind: str
    depth: int
    shape: ModelConfig


def checked(path: Path) -> Path:
    """The checkout's root.

    Raises:
        UserError: when it is not one.
    """
    for name, words in NEEDED.items():
        file = path / name
        if not file.is_file() or words not in file.read_text(encoding="utf-8"):
            raise UserError(
                f"{path} is not a checkout of nanochat: {name} is missing, or has no {words!r}",
                where="PATH",
                fix="git clone https://github.com/karpathy/nanochat, and give that folder",
            )
    return path.resolve()


def matched(depth: int, vocab: int, length: int, weights: int | None = None) -> ModelConfig:
    """Our model of nanochat's width and heads, whose blocks have as many weights as its.

    Its blocks are 4 + 8 squares of the width; SwiGLU of 8/3 the width is 8. With `weights` the depth is what
    brings ours nearest to so many.
    """
    width = 64 * depth

    def shape(layers: int) -> ModelConfig:
        return ModelConfig(
            vocab_size=vocab, hidden_size=width, layers=layers, heads=depth, kv_heads=depth, head_dim=64,
            intermediate_size=round(8 * width / 3 / 64) * 64, max_position=length,
        )  # fmt: skip

    if weights is None:
        return shape(depth)
    return min((shape(n) for n in range(1, 20 * depth)), key=lambda s: abs(s.parameters() - weights))


def _nanochat(payload: dict[str, Any]) -> dict[str, Any]:
    """A case of nanochat's, in a child: its modules read the environment when they are imported."""
    case, depth = Case.model_validate(payload["case"]), payload["depth"]
    os.environ["NANOCHAT_DTYPE"] = case.dtype
    os.environ["NANOCHAT_BASE_DIR"] = payload["scratch"]
    sys.path.insert(0, case.path)
    gpt = importlib.import_module("nanochat.gpt")
    device = torch.device("cpu")
    memory = Memory(device)
    torch.manual_seed(case.seed)
    with torch.device("meta"):
        plain = gpt.GPT(
            gpt.GPTConfig(
                sequence_len=case.sequence_length, vocab_size=case.shape.vocab_size, n_layer=depth,
                n_head=depth, n_kv_head=depth, n_embd=64 * depth, window_pattern="L",
            )
        )  # fmt: skip
    plain.to_empty(device=device)
    plain.init_weights()
    weights, inside = sum(p.numel() for p in plain.parameters()), plain.num_matmul_params()
    model = torch.compile(plain, dynamic=False) if case.compiled else plain
    scale = (case.rows * case.sequence_length / REFERENCE_BATCH) ** 0.5
    if case.muon:
        optimizer = plain.setup_optimizer(
            unembedding_lr=0.008 * scale, embedding_lr=0.3 * scale, scalar_lr=0.5 * scale,
            matrix_lr=0.02 * scale, weight_decay=0.0,
        )  # fmt: skip
    else:
        optimizer = torch.optim.AdamW(plain.parameters(), lr=case.adamw_lr, betas=(0.9, 0.95), fused=True)
    source = batches_of(case)
    batches = [source.next() for _ in range(case.steps)]

    def step(number: int) -> torch.Tensor:
        batch = batches[number]
        loss = model(batch.tokens_BT, batch.targets_BT.masked_fill(batch.weights_BT == 0, -1))
        loss.backward()
        optimizer.step()
        plain.zero_grad(set_to_none=True)
        return loss

    marks, losses = time_steps(step, case.steps)
    return outcome(case, marks, losses, memory.peak(), weights) | {"weights_in_products": inside}


def modes(full: bool) -> list[dict[str, Any]]:
    """What is tried on either side: dtype, eager or compiled, optimizer."""
    kinds = [("bfloat16", False, True), ("bfloat16", True, True), ("bfloat16", True, False)]
    kinds += [("bfloat16", False, False), ("float32", False, True), ("float32", True, True)] if full else []
    return [dict(zip(("dtype", "compiled", "muon"), kind, strict=True)) for kind in kinds]


def best(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The fastest whose loss fell; None when none did."""
    good = [r for r in results if "error" not in r and r["last_loss"] < r["first_loss"]]
    return max(good, key=lambda r: r["tokens_per_second"]) if good else None


def summary(
    depth: int, kind: str, ours: Sequence[Any], theirs: Sequence[Any], ceiling: float
) -> dict[str, Any]:
    """One row: each side's best with and without Muon, ratios, and the share of the ceiling."""
    line: dict[str, Any] = {"depth": depth, "kind": kind}
    for name, muon in (("muon", True), ("adamw", False)):
        pair = [best([r for r in side if r["muon"] == muon]) for side in (ours, theirs)]
        tops = {side: top for side, top in zip(("ours", "nanochat"), pair, strict=True) if top is not None}
        line[name] = {
            side: {
                key: top[key] for key in ("mode", "tokens_per_second", "weights", "first_loss", "last_loss")
            }
            | {"of_ceiling": top["flops_per_token"] * top["tokens_per_second"] / ceiling}
            for side, top in tops.items()
        }
        both = len(tops) == 2
        line[name]["ratio"] = (
            tops["ours"]["tokens_per_second"] / tops["nanochat"]["tokens_per_second"] if both else None
        )
    return line


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: two rows a depth and optimizer."""
    head = ["depth", "matched", "optimizer", "weights: ours, its", "ours, tokens/s",
            "nanochat's best, tokens/s", "ratio", "of the ceiling: ours, its"]  # fmt: skip
    rows: list[list[str]] = []
    for line in summaries:
        for name, words in (("muon", "Muon + AdamW"), ("adamw", "AdamW")):
            found = line[name]
            start = [str(line["depth"]), line["kind"], words]
            if found["ratio"] is None:
                rows.append([*start, *["not measured"] * 5])
                continue
            ours, theirs = found["ours"], found["nanochat"]
            rows.append(
                [
                    *start,
                    f"{ours['weights'] / 1e6:.1f}M, {theirs['weights'] / 1e6:.1f}M",
                    f"{ours['tokens_per_second']:,.0f} ({ours['mode']})",
                    f"{theirs['tokens_per_second']:,.0f} ({theirs['mode']})",
                    f"{found['ratio']:.2f}",
                    f"{ours['of_ceiling']:.0%}, {theirs['of_ceiling']:.0%}",
                ]
            )
    return markdown(head, rows)


def run_case(case: Case, depth: int, flops: float, options: argparse.Namespace) -> dict[str, Any]:
    """A case in its child, with what the tables need."""
    payload: dict[str, Any] = {"case": case.model_dump(mode="json"), "depth": depth}
    payload["scratch"] = str(options.out or Path("/tmp"))
    result = child(Path(__file__), case.side, payload, seconds=options.limit, threads=options.threads)
    told = result.get("error") or f"{result['tokens_per_second']:,.0f} tokens/s"
    say(f"depth {depth} {case.side:8s} {case.mode:24s} {told}")
    known = {"side": case.side, "mode": case.mode, "muon": case.muon, "flops_per_token": flops}
    return known | result


def depth_rows(depth: int, ceiling: float, options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Summaries and all results of one depth."""
    equal = matched(depth, options.vocab, options.row)
    flops = equal.flops_per_token(options.row)
    tokens = options.rows * options.row
    steps = max(2, round(options.seconds * GUESS * ceiling / (tokens * flops)))
    common = {
        "sequence_length": options.row, "rows": options.rows, "windows": options.windows, "per_window": steps,
        "path": str(options.path),
    }  # fmt: skip

    def asking(side: str, shape: ModelConfig, per_token: float) -> list[Callable[[], dict[str, Any]]]:
        return [
            functools.partial(
                run_case, Case.model_validate({**common, **mode, "side": side, "shape": shape}),
                depth, per_token, options,
            )
            for mode in modes(not options.quick)[: 1 if options.quick else None]
        ]  # fmt: skip

    theirs, mine = asking("nanochat", equal, flops), asking("ours", equal, flops)
    both = in_rounds([*theirs, *mine], options.rounds)
    theirs, ours = both[: len(theirs)], both[len(theirs) :]
    rows = [summary(depth, "products", ours, theirs, ceiling)]
    results = theirs + ours
    weights = next((r["weights"] for r in theirs if "error" not in r), None)
    if weights is not None and not options.quick:
        large = matched(depth, options.vocab, options.row, weights)
        more = in_rounds(asking("ours", large, large.flops_per_token(options.row)), options.rounds)
        rows.append(summary(depth, "all", more, theirs, ceiling))
        results += more
    return rows, results


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a checkout of nanochat")
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON; without: none")
    parser.add_argument("--quick", action="store_true", help="depth 2, one mode, two windows: a smoke test")
    parser.add_argument("--depths", type=int, nargs="+", default=None, help="default: 4 6")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--row", type=int, default=512, help="tokens in a row")
    parser.add_argument("--rows", type=int, default=4, help="rows in a batch")
    parser.add_argument("--rounds", type=int, default=3, help="every mode once in each")
    parser.add_argument("--windows", type=int, default=2, help="of a mode in a round")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a window, about")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a case may take")
    options = parser.parse_args()
    if options.quick:
        options.depths, options.windows, options.seconds = options.depths or [2], 2, 0.1
        options.rounds = 1
        options.vocab, options.row, options.rows = 512, 64, 2
    options.depths = options.depths or [4, 6]
    return options


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    options.path = checked(options.path)
    ceiling = cpu_ceilings(options.threads, options.quick)
    say(f"ceiling: {ceiling['bfloat16']:.3g} FLOP/s in bfloat16")
    summaries: list[Any] = []
    results: list[Any] = []
    for depth in options.depths:
        rows, found = depth_rows(depth, ceiling["bfloat16"], options)
        summaries += rows
        results += [{"depth": depth, **each} for each in found]
    print(table(summaries))
    if options.out is not None:
        plain = {name: value for name, value in vars(options).items() if name not in ("out", "path")}
        record = record_of(
            torch.device("cpu"), settings=plain, nanochat_commit=commit(options.path), ceiling=ceiling,
            summary=summaries, cases=results,
        )  # fmt: skip
        say(f"written: {write_record(options.out, 'train-vs-nanochat', record)}")


def _ours(payload: dict[str, Any]) -> dict[str, Any]:
    return train(Case.model_validate(payload["case"]))


if __name__ == "__main__":
    entry(main, {"ours": _ours, "nanochat": _nanochat})
