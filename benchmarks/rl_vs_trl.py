"""PPO and GRPO samples/s and memory on this CPU, ours beside TRL's, on the same models and prompts.

    python -m venv /tmp/trl
    /tmp/trl/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 requests peft
    python benchmarks/rl_vs_trl.py --trl-python /tmp/trl/bin/python --out docs/results

TRL 1.12 is the last with PPO (in `trl.experimental.ppo`). It runs in its own Python, a process a case, and
loads the checkpoints that ours starts from: a policy that writes letters and never ends, so that every sample
has exactly 32 tokens of prompt and 32 of reply on either side, and a reward model of the same size.

ppo: policy, reference, reward model, and a critic that starts from the reward model, on both sides. grpo:
policy and reference, and a reward function in Python. lora: PPO whose policy is adapters of rank 16 on all
matrices of the blocks, the reference being the trunk without them; our critic is adapters on that trunk, too,
TRL's a model of its own. Batch, passes over a batch, optimizer steps, learning rate and weight of the KL are
the same. A sample is one prompt with its reply, from before it is drawn until it has been learned from; a
window is one batch. Modes: ours in fp32; with critic and reward model in bf16 (`auto`, the default, where the
CPU multiplies in it); with all in bf16 (`bfloat16`: weights, moments and sums stay fp32); each with chunks of
the default size or small ones; in grpo with prompts computed once for their samples (`shared`). TRL's: fp32,
bf16 autocast (weights fp32 there, too), and fp32 with gradient checkpointing, its default. The fastest
mode of each side counts for speed; memory is compared for those two, and for the least of each. It is the
peak of resident memory above what the process had after its imports. Means of the reward are shown: both must
learn. Samples by second of a core's work (in the first round) stand beside the rates: they tell more on a
machine that does other things, too.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import (
    child,
    entry,
    in_rounds,
    markdown,
    options_of,
    record_of,
    say,
    windows,
    write_record,
)
from rl_side import SIZES, RLCase, train_ours, write_models

from publius.core.errors import UserError

SIDE = Path(__file__).with_name("trl_side.py")
METHODS = ("ppo", "grpo", "lora")
OURS = {
    "ppo": ("float32", "auto", "bfloat16", "float32 small", "bfloat16 small"),
    "grpo": ("float32", "bfloat16", "float32 shared", "bfloat16 shared", "bfloat16 shared small"),
    "lora": ("float32", "auto", "float32 small", "auto small"),
}
TRL = ("float32", "bfloat16", "float32 recompute")


def outcome(case: RLCase, found: dict[str, Any]) -> dict[str, Any]:
    """Samples/s by window, first and last rewards, memory; an error as it is."""
    if "error" in found:
        return found
    timed = windows(found["marks"], [case.batch] * case.steps, case.warm, 1)
    rewards, few = found["rewards"], max(1, case.steps // 4)
    return {
        "windows": timed.tokens_per_second,  # of samples, not tokens
        "samples_per_core_second": case.batch
        * case.windows
        / (found["work"][-1] - found["work"][case.warm - 1]),
        "peak_bytes": found["peak_bytes"],
        "first_reward": statistics.fmean(rewards[:few]),
        "last_reward": statistics.fmean(rewards[-few:]),
        "versions": found.get("versions", {}),
    }


def run_case(case: RLCase, options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """One case in a process of its own."""
    if case.side == "ours":
        payload = {"case": case.model_dump(mode="json"), "paths": dict(paths)}
        found = child(Path(__file__), "ours", payload, seconds=options.limit, threads=options.threads)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            words = {"dtype": case.words[0], "recompute": "recompute" in case.words, "scratch": scratch}
            payload = case.model_dump(mode="json") | paths | words
            payload |= {"steps": case.steps, "threads": options.threads}
            found = child(
                SIDE, "trl", payload, seconds=options.limit, threads=options.threads,
                python=options.trl_python,
            )  # fmt: skip
    result = outcome(case, found)
    told = result.get("error") or f"{statistics.median(result['windows']):,.1f} samples/s"
    say(f"{case.size:5s} {case.method:5s} {case.side:5s} {case.mode:18s} {told}")
    return result


def named(case: RLCase, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the words that say what it is of, and its rate by its name."""
    plain = {key: getattr(case, key) for key in ("size", "method", "epochs", "side", "mode")}
    if "error" in result:
        return plain | result
    rest = {key: value for key, value in result.items() if key != "tokens_per_second"}
    return plain | rest | {"samples_per_second": statistics.median(result["windows"])}


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One size and method: each side's fastest and smallest, and the ratios; None where a side has none."""
    line: dict[str, Any] = {key: results[0][key] for key in ("size", "method", "epochs")}
    for side in ("ours", "trl"):
        good = [r for r in results if r["side"] == side and "error" not in r]
        if not good:
            line[side] = None
            continue
        top = max(good, key=lambda r: r["samples_per_second"])
        least = min(good, key=lambda r: r["peak_bytes"])
        line[side] = dict(top) | {"least_bytes": least["peak_bytes"], "least_mode": least["mode"]}
        line[side] |= {"least_samples_per_second": least["samples_per_second"]}
    ours, trl = line["ours"], line["trl"]
    for name, key in (
        ("speed", "samples_per_second"),
        ("memory", "peak_bytes"),
        ("least_memory", "least_bytes"),
    ):
        line[name] = ours[key] / trl[key] if ours and trl else None
    return line


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a size and method."""
    head = ["model", "method", "passes", "ours, samples/s", "TRL's best, samples/s", "ratio", "ours, MB",
            "TRL, MB", "ratio", "least: ours, TRL, MB", "ratio", "reward: ours, TRL"]  # fmt: skip
    return markdown(head, [_row(line) for line in summaries])


def _row(line: Mapping[str, Any]) -> list[str]:
    def words(side: Mapping[str, Any] | None, tell: Callable[[Any], str]) -> str:
        return "failed" if side is None else tell(side)

    def ratio(name: str) -> str:
        return "-" if line[name] is None else f"{line[name]:.2f}"

    def mb(key: str) -> list[str]:
        return [words(line[side], lambda r: f"{r[key] / 1e6:,.0f}") for side in ("ours", "trl")]

    rate = [
        words(line[s], lambda r: f"{r['samples_per_second']:,.1f} ({r['mode']})") for s in ("ours", "trl")
    ]
    rose = [
        words(line[s], lambda r: f"{r['first_reward']:.3f} -> {r['last_reward']:.3f}")
        for s in ("ours", "trl")
    ]
    return [
        line["size"], line["method"], str(line["epochs"]), *rate, ratio("speed"), *mb("peak_bytes"),
        ratio("memory"), ", ".join(mb("least_bytes")), ratio("least_memory"), ", ".join(rose),
    ]  # fmt: skip


def details(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: every case."""
    head = [
        "model",
        "method",
        "passes",
        "side",
        "mode",
        "samples/s",
        "spread",
        "samples/core-s",
        "MB",
        "reward",
    ]
    rows: list[list[str]] = []
    for r in results:
        start = [r["size"], r["method"], str(r["epochs"]), r["side"], r["mode"]]
        if "error" in r:
            rows.append([*start, r["error"], "", "", "", ""])
            continue
        reward = f"{r['first_reward']:.3f} -> {r['last_reward']:.3f}"
        rate, size = f"{r['samples_per_second']:,.1f}", f"{r['peak_bytes'] / 1e6:,.0f}"
        core = f"{r['samples_per_core_second']:,.1f}"
        rows.append([*start, rate, f"{r['spread']:.0%}", core, size, reward])
    return markdown(head, rows)


def checked(python: Path) -> Path:
    """The Python that has TRL.

    Raises:
        UserError: when there is none at that path.
    """
    if not python.is_file():
        raise UserError(
            f"there is no Python at {python}",
            where="--trl-python",
            fix="python -m venv /tmp/trl && /tmp/trl/bin/pip install torch==2.13.0 transformers==5.23.0"
            " trl==1.12.0 requests peft, and give /tmp/trl/bin/python",
        )
    return python.absolute()  # not resolved: a venv's Python is a link, and is found by its own place


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "a model of 0.1M, one mode a side, one window: a smoke test", limit=1200.0)
    parser.add_argument("--trl-python", type=Path, required=True, help="a Python with TRL installed")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=None, help="default: 3M 10M")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=64, help="samples a step")
    parser.add_argument("--epochs", type=int, nargs="+", default=None,
                        help="passes over a batch; default: 1 4 (4 is the default of TRL's PPO)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=2, help="every mode once in each")
    parser.add_argument("--windows", type=int, default=3, help="of a mode in a round")
    options = parser.parse_args()
    options.sizes = options.sizes or (["0.1M"] if options.quick else ["3M", "10M"])
    options.epochs = options.epochs or ([2] if options.quick else [1, 4])
    if options.quick:
        options.rounds, options.windows, options.batch = 1, 1, 8
    return options


def cases(size: str, method: str, epochs: int, options: argparse.Namespace) -> list[RLCase]:
    """Every mode of both sides, in the order in which they are asked."""
    modes = [("ours", mode) for mode in OURS[method]] + [("trl", mode) for mode in TRL]
    if options.quick:
        modes = [("ours", "float32"), ("trl", "float32")]
    common = {
        "size": size, "method": method, "batch": options.batch, "epochs": epochs, "windows": options.windows,
    }  # fmt: skip
    return [RLCase.model_validate({**common, "side": side, "mode": mode}) for side, mode in modes]


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    options.trl_python = checked(options.trl_python)
    summaries: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for size, method, epochs in itertools.product(options.sizes, options.methods, options.epochs):
        some = cases(size, method, epochs, options)
        with tempfile.TemporaryDirectory() as folder:
            paths = write_models(Path(folder), some[0])
            ask = [functools.partial(run_case, case, options, paths) for case in some]
            found = in_rounds(ask, options.rounds)
        found = [named(case, result) for case, result in zip(some, found, strict=True)]
        summaries.append(summary(found))
        results += found
    print(table(summaries))
    print()
    print(details(results))
    if options.out is not None:
        plain = {name: v for name, v in vars(options).items() if name not in ("out", "trl_python")}
        record = record_of(torch.device("cpu"), settings=plain, summary=summaries, cases=results)
        say(f"written: {write_record(options.out, 'rl-vs-trl', record)}")
    if any(line["speed"] is None for line in summaries):
        sys.exit(1)


def _ours(payload: dict[str, Any]) -> dict[str, Any]:
    return train_ours(RLCase.model_validate(payload["case"]), payload["paths"])


if __name__ == "__main__":
    entry(main, {"ours": _ours})
