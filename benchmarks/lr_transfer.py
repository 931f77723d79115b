"""Does one learning rate serve every width? Three widths x five rates, the same tokens: a curve a width.

    python benchmarks/lr_transfer.py --home /tmp/transfer --out docs/results
    python benchmarks/lr_transfer.py --home /tmp/transfer --data 'texts/*.jsonl' --tokens 1000000 --what adamw

Trains on Pocket, or on the documents of `--data` (globs). `--what muon` moves Muon's rate by the factors
around what `publius.training.scaling.derive` gives, AdamW's staying at its rule; `--what adamw` does the
reverse. The rule transfers when the best factor is the same at every width: lowest is held-out bits per
byte, and a parabola through the lowest point and its neighbours (in log rate) says where between factors.

At the default size (15 runs of 400 thousand tokens, two side by side) the whole should take under ten minutes
on two cores, by its FLOPs. What is made is kept in `--home` and not made twice. Writes a JSON with date,
hardware and command and an HTML page with the curves, and prints a Markdown table. One seed says little about
factors that are neighbours: give several.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from harness import entry

from publius.core.device import describe_hardware
from publius.data.ingest import IngestTextConfig, ingest_text
from publius.data.pocket.world import PocketConfig, make_pocket
from publius.model import ModelConfig
from publius.pipeline import Recipe, run_recipe, show_run
from publius.report.html import Html, el, join
from publius.report.plots import Series, line_plot
from publius.tokenizer import TokenizeConfig, TokenizerConfig, tokenize, train_tokenizer
from publius.training import PretrainConfig, derive, pretrain
from publius.training.optimizer import OptimizerConfig
from publius.training.scaling import derived_optimizer

STYLE = Path(__file__).parents[1] / "publius/report/style.css"


def shape(width: int, layers: int, vocab_size: int) -> ModelConfig:
    """A model of this width; depth, head dimension and proportions stay."""
    return ModelConfig(
        vocab_size=vocab_size, hidden_size=width, layers=layers, heads=width // 32,
        kv_heads=max(1, width // 64), head_dim=32, intermediate_size=width * 8 // 3 // 32 * 32,
        max_position=256,
    )  # fmt: skip


def optimizer(config: ModelConfig, what: str, factor: float, options: argparse.Namespace) -> OptimizerConfig:
    """The rule's optimizer for this width, with one of its rates moved."""
    ruled = derived_optimizer(derive(config, options.tokens, sequence_length=options.rows))
    moved = {f"{what}_lr": getattr(ruled, f"{what}_lr") * factor}
    return ruled.model_copy(update=moved)


def name_of(width: int, index: int, seed: int) -> str:
    """The stage of one run."""
    return f"w{width}_f{index}_s{seed}"


def recipe(options: argparse.Namespace) -> Recipe:
    """Text, a tokenizer, and one pretraining for each width, factor and seed."""
    r = Recipe("lr_transfer", jobs=options.jobs)
    if options.data:
        paths = tuple(options.data)
        config = IngestTextConfig(paths=paths, val_fraction=0.05, max_bytes=20_000_000, drop_malformed=True)
        corpus = r.stage("text", ingest_text, config)
    else:
        corpus = r.stage("text", make_pocket, PocketConfig())
    words = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=options.vocab), corpus=corpus)
    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=corpus, tokenizer=words)
    for seed in options.seeds:
        for width in options.widths:
            config = shape(width, options.layers, options.vocab)
            for index, factor in enumerate(options.factors):
                training = PretrainConfig(
                    model=config, tokens=options.tokens, batch_tokens=options.batch,
                    sequence_length=options.rows, eval_tokens=50_000, seed=seed,
                    optimizer=optimizer(config, options.what, factor, options),
                )  # fmt: skip
                r.stage(name_of(width, index, seed), pretrain, training, shards=shards, tokenizer=words)
    return r


def best_factor(factors: list[float], losses: list[float]) -> float | None:
    """Where a parabola through the lowest point and its neighbours is lowest; None at the sweep's edge."""
    at = min(range(len(losses)), key=lambda i: losses[i])
    if at in (0, len(losses) - 1):
        return None
    (x0, y0), (x1, y1), (x2, y2) = ((math.log(factors[i]), losses[i]) for i in (at - 1, at, at + 1))
    top = (x1 - x0) ** 2 * (y1 - y2) - (x1 - x2) ** 2 * (y1 - y0)
    bottom = (x1 - x0) * (y1 - y2) - (x1 - x2) * (y1 - y0)
    return math.exp(x1 - 0.5 * top / bottom) if bottom else factors[at]


def rows(metrics: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a width: the rate of the rule, the loss at each factor (mean over seeds), the best factor."""
    found: list[dict[str, Any]] = []
    for width in options.widths:
        ruled = optimizer(shape(width, options.layers, options.vocab), options.what, 1.0, options)
        by_seed = [
            [metrics[f"{name_of(width, i, seed)}.val_bpb"]["value"] for i in range(len(options.factors))]
            for seed in options.seeds
        ]
        means = [sum(column) / len(column) for column in zip(*by_seed, strict=True)]
        found.append(
            {
                "width": width,
                "rate": getattr(ruled, f"{options.what}_lr"),
                "bits_per_byte": means,
                "by_seed": by_seed,
                "best_factor": best_factor(options.factors, means),
            }
        )
    return found


def table(found: list[dict[str, Any]], factors: list[float]) -> str:
    """Markdown."""
    head = ["width", "rate of the rule", *(f"x {factor:g}" for factor in factors), "best factor"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in found:
        losses = [f"{loss:.4f}" for loss in row["bits_per_byte"]]
        best = "at the edge" if row["best_factor"] is None else f"{row['best_factor']:.2f}"
        cells = [str(row["width"]), f"{row['rate']:.3g}", *losses, best]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(found: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The curves, in a page that stands alone."""
    series = [
        Series(
            f"width {row['width']}",
            [(math.log2(f), loss) for f, loss in zip(options.factors, row["bits_per_byte"], strict=True)],
            f"s{1 + i % 4}",
            dots=True,
        )
        for i, row in enumerate(found)
    ]
    title = f"Held-out bits per byte by {options.what}'s rate"
    figure = line_plot(
        title, series, x_label="log2 of the factor on the rule's rate", y_label="bits per byte"
    )
    head = el("head", el("meta", charset="utf-8"), el("style", Html(STYLE.read_text("utf-8"))))
    return "<!doctype html>\n" + join(el("html", head, el("body", el("main", figure)), lang="en")) + "\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--data", nargs="*", default=[], help="globs of documents; without: Pocket")
    parser.add_argument("--what", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--factors", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=1024, help="tokens a step")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.factors = sorted(set(options.factors))  # neighbours are what stands beside each other
    if options.factors[0] <= 0:
        parser.error("--factors must be above 0")
    return options


def main() -> None:
    """Run, record, print."""
    options = arguments()
    run_recipe(recipe(options), "lr_transfer", options.home)
    found = rows(show_run("lr_transfer", options.home).as_dict()["metrics"], options)
    today = datetime.date.today().isoformat()
    record = {
        "date": today,
        "hardware": describe_hardware(torch.device("cpu")),
        "command": shlex.join(["python", *sys.argv]),
        "settings": {name: value for name, value in vars(options).items() if name not in ("home", "out")},
        "rows": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"{today}-lr-transfer-{options.what}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    stem.with_suffix(".html").write_text(page(found, options), "utf-8")
    sys.stdout.write(table(found, options.factors) + "\n")


if __name__ == "__main__":
    entry(main, {})
