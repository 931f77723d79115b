"""Generation on this CPU: our engine beside transformers and llama.cpp, and beside what the memory gives.

    python benchmarks/engine_cpu.py --out docs/results
    python benchmarks/engine_cpu.py --llama-cpp build/bin --out docs/results
    python benchmarks/engine_cpu.py --quick

The same shapes and fresh weights for all, every case in a process of its own on the same threads, all cases
in turn, three times over; the median of all windows is reported. What is asked:

- Decoding one row, at 1M, 10M and 125M weights (a prompt of 64, 64 new tokens, greedy; the prompt's reading
  and the first token are not timed) against the fastest of transformers' modes: fp32 and bf16, eager with its
  growing cache, and compiled with its static one, autotuned or not. Ours in fp32 or bf16 counts, int8 is
  shown.
- Decoding one row and sixteen, against llama.cpp with the same weights (`--llama-cpp`, `pip install gguf`):
  fp32 with f32, bf16 with the faster of bf16 and f16, int8 with q8_0. One row there is `llama-bench` at a
  depth of 64, sixteen are `llama-batched-bench`. It times decoding as we do, but draws random tokens, whereas
  ours has sampling and scheduling in its time.
- The share of the memory's bandwidth that decoding one row reaches at the largest size: bytes of weights a
  token reads (all matrices and the head, once) x tokens/s, over the best of several ways to read a large
  stretch of memory just before and after; the median of all windows.
- 64 requests of mixed lengths at 10M (prompts of 16 to 512, 16 to 256 new tokens), output tokens/s from the
  first submitted to the last finished: against transformers' continuous batching, and against padded batches
  of requests sorted by length.

To build llama.cpp: `cmake -B build -DGGML_NATIVE=ON && cmake --build build --target llama-bench
llama-batched-bench`. Expect an hour on two cores. `--quick` is a smoke test, not a measurement.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from engines import SHAPES, EngineCase, generate, weight_bytes
from harness import child, cores, entry, in_rounds, markdown, record_of, say, write_record

from publius.core.errors import UserError

Found = list[tuple[EngineCase, dict[str, Any]]]

OURS = ["float32", "bfloat16", "int8"]
ITS = [f"{dtype}:{how}" for dtype in ("float32", "bfloat16") for how in ("eager", "compiled", "tuned")]
LLAMA = {"float32": ["f32"], "bfloat16": ["bf16", "f16"], "int8": ["q8_0"]}
"""Which of llama.cpp's types each of ours is held against."""
BATCHES = [
    f"{dtype}:{how}"
    for dtype in ("float32", "bfloat16")
    for how in ("batching:64", "batching:16", "padded:64", "padded:16")
]
AT_BATCH_1 = {"10M": 4.0, "125M": 1.5}
"""How many times transformers' best we want to be."""
LLAMA_AT = {1: 0.8, 16: 1.5}
OF_BANDWIDTH = 0.7
REQUESTS_AT = 2.0
TIMES = {"1M": 30, "10M": 10, "125M": 3}
"""How often llama.cpp repeats in a round: what takes less time is timed more often."""


class Target(NamedTuple):
    """One ratio that is asked for."""

    what: str
    ours: str
    theirs: str
    ratio: float
    least: float | None
    """None: no target, only shown."""

    @property
    def verdict(self) -> str:
        """In a word."""
        return "" if self.least is None else "met" if self.ratio >= self.least else "missed"


def cases_of(options: argparse.Namespace, files: dict[tuple[str, str], str]) -> list[EngineCase]:
    """Every case of decoding, then those of requests."""
    timing = {"windows": options.windows, "seconds": options.seconds, "threads": options.threads}
    made: list[EngineCase] = []
    for size in options.sizes:
        make = functools.partial(EngineCase, size=size, new=options.new, **timing)
        for rows in (1, 16) if files else (1,):
            reads = rows == 1 and size == options.sizes[-1]
            made += [make(side="ours", mode=mode, rows=rows, reads=reads) for mode in options.ours]
            made += [
                make(side="llama", mode=kind, rows=rows, path=path, programs=str(options.llama_cpp))
                for (at, kind), path in files.items()
                if at == size
            ]
        made += [make(side="hf", mode=mode) for mode in options.its]
    few = {"count": 6, "longest": (32, 24)} if options.quick else {}
    timing["windows"] = 1  # long as it is
    requests = functools.partial(EngineCase, size=options.requests, work="requests", **few, **timing)
    made += [requests(side="ours", mode=mode) for mode in options.ours]
    made += [requests(side="hf", mode=mode) for mode in options.batches]
    return made


def rate(
    found: Found, side: str, modes: Sequence[str], *, size: str, rows: int = 1, work: str = "decode"
) -> tuple[float, str] | None:
    """The fastest of `modes`, and which it is; None when none ran."""
    ran = [
        (result["tokens_per_second"], case.mode)
        for case, result in found
        if (case.side, case.size, case.rows, case.work) == (side, size, rows, work)
        and case.mode in modes
        and "error" not in result
    ]
    return max(ran, default=None)


def targets(found: Found) -> list[Target]:
    """All ratios that can be made of what ran."""
    sizes = list(dict.fromkeys(case.size for case, _ in found if case.work == "decode"))
    asked: list[Target] = []

    def add(what: str, ours: Any, theirs: Any, least: float | None) -> None:
        if ours is not None and theirs is not None:
            words = [f"{speed:,.0f} ({mode})" for speed, mode in (ours, theirs)]
            asked.append(Target(what, *words, ours[0] / theirs[0], least))

    for size in sizes:
        its = rate(found, "hf", ITS, size=size)
        what = f"{size}, 1 row, transformers' best"
        add(what, rate(found, "ours", OURS[:2], size=size), its, AT_BATCH_1.get(size))
        add(what, rate(found, "ours", ["int8"], size=size), its, None)
    for size in sizes:
        for rows, least in LLAMA_AT.items():
            for mode, kinds in LLAMA.items():
                ours, its = (
                    rate(found, side, modes, size=size, rows=rows)
                    for side, modes in (("ours", [mode]), ("llama", kinds))
                )
                add(f"{size}, {rows} row{'s' * (rows > 1)}, llama.cpp", ours, its, least)
    for case, result in found:
        if reads := result.get("reads"):
            bytes_each = weight_bytes(case.shape, case.mode)
            shares = [rate * bytes_each / read for rate, read in zip(result["windows"], reads, strict=True)]
            read = result["tokens_per_second"] * bytes_each
            words = f"{read / 1e9:.1f} GB/s ({case.mode})", f"{statistics.median(reads) / 1e9:.1f} GB/s"
            least = OF_BANDWIDTH if case.size == list(SHAPES)[-1] else None
            asked.append(Target(f"{case.size}, 1 row, memory", *words, statistics.median(shares), least))
    asked_at = next((case.size for case, _ in found if case.work == "requests"), "")
    batching = [mode for mode in BATCHES if "batching" in mode]
    padded = [mode for mode in BATCHES if "padded" in mode]
    for name, modes in (("continuous batching", batching), ("padded batches", padded)):
        its = rate(found, "hf", modes, size=asked_at, work="requests")
        ours = rate(found, "ours", OURS[:2], size=asked_at, work="requests")
        add(f"{asked_at}, requests, transformers' {name}", ours, its, REQUESTS_AT)
    return asked


def target_table(asked: Sequence[Target]) -> str:
    """Markdown: one row a ratio."""
    head = ["against", "ours, tokens/s", "theirs, tokens/s", "ratio", "wanted", ""]
    rows = [
        [t.what, t.ours, t.theirs, f"{t.ratio:.2f}", "" if t.least is None else f"{t.least:.2f}", t.verdict]
        for t in asked
    ]
    return markdown(head, rows)


def details(found: Found) -> str:
    """Markdown: every case. `same` is how many first tokens are those that ours says in fp32."""
    said = {
        (case.size, case.work, case.rows): result["said"]
        for case, result in found
        if (case.side, case.mode) == ("ours", "float32") and "error" not in result
    }
    rows: list[list[str]] = []
    for case, result in found:
        what = f"{case.count} requests" if case.work == "requests" else f"{case.rows}"
        name = [case.size, what, case.side, case.mode]
        if "error" in result:
            rows.append([*name, result["error"], "", "", ""])
            continue
        rows.append(
            [
                *name,
                f"{result['tokens_per_second']:,.0f}",
                f"{result['spread']:.0%}",
                _same(result.get("said"), said.get((case.size, case.work, case.rows))),
                f"{result['peak_bytes'] / 2**20:,.0f}" if result["peak_bytes"] else "",
            ]
        )
    return markdown(["weights", "rows", "side", "mode", "tokens/s", "spread", "same", "peak MiB"], rows)


def _same(said: Sequence[int] | None, ours: Sequence[int] | None) -> str:
    if not said or not ours:
        return ""
    agree = next((i for i, (a, b) in enumerate(zip(said, ours, strict=True)) if a != b), len(said))
    return f"{agree} of {len(said)}"


def weight_files(options: argparse.Namespace, folder: Path) -> dict[tuple[str, str], str]:
    """Our weights for llama.cpp: (size, type) -> file; none when it is not compared with.

    Raises:
        UserError: when its programs or the package that writes its files are missing.
    """
    if options.llama_cpp is None:
        return {}
    missing = [n for n in ("llama-bench", "llama-batched-bench") if not (options.llama_cpp / n).is_file()]
    if missing:
        raise UserError(
            f"{options.llama_cpp} has no {' and no '.join(missing)}",
            where="--llama-cpp",
            fix="give the folder of llama.cpp's programs, usually build/bin",
        )
    if importlib.util.find_spec("gguf") is None:
        raise UserError("the package gguf is missing", where="--llama-cpp", fix="pip install gguf")
    files: dict[tuple[str, str], str] = {}
    for size in options.sizes:
        for kind in (kind for kinds in LLAMA.values() for kind in kinds):
            path = str(folder / f"{size}-{kind}.gguf")
            payload = {"path": path, "size": size, "kind": kind}
            made = child(Path(__file__), "write", payload, seconds=600, threads=options.threads)
            if "error" in made:
                raise UserError(f"{size} {kind} was not written: {made['error']}", where="--llama-cpp")
            files[size, kind] = path
    return files


def measure(cases: Sequence[EngineCase], options: argparse.Namespace) -> Found:
    """Run each case in a child, once a round."""

    def ask(case: EngineCase) -> dict[str, Any]:
        payload = case.model_dump(mode="json")
        result = child(Path(__file__), "case", payload, seconds=options.limit, threads=options.threads)
        if "error" in result:
            told = result["error"]
        else:
            told = ", ".join(f"{speed:,.0f}" for speed in sorted(result["windows"])[-4:])
        name = [payload[key] for key in ("size", "work", "rows", "side", "mode")]
        say(f"{' '.join(map(str, name)):40s} {told}")
        return result

    results = in_rounds([functools.partial(ask, case) for case in cases], options.rounds)
    return list(zip(cases, results, strict=True))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON; without: none")
    parser.add_argument("--quick", action="store_true", help="1M, few modes, one short window")
    parser.add_argument("--llama-cpp", type=Path, default=None, metavar="DIR", help="its programs")
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=None)
    parser.add_argument("--requests", choices=list(SHAPES), default=None, help="size for the requests")
    parser.add_argument("--ours", nargs="+", choices=OURS, default=None)
    parser.add_argument("--its", nargs="*", choices=ITS, default=None, metavar="MODE", help=", ".join(ITS))
    parser.add_argument(
        "--batches", nargs="*", choices=BATCHES, default=None, metavar="MODE", help=", ".join(BATCHES)
    )
    parser.add_argument("--new", type=int, default=64, help="tokens a row decodes")
    parser.add_argument("--rounds", type=int, default=3, help="every case once in each")
    parser.add_argument("--windows", type=int, default=2, help="of a case in a round")
    parser.add_argument("--seconds", type=float, default=2.0, help="of decoding in a window, at least")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a case may take")
    options = parser.parse_args()
    wanted = {"sizes": list(SHAPES), "requests": "10M", "ours": OURS, "its": ITS, "batches": BATCHES}
    if options.quick:
        wanted = {
            "sizes": ["1M"], "requests": "1M", "ours": OURS[:1], "its": ITS[:1], "batches": BATCHES[:1]
        }  # fmt: skip
        options.rounds, options.windows, options.seconds = 1, 1, 0.05
    for name, value in wanted.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        cases = cases_of(options, weight_files(options, Path(folder)))
        found = measure(cases, options)
    asked = targets(found)
    print(target_table(asked), end="\n\n")
    print(details(found))
    if options.out is not None:
        plain = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
        }
        plain.pop("out")
        plain["llama_cpp"] = options.llama_cpp is not None
        record = record_of(
            torch.device("cpu"), settings=plain,
            targets=[{**t._asdict(), "verdict": t.verdict} for t in asked],
            cases=[{"case": c.model_dump(mode="json", exclude={"path", "programs"}), **r} for c, r in found],
        )  # fmt: skip
        if options.llama_cpp is not None:  # where it lies here says nothing elsewhere
            record["command"] = record["command"].replace(str(options.llama_cpp), "DIR")
        say(f"written: {write_record(options.out, 'engine-cpu', record)}")


def _case(payload: dict[str, Any]) -> dict[str, Any]:
    case = EngineCase.model_validate(payload)
    if case.side != "llama":
        return generate(case)
    return importlib.import_module("llama_side").decode(case, TIMES[case.size])


def _write(payload: dict[str, Any]) -> dict[str, Any]:
    module = importlib.import_module("llama_side")  # here only: it wants a package of its own
    module.write_gguf(Path(payload["path"]), SHAPES[payload["size"]], payload["kind"])
    return {}


if __name__ == "__main__":
    entry(main, {"case": _case, "write": _write})
