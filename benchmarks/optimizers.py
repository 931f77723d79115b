"""Muon + AdamW against AdamW alone: in how many steps is the same held-out loss reached?

    python benchmarks/optimizers.py --home /tmp/optimizers --data '../shared/data/pretrain/*.jsonl.xz' \\
        --out docs/results

Both arms train the same model from the same weights on the same batches. Each arm's rate is chosen on the
first seed from the sweep given here, by the last held-out loss, and then used on every seed. A seed's target
is the loss at which AdamW alone ends; Muon's steps to it are read off its curve (in a line between two
evaluations). Both run the same schedule to the end, so Muon crosses before its decay is over: a run planned
that short would end lower, and the saving is, if anything, more than is said here. The sweep is coarse, and
a best rate at its edge is marked: then that arm may do better outside.

At the default size (10 runs of 500 steps of 1,024 tokens, two side by side) it takes under a quarter of an
hour on two cores. What is made is kept in `--home` and not made twice. Writes a JSON and an HTML page with
the curves of all seeds, and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import entry, markdown, record_of, say, write_record

from publius.core.errors import UserError
from publius.data.ingest import IngestTextConfig, ingest_text
from publius.model import ModelConfig
from publius.pipeline import Recipe, run_recipe, show_run
from publius.report.html import Html, el, join
from publius.report.plots import Series, line_plot
from publius.tokenizer import TokenizeConfig, TokenizerConfig, tokenize, train_tokenizer
from publius.training import PretrainConfig, pretrain
from publius.training.optimizer import OptimizerConfig

STYLE = Path(__file__).parents[1] / "publius/report/style.css"
ARMS = {"muon": "Muon + AdamW", "adamw": "AdamW alone"}
Curve = list[tuple[float, float]]
"""Held-out loss, nats a token, by step."""


class Trial(NamedTuple):
    """One training."""

    arm: str
    rate: float
    seed: int

    @property
    def stage(self) -> str:
        """Its name in the recipe."""
        return f"{self.arm}_{f'{self.rate:g}'.replace('.', 'p').replace('-', 'm')}_s{self.seed}"


def rates_of(options: argparse.Namespace) -> dict[str, list[float]]:
    """The sweep of each arm."""
    return {"muon": options.muon_rates, "adamw": options.adamw_rates}


def training(trial: Trial, options: argparse.Namespace) -> PretrainConfig:
    """The config of a trial."""
    width, muon = options.width, trial.arm == "muon"
    shape = ModelConfig(
        vocab_size=options.vocab, hidden_size=width, layers=options.layers, heads=width // 32,
        kv_heads=max(1, width // 96), head_dim=32, intermediate_size=width * 8 // 3 // 32 * 32,
        max_position=options.row,
    )  # fmt: skip
    optimizer = OptimizerConfig(
        matrices=muon,
        muon_lr=trial.rate if muon else 0.0,
        adamw_lr=options.muon_adamw_rate if muon else trial.rate,
    )
    return PretrainConfig(
        model=shape, steps=options.steps, batch_tokens=options.batch, sequence_length=options.row,
        eval_every=max(1, options.steps // options.evaluations), eval_tokens=options.eval_tokens,
        optimizer=optimizer, seed=trial.seed,
    )  # fmt: skip


def recipe(trials: Sequence[Trial], options: argparse.Namespace) -> Recipe:
    """Text, a tokenizer, and one pretraining a trial."""
    r = Recipe("optimizers", jobs=options.jobs)
    config = IngestTextConfig(
        paths=tuple(options.data), val_fraction=0.05, max_bytes=options.max_bytes, drop_malformed=True
    )
    corpus = r.stage("text", ingest_text, config)
    words = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=options.vocab), corpus=corpus)
    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=corpus, tokenizer=words)
    for trial in trials:
        r.stage(trial.stage, pretrain, training(trial, options), shards=shards, tokenizer=words)
    return r


def curves(trials: Sequence[Trial], home: Path) -> dict[Trial, Curve]:
    """The held-out loss of each trial, from what its stage logged.

    Raises:
        UserError: when nothing was held out.
    """
    paths = {stage.name: stage.path for stage in show_run("optimizers", home).stages}
    found: dict[Trial, Curve] = {}
    for trial in trials:
        lines = (paths[trial.stage] / "metrics.jsonl").read_text("utf-8").splitlines()
        logged = [json.loads(line) for line in lines]
        found[trial] = [
            (line["step"], line["val_loss"]) for line in logged if line.get("val_loss") is not None
        ]
        if not found[trial]:
            raise UserError("there was no held-out text", where="--data", fix="give more documents")
    return found


def steps_to(curve: Curve, target: float) -> float | None:
    """The step at which the loss first reaches `target`, in a line between two points; None if never."""
    if curve[0][1] <= target:
        return curve[0][0]
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if y1 <= target:
            return x0 + (x1 - x0) * (y0 - target) / (y0 - y1)
    return None


def chosen(found: Mapping[Trial, Curve], arm: str, seed: int) -> float:
    """The rate of `arm` that ended lowest on `seed`."""
    ends = {
        trial.rate: curve[-1][1] for trial, curve in found.items() if (trial.arm, trial.seed) == (arm, seed)
    }
    return min(ends, key=lambda rate: ends[rate])


def results(
    found: Mapping[Trial, Curve], best: Mapping[str, float], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """One line a seed: both last losses, and Muon's steps to AdamW's."""
    lines: list[dict[str, Any]] = []
    for seed in seeds:
        muon, adamw = (found[Trial(arm, best[arm], seed)] for arm in ("muon", "adamw"))
        steps, reached = adamw[-1][0], steps_to(muon, adamw[-1][1])
        lines.append(
            {
                "seed": seed,
                "muon": muon[-1][1],
                "adamw": adamw[-1][1],
                "steps": steps,
                "muon_steps_to_adamw": reached,
                "share": None if reached is None else reached / steps,
            }
        )
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row a seed, and the mean share of steps where all seeds have one."""
    rows = [
        [
            str(line["seed"]),
            f"{line['adamw']:.4f}",
            f"{line['muon']:.4f}",
            "not reached"
            if line["share"] is None
            else f"{line['muon_steps_to_adamw']:.0f} of {line['steps']:.0f}",
            "" if line["share"] is None else f"{line['share']:.0%}",
        ]
        for line in lines
    ]
    shares = [line["share"] for line in lines if line["share"] is not None]
    if len(shares) == len(lines):
        mean = sum(shares) / len(shares)
        rows.append(["mean", "", "", "", f"{mean:.0%} (from {min(shares):.0%} to {max(shares):.0%})"])
    head = ["seed", "AdamW's last loss", "Muon + AdamW's", "steps of Muon + AdamW to AdamW's", "share"]
    return markdown(head, rows)


def page(found: Mapping[Trial, Curve], best: Mapping[str, float]) -> str:
    """The curves, in a page that stands alone: chosen rates bold, the rest of the sweep faint."""
    kinds = dict(zip(ARMS, ("s1", "s2"), strict=True))
    named: set[str] = set()
    series: list[Series] = []
    for trial, curve in found.items():
        faint = trial.rate != best[trial.arm]
        label = "" if faint or trial.arm in named else f"{ARMS[trial.arm]}, {trial.rate:g}"
        named |= {trial.arm} if label else set()
        series.append(Series(label, curve, kinds[trial.arm], faint=faint))
    note = "Every seed at the chosen rates; faint: the other rates of the sweep."
    figure = line_plot(
        "Held-out loss by step", series, x_label="step", y_label="nats a token", note=note, height=300
    )
    head = el("head", el("meta", charset="utf-8"), el("style", Html(STYLE.read_text("utf-8"))))
    return "<!doctype html>\n" + join(el("html", head, el("body", el("main", figure)), lang="en")) + "\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--data", nargs="+", required=True, help="files or globs of documents")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--muon-rates", type=float, nargs="+", default=[0.005, 0.01, 0.02])
    parser.add_argument("--muon-adamw-rate", type=float, default=0.005, help="AdamW's, in the arm with Muon")
    parser.add_argument("--adamw-rates", type=float, nargs="+", default=[0.0015, 0.003, 0.006])
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="rates are chosen on the first"
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=1024, help="tokens a step")
    parser.add_argument("--row", type=int, default=256, help="tokens in a row")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--eval-tokens", type=int, default=16_000)
    parser.add_argument("--max-bytes", type=int, default=6_000_000, help="of text read")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    for name in ("seeds", "muon_rates", "adamw_rates"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            parser.error(f"--{name.replace('_', '-')} names a value twice")
    if options.width % 96:
        parser.error("--width must be a multiple of 96 (heads of 32, three to a key head)")
    return options


def main() -> None:
    """Sweep, choose, repeat, record, print."""
    options = arguments()
    first, *others = options.seeds
    sweep = [Trial(arm, rate, first) for arm, rates in rates_of(options).items() for rate in rates]
    say(f"sweep: {len(sweep)} runs on seed {first}, then {2 * len(others)} at the chosen rates")
    run_recipe(recipe(sweep, options), "optimizers", options.home)
    found = curves(sweep, options.home)
    best = {arm: chosen(found, arm, first) for arm in ARMS}
    for arm, rate in best.items():
        edge = rate in (min(rates_of(options)[arm]), max(rates_of(options)[arm]))
        say(f"{ARMS[arm]}: rate {rate:g}{', at the edge of its sweep' if edge else ''}")
    trials = sweep + [Trial(arm, best[arm], seed) for seed in others for arm in ARMS]
    run_recipe(recipe(trials, options), "optimizers", options.home)
    found = curves(trials, options.home)
    lines = results(found, best, options.seeds)
    settings = {name: value for name, value in vars(options).items() if name not in ("home", "out")}
    record = record_of(
        torch.device("cpu"), settings=settings, chosen=best, results=lines,
        curves={trial.stage: curve for trial, curve in found.items()},
    )  # fmt: skip
    path = write_record(options.out, "optimizers", record)
    path.with_suffix(".html").write_text(page(found, best), encoding="utf-8")
    say(f"written: {path} and its .html")
    sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    entry(main, {})
