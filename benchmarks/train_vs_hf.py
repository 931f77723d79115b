"""Training tokens/s on this CPU, ours beside transformers with torch's fused AdamW, and peak memory.

    python benchmarks/train_vs_hf.py --out docs/results
    python benchmarks/train_vs_hf.py --quick

At about 1M, 10M and 30M weights: the same shapes, first weights, tokens, rates and steps for both, every mode
of each, in a process of its own: fp32 and bf16, for transformers also autocast; eager and compiled, for
transformers whole and block by block (which spares it a mask). Reported is the median of six timed windows
after a warm-up, two in each of three rounds through all modes, of each side's fastest mode that trains: one
whose loss ends more than 5% above that of its side's best is shown and not taken.

Our rows are packed and masked by document. Transformers reads the same rows, and so the same tokens, as one
causal stretch without a mask, which is the least work for it; with positions and a 4-D mask (`mask`) it
computes what we do, and its loss must be ours. Both sides clip the gradient to 1.

FLOPs are counted alike for both: 6 a token for every weight in a matrix product and 6 x layers x heads x
head_dim x row for attention, its causal half counted once, as if a row were one document. The ceiling is the
best of large square bf16 products, measured in the same run.

Peak memory: 30M weights, vocabulary 32,000, rows of 2,048: the largest resident memory of the process above
what it had after its imports (processes that compile are not counted).

The whole was never run to its end: expect well over an hour on two cores. `--quick` is a smoke test, not a
measurement.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import child, cores, cpu_ceilings, entry, in_rounds, markdown, record_of, say, write_record
from sides import Case, train

from publius.core.errors import UserError
from publius.model import ModelConfig

Found = list[tuple[Case, dict[str, Any]]]
WORTH = 1.05
"""A mode whose loss ends above this many times its side's best does not train."""
GUESS = 0.3
"""Of the ceiling: only decides how many steps make a window."""


class Size(NamedTuple):
    """A model and the batch it is timed with."""

    shape: ModelConfig
    sequence_length: int
    rows: int


def _shape(vocab: int, width: int, layers: int, heads: int, kv_heads: int, inner: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab, hidden_size=width, layers=layers, heads=heads, kv_heads=kv_heads,
        head_dim=width // heads, intermediate_size=inner, max_position=2048,
    )  # fmt: skip


SIZES: dict[str, Size] = {
    "1M": Size(_shape(2048, 128, 4, 4, 2, 352), 256, 8),
    "10M": Size(_shape(8192, 320, 6, 10, 2, 1024), 512, 4),
    "30M": Size(_shape(32_000, 384, 11, 6, 2, 1024), 1024, 2),
}
MODES = [
    "ours:float32:eager",
    "ours:bfloat16:eager",
    "ours:bfloat16:compiled",
    "ours:bfloat16:eager:muon",
    "ours:bfloat16:compiled:muon",
    "hf:float32:eager",
    "hf:float32:compiled",
    "hf:float32:blocks",
    "hf:autocast:eager",
    "hf:autocast:compiled",
    "hf:autocast:blocks",
    "hf:bfloat16:eager",
    "hf:bfloat16:compiled",
    "hf:bfloat16:blocks",
    "hf:autocast:eager:mask",
    "hf:bfloat16:eager:mask",
]
MEMORY_MODES = [
    "ours:bfloat16:eager",
    "ours:bfloat16:compiled",
    "ours:bfloat16:eager:recompute",
    "hf:float32:eager",
    "hf:autocast:eager",
    "hf:autocast:compiled",
    "hf:bfloat16:eager",
    "hf:bfloat16:compiled",
    "hf:bfloat16:blocks",
]
QUICK = ["ours:bfloat16:eager", "hf:autocast:eager", "hf:bfloat16:eager", "hf:autocast:eager:mask"]
EXTRAS = ("muon", "mask", "recompute")


def case_of(mode: str, size: Size, **timing: int) -> Case:
    """`side:dtype:eager|compiled|blocks[:muon|mask|recompute]` as a case.

    Raises:
        UserError: for a mode that neither side has.
    """
    side, dtype, how, *extras = mode.split(":") + [""] * (2 - mode.count(":"))
    known = side in ("ours", "hf") and dtype in ("float32", "autocast", "bfloat16")
    if not known or how not in ("eager", "compiled", "blocks") or set(extras) - set(EXTRAS):
        raise UserError(
            f"{mode!r} is no mode",
            where="--modes",
            fix="write side:dtype:how, as in hf:autocast:compiled; known are " + ", ".join(MODES),
        )
    return Case.model_validate(
        {
            "side": side,
            "dtype": dtype,
            "compiled": how == "compiled",
            "blocks": how == "blocks",
            "muon": "muon" in extras,
            "masked": "mask" in extras,
            "recompute": "recompute" in extras,
            "shape": size.shape,
            "sequence_length": size.sequence_length,
            "rows": size.rows,
            **timing,
        }
    )


def steps_in(seconds: float, size: Size, ceiling: float, least: int) -> int:
    """Steps of a window of about `seconds`, by the FLOPs of a step."""
    tokens = size.rows * size.sequence_length
    flops = tokens * size.shape.flops_per_token(size.sequence_length)
    return max(least, round(seconds * GUESS * ceiling / flops))


def best(found: Found, side: str) -> tuple[Case, dict[str, Any]] | None:
    """The fastest AdamW mode of `side` without extras that trains; None when none does."""
    plain = [
        (case, result)
        for case, result in found
        if case.side == side and "error" not in result and not (case.muon or case.masked or case.recompute)
    ]
    if not plain:
        return None
    lowest = min(result["last_loss"] for _, result in plain)
    good = [(case, result) for case, result in plain if result["last_loss"] <= WORTH * lowest]
    return max(good, key=lambda pair: pair[1]["tokens_per_second"])


def summary(name: str, found: Found, ceiling: float) -> dict[str, Any]:
    """One size: each side's best, their ratio, and the share of the ceiling."""
    line: dict[str, Any] = {"size": name, "ratio": None}
    for side in ("ours", "hf"):
        if (top := best(found, side)) is not None:
            case, result = top
            flops = case.shape.flops_per_token(case.sequence_length) * result["tokens_per_second"]
            line[side] = {
                "mode": case.mode,
                "tokens_per_second": result["tokens_per_second"],
                "of_ceiling": flops / ceiling,
                "last_loss": result["last_loss"],
                "weights": result["weights"],
            }
    if "ours" in line and "hf" in line:
        line["ratio"] = line["ours"]["tokens_per_second"] / line["hf"]["tokens_per_second"]
    return line


def memory_summary(found: Found) -> dict[str, Any]:
    """The least memory of each side, extras apart, and ours over theirs."""
    line: dict[str, Any] = {"ratio": None}
    for side in ("ours", "hf"):
        plain = [
            (result["peak_bytes"], case.mode)
            for case, result in found
            if case.side == side and "error" not in result and not case.recompute
        ]
        if plain:
            line[side] = dict(zip(("peak_bytes", "mode"), min(plain), strict=True))
    if "ours" in line and "hf" in line:
        line["ratio"] = line["ours"]["peak_bytes"] / line["hf"]["peak_bytes"]
    return line


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row a size."""
    head = ["weights", "ours, tokens/s", "transformers' best, tokens/s", "ratio", "of the ceiling: ours, its",
            "loss: ours, its"]  # fmt: skip
    rows: list[list[str]] = []
    for line in summaries:
        ours, peer = line.get("ours"), line.get("hf")
        if ours is None or peer is None:
            rows.append([line["size"], *["failed"] * (len(head) - 1)])
            continue
        rows.append(
            [
                f"{ours['weights'] / 1e6:.1f}M",
                f"{ours['tokens_per_second']:,.0f} ({ours['mode']})",
                f"{peer['tokens_per_second']:,.0f} ({peer['mode']})",
                f"{line['ratio']:.2f}",
                f"{ours['of_ceiling']:.0%}, {peer['of_ceiling']:.0%}",
                f"{ours['last_loss']:.3f}, {peer['last_loss']:.3f}",
            ]
        )
    return markdown(head, rows)


def details(found: Found) -> str:
    """Markdown: every case."""
    rows: list[list[str]] = []
    for case, result in found:
        name = [f"{case.shape.parameters() / 1e6:.1f}M x {case.sequence_length}", case.side, case.mode]
        if "error" in result:
            rows.append([*name, result["error"], "", "", ""])
            continue
        rows.append(
            [
                *name,
                f"{result['tokens_per_second']:,.0f}",
                f"{result['spread']:.0%}",
                f"{result['first_loss']:.3f} to {result['last_loss']:.3f}",
                f"{result['peak_bytes'] / 2**20:,.0f}",
            ]
        )
    return markdown(["model x row", "side", "mode", "tokens/s", "spread", "loss", "peak MiB"], rows)


def measure(cases: Sequence[Case], options: argparse.Namespace, rounds: int) -> Found:
    """Run each case in a child, once a round."""

    def ask(case: Case) -> dict[str, Any]:
        payload = case.model_dump(mode="json")
        result = child(Path(__file__), "case", payload, seconds=options.limit, threads=options.threads)
        told = result.get("error") or f"{result['tokens_per_second']:,.0f} tokens/s"
        say(f"{case.shape.parameters() / 1e6:5.1f}M {case.side:5s} {case.mode:32s} {told}")
        return result

    results = in_rounds([functools.partial(ask, case) for case in cases], rounds)
    return list(zip(cases, results, strict=True))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON; without: none")
    parser.add_argument("--quick", action="store_true", help="1M, two windows, four modes, no memory row")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=None)
    parser.add_argument("--modes", nargs="+", default=None, metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--rounds", type=int, default=3, help="every mode once in each")
    parser.add_argument("--windows", type=int, default=2, help="of a mode in a round")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a window, about")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a case may take")
    parser.add_argument("--memory-rows", type=int, default=4, help="rows of 2,048; 0: no memory row")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.modes = options.sizes or ["1M"], options.modes or QUICK
        options.rounds, options.windows, options.seconds, options.memory_rows = 1, 2, 0.2, 0
    options.sizes, options.modes = options.sizes or list(SIZES), options.modes or MODES
    return options


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    for mode in options.modes:
        case_of(mode, SIZES["1M"])
    ceiling = cpu_ceilings(options.threads, options.quick)
    say(f"ceiling: {ceiling['bfloat16']:.3g} FLOP/s in bfloat16, {ceiling['float32']:.3g} in float32")
    summaries: list[dict[str, Any]] = []
    everything: Found = []
    for name in options.sizes:
        steps = steps_in(options.seconds, SIZES[name], ceiling["bfloat16"], 2)
        timing = {"windows": options.windows, "per_window": steps}
        cases = [case_of(mode, SIZES[name], **timing) for mode in options.modes]
        found = measure(cases, options, options.rounds)
        summaries.append(summary(name, found, ceiling["bfloat16"]))
        everything += found
    memory: Found = []
    if options.memory_rows:
        size = SIZES["30M"]._replace(sequence_length=2048, rows=options.memory_rows)
        timing = {"warm": 1, "windows": 1, "per_window": 2}
        memory = measure([case_of(mode, size, **timing) for mode in MEMORY_MODES], options, 1)
    report(options, ceiling, summaries, everything, memory)


def report(
    options: argparse.Namespace,
    ceiling: Mapping[str, float],
    summaries: list[dict[str, Any]],
    found: Found,
    memory: Found,
) -> None:
    """Print the tables; write the JSON when asked to."""
    print(table(summaries), end="\n\n")
    print(details(found), end="\n\n")
    least = memory_summary(memory)
    if least["ratio"] is not None:
        ours, peer = (
            f"{least[s]['peak_bytes'] / 2**20:,.0f} MiB ({least[s]['mode']})" for s in ("ours", "hf")
        )
        print(details(memory), end="\n\n")
        print(f"peak memory: ours {ours}, transformers' least {peer}, ratio {least['ratio']:.2f}")
    if options.out is not None:
        plain = {name: value for name, value in vars(options).items() if name != "out"}
        rows = [
            [{"case": c.model_dump(mode="json"), "mode": c.mode, **r} for c, r in part]
            for part in (found, memory)
        ]
        record = record_of(
            torch.device("cpu"), settings=plain, ceiling=dict(ceiling), summary=summaries,
            peak_memory=least, cases=rows[0], memory_cases=rows[1],
        )  # fmt: skip
        say(f"written: {write_record(options.out, 'train-vs-hf', record)}")


def _case(payload: dict[str, Any]) -> dict[str, Any]:
    return train(Case.model_validate(payload))


if __name__ == "__main__":
    entry(main, {"case": _case})
