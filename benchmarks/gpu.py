"""Training on one GPU: first that it is right, then how fast. `benchmarks/gpu.sh` runs this.

    benchmarks/gpu.sh
    benchmarks/gpu.sh --attention sdpa flex --parts 350M "350M at 32k" --budget 300
    python benchmarks/gpu.py --device cpu --tiny

Right: our logits against transformers' on the device, from the same weights, plain and packed, in fp32 and
bf16; and the loss curve of the device against the CPU's. When one is wrong, no speed is measured. Then each
kernel of attention (`model.packed`) that is asked for: outputs and gradients against the dense mask, and the
loss curve; no speed is measured with one that is wrong.

Fast: 350M weights in rows of 2,048 and of 32,768 (also as one document each, `whole`, where all kernels are
SDPA's causal one), 1B and 125M in rows of 2,048, each with every kernel, through the real loop (packed rows,
Muon + AdamW, bf16 over fp32 weights, compiled blocks): tokens/s, MFU and peak memory.

    MFU = tokens/s x (6 x weights in products + 6 x layers x heads x head_dim x row) / peak FLOP/s

with attention's causal half counted once, as if a row were one document. `flex` and `varlen` skip what is
masked between documents, so beside it stands the MFU of what documents need alone, with twice the mean
context for `row`. The peak is the data sheet's (dense bf16) where the card is known; the best of large bf16
products, measured here, stands beside it. `loss gap` is the largest difference from the losses with `sdpa`.

Writing: the engine's tokens/s at 1B weights, one row and 256, beside the roofline of measured memory and
arithmetic (`publius bench engine`).

Each part is a child with a time limit of its own, inside one budget (8 minutes): a part that fails or runs
out of memory or time is a row that says so. A compiled part that fails is tried once more, eager.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_checks import curve_checks, kernel_checks, kernel_curve, logit_checks
from harness import child, cores, entry, markdown, matmul_ceiling, record_of, say, write_record
from sides import Case, mean_context, train

from publius.inference.bench import bench_engine
from publius.model import ModelConfig
from publius.model.packed import Kernel
from publius.pipeline.hardware import HARDWARE

KERNELS: tuple[Kernel, ...] = ("sdpa", "flex", "varlen")
ENGINE = "engine"
FORMULA = "tokens/s x (6 x weights in products + 6 x layers x heads x head_dim x row) / peak FLOP/s"


class Part(NamedTuple):
    """One speed to measure."""

    name: str
    shape: ModelConfig
    sequence_length: int
    rows: int
    seconds: float
    """Its time limit."""
    recompute: bool = False
    per_window: int = 5
    alone: bool = False
    """Every row is one document: no kernel but SDPA's causal one is ever taken."""


def _shape(vocab: int, width: int, layers: int, heads: int, kv: int, inner: int, longest: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab, hidden_size=width, layers=layers, heads=heads, kv_heads=kv, head_dim=width // heads,
        intermediate_size=inner, max_position=longest, rope_theta=500_000.0,
    )  # fmt: skip


PARTS = [
    Part("350M", _shape(50_304, 1024, 26, 16, 4, 2816, 2048), 2048, 32, 90.0),
    Part("350M at 32k", _shape(50_304, 1024, 26, 16, 4, 2816, 32_768), 32_768, 2, 100.0, per_window=2),
    Part(
        "350M at 32k, whole", _shape(50_304, 1024, 26, 16, 4, 2816, 32_768), 32_768, 2, 80.0, False, 2, True
    ),
    Part("1B", _shape(50_304, 2048, 16, 32, 8, 7168, 2048), 2048, 16, 100.0),
    Part("125M", _shape(50_304, 768, 14, 12, 4, 2048, 2048), 2048, 64, 80.0),
]
"""In the order of what there is most to learn from, should the time not do for all."""
TINY = [
    Part("tiny", _shape(512, 64, 2, 2, 1, 128, 128), 128, 2, 120.0, False, 2),
    Part("tiny, long", _shape(512, 64, 2, 2, 1, 128, 512), 512, 1, 120.0, True, 2),
]


WRITING = (_shape(50_304, 2048, 16, 32, 8, 7168, 2048), (1, 256), 128, 64)
WRITING_TINY = (_shape(512, 64, 2, 2, 1, 128, 128), (1, 4), 16, 8)
"""Shape, rows, tokens of a prompt, new tokens."""


def peak_of(name: str) -> float | None:
    """FLOP/s on the data sheet of the card with this name; None when it is not in the table."""
    known = next((key for key in ("gb200", "b200", "h200", "h100", "a100") if key in name.lower()), None)
    return HARDWARE[known].peak_flops if known else None


def case_of(part: Part, device: str, compiled: bool, kernel: Kernel = "sdpa") -> Case:
    """The case of a part."""
    return Case(
        side="ours", shape=part.shape, sequence_length=part.sequence_length, rows=part.rows, device=device,
        compiled=compiled, muon=True, recompute=part.recompute, attention=kernel, alone=part.alone, warm=3,
        windows=3, per_window=part.per_window,
    )  # fmt: skip


def speed_row(
    part: Part,
    result: Mapping[str, Any],
    case: Case,
    peak: float | None,
    ceiling: float,
    dense: Sequence[float] | None = None,
) -> dict[str, Any]:
    """What the table and the JSON say of a part.

    Args:
        part: what was measured.
        result: of the child.
        case: what it was asked for.
        peak: FLOP/s on the data sheet.
        ceiling: FLOP/s of the best product.
        dense: the losses of the same part with `sdpa`.
    """
    row: dict[str, Any] = {
        "part": part.name, "mode": case.mode, "attention": case.attention, "weights": part.shape.parameters()
    }  # fmt: skip
    if "error" in result:
        return row | {"error": result["error"]}
    rate = result["tokens_per_second"]
    flops = part.shape.flops_per_token(part.sequence_length) * rate
    needed = part.shape.flops_per_token(max(1, round(2 * mean_context(case)))) * rate
    gap = None if dense is None else max(abs(a - b) for a, b in zip(dense, result["losses"], strict=True))
    return row | {
        "tokens_per_second": rate,
        "spread": result["spread"],
        "mfu": None if peak is None else flops / peak,
        "mfu_documents": None if peak is None else needed / peak,
        "of_ceiling": flops / ceiling,
        "loss_gap": gap,
        "peak_bytes": result["peak_bytes"],
        "first_loss": result["first_loss"],
        "last_loss": result["last_loss"],
    }


def speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row a part."""
    head = ["model", "mode", "tokens/s", "spread", "MFU", "MFU within documents", "of measured ceiling",
            "peak GB", "loss", "loss gap"]  # fmt: skip
    lines: list[list[str]] = []
    for row in rows:
        start = [f"{row['part']} ({row['weights'] / 1e6:.0f}M)", row["mode"]]
        if "error" in row:
            lines.append([*start, row["error"], *[""] * (len(head) - 3)])
            continue
        lines.append(
            [
                *start,
                f"{row['tokens_per_second']:,.0f}",
                f"{row['spread']:.0%}",
                *("no data sheet" if row[x] is None else f"{row[x]:.1%}" for x in ("mfu", "mfu_documents")),
                f"{row['of_ceiling']:.1%}",
                f"{row['peak_bytes'] / 1e9:.2f}",
                f"{row['first_loss']:.2f} to {row['last_loss']:.2f}",
                "" if row["loss_gap"] is None else f"{row['loss_gap']:.3f}",
            ]
        )
    return markdown(head, lines)


def check_table(checks: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row a check."""
    rows = [
        [check["name"], check["error"], "", "FAILED"]
        if "error" in check
        else [check["name"], f"{check['value']:.3g}", f"{check['limit']:g}", "ok" if check["ok"] else "WRONG"]
        for check in checks
    ]
    return markdown(["check", "found", "at most", ""], rows)


def writing_table(result: Mapping[str, Any]) -> str:
    """Markdown: one row a dtype and number of rows."""
    head = ["weights", "rows", "read, tokens/s", "written, tokens/s", "of the roofline"]
    rows = [
        [line["dtype"], str(line["rows"]), f"{line['read_per_second']:,.0f}",
         f"{line['written_per_second']:,.0f}", f"{line['reached']:.0%}"]
        for line in result.get("lines", [])
    ]  # fmt: skip
    return markdown(head, rows or [[result.get("error", "nothing was measured"), "", "", "", ""]])


class Budget:
    """Runs children while there is time.

    Args:
        seconds: in all.
        ask: starts a child; (handler, payload, limit) -> result.
    """

    def __init__(self, seconds: float, ask: Callable[[str, dict[str, Any], float], dict[str, Any]]) -> None:
        self._end, self._ask = time.monotonic() + seconds, ask

    def run(self, name: str, handler: str, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The child's result, or why there is none."""
        left = self._end - time.monotonic()
        if left < min(10.0, seconds):
            return {"error": "no time left"}
        begun = time.monotonic()
        result = self._ask(handler, payload, min(seconds, left))
        say(f"{name}: {result.get('error', 'done')} ({time.monotonic() - begun:.0f} s)")
        return result


def correctness(budget: Budget, device: str, tiny: bool) -> list[dict[str, Any]]:
    """Every check; a child that failed is one that is not ok."""
    found: list[dict[str, Any]] = []
    for handler in ("logits", "curve"):
        result = budget.run(handler, handler, {"device": device, "tiny": tiny}, 90.0)
        if "error" in result:
            found.append({"name": handler, "ok": False, "error": result["error"]})
        found += result.get("checks", [])
    return found


def kernels_right(
    budget: Budget, device: str, tiny: bool, kernels: Sequence[Kernel]
) -> tuple[list[dict[str, Any]], list[Kernel]]:
    """Checks of the kernels, and those whose checks in the dtype of the speeds are all ok.

    `sdpa` is what the others are held to.
    """
    found: list[dict[str, Any]] = []
    right: list[Kernel] = [kernel for kernel in kernels if kernel == "sdpa"]
    for kernel in kernels:
        if kernel == "sdpa":
            continue
        answers: dict[str, list[dict[str, Any]]] = {}
        for dtype in ("bfloat16", "float32"):
            if dtype == "float32" and kernel == "varlen":
                continue  # FlashAttention has none
            name, payload = f"attention {kernel} {dtype}", {"kernel": kernel, "dtype": dtype}
            result = budget.run(name, "attention", payload | {"device": device, "tiny": tiny}, 90.0)
            failed = [{"name": name, "ok": False, "error": result["error"]}] if "error" in result else []
            answers[dtype] = failed + result.get("checks", [])
            found += answers[dtype]
        if all(check["ok"] for check in answers["bfloat16"]):
            right.append(kernel)
    return found, right


def speeds(
    budget: Budget,
    options: argparse.Namespace,
    kernels: Sequence[Kernel],
    peak: float | None,
    ceiling: float,
) -> list[dict[str, Any]]:
    """Every part with every kernel, compiled; eager too where that failed."""
    rows: list[dict[str, Any]] = []
    for part in TINY if options.tiny else PARTS:
        dense: list[float] | None = None
        wanted = options.parts is None or part.name in options.parts
        chosen: Sequence[Kernel] = ("sdpa",) if part.alone else kernels
        for kernel in chosen if wanted else ():
            for compiled in (False,) if options.eager else (True, False):
                case = case_of(part, options.device, compiled, kernel)
                name = f"{part.name} {case.mode}"
                result = budget.run(name, "speed", case.model_dump(mode="json"), part.seconds)
                rows.append(speed_row(part, result, case, peak, ceiling, dense))
                if "error" not in result:
                    dense = result["losses"] if kernel == "sdpa" else dense
                    break
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="two tiny models: the same path, in a minute")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--attention", nargs="+", choices=KERNELS, help="kernels; all on cuda, sdpa on cpu")
    names = [*(part.name for part in PARTS + TINY), ENGINE]
    parser.add_argument("--parts", nargs="+", choices=names, help="what to measure; all by default")
    parser.add_argument("--budget", type=float, default=465.0, help="seconds in all")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--threads", type=int, default=cores())
    return parser.parse_args()


def main() -> None:
    """Check, measure, record, print."""
    options = arguments()

    def ask(handler: str, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        return child(Path(__file__), handler, payload, seconds=seconds, threads=options.threads)

    budget = Budget(options.budget, ask)
    machine = budget.run("ceiling", "ceiling", {"device": options.device, "tiny": options.tiny}, 60.0)
    checks = [{"name": "the device answers", "ok": False, **machine}] if "error" in machine else []
    checks = checks or correctness(budget, options.device, options.tiny)
    right = all(check["ok"] for check in checks)
    print(check_table(checks), end="\n\n")
    rows: list[dict[str, Any]] = []
    written: dict[str, Any] = {}
    peak = peak_of(machine.get("name", ""))
    if right:
        asked = options.attention or (KERNELS if options.device == "cuda" else ("sdpa",))
        more, kernels = kernels_right(budget, options.device, options.tiny, asked)
        if more:
            print(check_table(more), end="\n\n")
        rows = speeds(budget, options, kernels, peak, machine["ceiling"])
        print(speed_table(rows), end="\n\n")
        if options.parts is None or ENGINE in options.parts:
            payload = {"device": options.device, "tiny": options.tiny}
            written = budget.run("engine", "engine", payload, 100.0)
            print(writing_table(written), end="\n\n")
        print(f"MFU = {FORMULA}, causal attention counted once")
        print(
            f"peak: {'unknown' if peak is None else f'{peak:.4g}'} FLOP/s; measured: {machine['ceiling']:.4g}"
        )
        checks += more
    else:
        print("not right: no speed was measured")
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    cpu = torch.device("cpu")
    record = record_of(
        cpu if "error" in machine else torch.device(options.device), settings=settings, machine=machine,
        peak_flops=peak, mfu=FORMULA, checks=checks, speeds=rows, engine=written,
    )  # fmt: skip
    say(f"written: {write_record(options.out, 'gpu-tiny' if options.tiny else 'gpu', record)}")
    if not all(check["ok"] for check in checks):
        raise SystemExit(1)


def _ceiling(payload: dict[str, Any]) -> dict[str, Any]:
    device = torch.device(payload["device"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    sizes = [256] if payload["tiny"] else [4096, 8192, 16_384]
    return {"name": name, "ceiling": matmul_ceiling(device, torch.bfloat16, sizes)}


def _small(tiny: bool) -> ModelConfig:
    return TINY[0].shape if tiny else _shape(8192, 384, 4, 6, 2, 1024, 512)


def _logits(payload: dict[str, Any]) -> dict[str, Any]:
    checks = logit_checks(_small(payload["tiny"]), torch.device(payload["device"]))
    return {"checks": [{**check._asdict(), "ok": check.ok} for check in checks]}


def _curve(payload: dict[str, Any]) -> dict[str, Any]:
    checks = curve_checks(_curve_shape(payload["tiny"]), payload["device"])
    return {"checks": [{**check._asdict(), "ok": check.ok} for check in checks]}


def _attention(payload: dict[str, Any]) -> dict[str, Any]:
    kernel, device = payload["kernel"], torch.device(payload["device"])
    bf16 = payload["dtype"] == "bfloat16"
    checks = kernel_checks(kernel, device, torch.bfloat16 if bf16 else torch.float32)
    if bf16 and device.type == "cuda":
        checks.append(kernel_curve(kernel, _curve_shape(payload["tiny"]), payload["device"]))
    return {"checks": [{**check._asdict(), "ok": check.ok} for check in checks]}


def _curve_shape(tiny: bool) -> ModelConfig:
    return TINY[0].shape if tiny else _shape(2048, 192, 4, 6, 2, 512, 128)


def _speed(payload: dict[str, Any]) -> dict[str, Any]:
    return train(Case.model_validate(payload))


def _engine(payload: dict[str, Any]) -> dict[str, Any]:
    shape, rows, prompt, tokens = WRITING_TINY if payload["tiny"] else WRITING
    found = bench_engine(shape, torch.device(payload["device"]), prompt=prompt, tokens=tokens, rows=rows)
    return found.as_dict()


if __name__ == "__main__":
    handlers = {"ceiling": _ceiling, "logits": _logits, "curve": _curve, "attention": _attention}
    entry(main, handlers | {"speed": _speed, "engine": _engine})
