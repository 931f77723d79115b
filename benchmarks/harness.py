"""What the speed benchmarks share: cases in processes of their own, timed windows, memory, records.

A case runs in a child, so that one side's memory, threads, caches and faults are not another's. All children
get the same environment (threads, allocator), and each has a time limit: one that fails, runs out of memory
or takes too long is a row that says so, and the rest goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from resident import Resident

from publius.core.device import describe_hardware, keep_memory, set_threads, usable_cores
from publius.core.errors import UserError
from publius.pipeline.run import Run
from publius.training.calibrate import rate

__all__ = [
    "MarkedRun",
    "Memory",
    "Windows",
    "child",
    "cores",
    "cpu_ceilings",
    "entry",
    "extra",
    "markdown",
    "matmul_ceiling",
    "options_of",
    "record_of",
    "say",
    "windows",
    "write_record",
]

Handler = Callable[[dict[str, Any]], dict[str, Any]]
_MARK = "RESULT "
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}
"""For a peer's own Python: what `keep_memory` is to ours."""


def cores() -> int:
    """Threads a child uses unless told: OMP_NUM_THREADS, else every core this process may run on."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) else len(usable_cores())


def say(text: str) -> None:
    """Progress, for people: stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def child(
    script: Path,
    handler: str,
    payload: Mapping[str, Any],
    *,
    seconds: float,
    threads: int,
    show: bool = False,
    python: Path | None = None,
) -> dict[str, Any]:
    """What `handler` of `script` returns for `payload` in a process of its own, or `{"error": why}`.

    Args:
        script: calls `entry` when run.
        handler: one of its names.
        payload: JSON-able.
        seconds: it is killed after so long, with all processes it started.
        threads: OMP_NUM_THREADS.
        show: let it say its progress; then why it fails is said there too.
        python: a peer's, with its packages; `script` then marks its result by itself (see `trl_side`).
    """
    command = [str(python or sys.executable), str(script), "--child", handler, json.dumps(payload)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    env |= KEEP if python else {}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=None if show else subprocess.PIPE, text=True, env=env,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {seconds:.0f} s"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
    found = [line for line in out.splitlines() if line.startswith(_MARK)]
    if process.returncode == 0 and found:
        return json.loads(found[-1].removeprefix(_MARK))
    return {"error": _reason(process.returncode, err or "")}


def _reason(code: int, err: str) -> str:
    """Why a child failed, in a line."""
    if code == -signal.SIGKILL:
        return "killed: out of memory?"
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {code}")[:300]


def entry(main: Callable[[], None], handlers: Mapping[str, Handler]) -> None:
    """Run `main`, or, in a child, the handler it was started for. A UserError ends with exit code 2."""
    try:
        if sys.argv[1:2] != ["--child"]:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children end with us
            main()
            return
        set_threads()
        keep_memory()  # as every run of ours does; the peer has it too
        found = handlers[sys.argv[2]](json.loads(sys.argv[3]))
        print(_MARK + json.dumps(found), flush=True)
    except UserError as error:
        say(f"error: {error}")
        sys.exit(2)


class Memory:
    """Peak memory of this process above what it had at the start (imports), in bytes.

    Resident memory of this process alone: helpers that compile are not counted. On CUDA what torch
    allocated there is measured instead.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._idle = torch.cuda.memory_allocated(device)
        else:
            self._resident = Resident()

    def peak(self) -> int:
        """Until now."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._idle
        return self._resident.peak()


class MarkedRun(Run):
    """A run that remembers when each step was logged, and its loss."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "benchmark")
        self.marks: list[float] = []
        self.losses: list[float] = []

    def log(self, **numbers: Any) -> None:
        """As `Run.log`."""
        super().log(**numbers)
        if "loss" in numbers:
            self.marks.append(time.perf_counter())
            self.losses.append(float(numbers["loss"]))


class Windows(NamedTuple):
    """Timed stretches of equal numbers of steps, after a warm-up."""

    tokens_per_second: list[float]
    """Of each window."""

    @property
    def median(self) -> float:
        """What is reported."""
        return statistics.median(self.tokens_per_second)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median."""
        return (max(self.tokens_per_second) - min(self.tokens_per_second)) / self.median


def windows(marks: Sequence[float], tokens: Sequence[int], warm: int, per_window: int) -> Windows:
    """Rates from the moment each step ended and the tokens it trained on.

    Args:
        marks: seconds, one a step.
        tokens: of each step, padding left out.
        warm: steps before the first window; at least 1, since no mark says when the first step began.
        per_window: steps in a window; a last, shorter one is left out.
    """
    if warm < 1 or len(marks) < warm + per_window:
        raise ValueError(f"{len(marks)} steps are too few for a warm-up of {warm} and one of {per_window}")
    edges = range(warm, len(marks) - per_window + 1, per_window)
    return Windows(
        [sum(tokens[i : i + per_window]) / (marks[i + per_window - 1] - marks[i - 1]) for i in edges]
    )


def in_rounds(ask: Sequence[Callable[[], dict[str, Any]]], rounds: int) -> list[dict[str, Any]]:
    """Ask for every result once a round, and put the rounds of each together: the median of all its windows.

    What else the machine does for some minutes then falls on all alike. Who failed once is not asked again.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in ask]
    for _ in range(rounds):
        for one, results in zip(ask, found, strict=True):
            if not results or "error" not in results[-1]:
                results.append(one())
    return [_together(results) for results in found]


def _together(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    failed = next((result for result in results if "error" in result), None)
    if failed is not None:
        return failed
    rates = Windows([rate for result in results for rate in result["windows"]])
    reads = [read for result in results for read in result.get("reads", [])]
    return {
        **results[0],
        **({"reads": reads} if reads else {}),
        "windows": rates.tokens_per_second,
        "tokens_per_second": rates.median,
        "spread": rates.spread,
        "peak_bytes": max(result["peak_bytes"] for result in results),
    }


def matmul_ceiling(
    device: torch.device, dtype: torch.dtype, sizes: Sequence[int], seconds: float = 1.0
) -> float:
    """FLOP/s of the best of some square products: about the most that a step could reach.

    Args:
        device: where.
        dtype: of both factors.
        sizes: rows of the squares; each is timed for `seconds`.
    """

    def product(a: torch.Tensor, b: torch.Tensor) -> None:
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = max(best, rate(lambda a=a, b=b: product(a, b), 2.0 * size**3, seconds=seconds))
    return best


def cpu_ceilings(threads: int, quick: bool) -> dict[str, float]:
    """FLOP/s of large products here, by dtype; sets the threads of this process."""
    torch.set_num_threads(threads)
    kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    sizes, seconds = ([256], 0.05) if quick else ([1024, 2048, 4096], 1.0)
    return {n: matmul_ceiling(torch.device("cpu"), kind, sizes, seconds) for n, kind in kinds.items()}


def extra(pairs: Sequence[Sequence[float]]) -> dict[str, float]:
    """How much more the first of each pair is than the second: the median, and its quartiles."""
    more = [first / second - 1 for first, second in pairs]
    low, middle, high = statistics.quantiles(more, n=4) if len(more) > 1 else more * 3
    return {"median": middle, "low": low, "high": high}


def options_of(doc: str | None, quick: str, limit: float) -> argparse.ArgumentParser:
    """The command line that scripts have in common: where the record goes, threads, the children's time.

    Args:
        doc: the script's own.
        quick: what `--quick` makes of it.
        limit: seconds a child may take, unless told.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON; without: none")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--limit", type=float, default=limit, help="seconds a child may take")
    return parser


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def record_of(device: torch.device, **parts: Any) -> dict[str, Any]:
    """What every results file says first: date, hardware, command, versions, commit; then `parts`."""
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": describe_hardware(device),
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(Path(__file__).parent),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        **parts,
    }


def commit(folder: Path) -> str | None:
    """What git says is checked out at `folder`; None without git or a checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def write_record(out: Path, name: str, record: Mapping[str, Any]) -> Path:
    """Write `record` to `out/<date>-<name>.json`."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{record['date']}-{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
