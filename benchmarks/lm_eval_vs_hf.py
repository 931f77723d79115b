"""lm-eval's benchmarks through our model class and through its own, `hf`: the same scores, and the time.

    python benchmarks/lm_eval_vs_hf.py --data FOLDER --text FILE --out docs/results
    python benchmarks/lm_eval_vs_hf.py --data FOLDER --model CHECKPOINT --items 20

Needs `pip install 'publius[eval]' transformers accelerate`. FOLDER holds the files of `FILES`. Without
`--model` a Llama of random weights is written (`--size`), with a vocabulary of 16,384 trained on `--text`:
what a text costs does not depend on what weights know. Its embeddings are enlarged so that choices differ.

Both sides run in processes of their own, one at a time, with the same threads, the same tasks, questions and
lm-eval; only the model class differs. `hf` runs with every batch size of `--batches` (`auto` is its own
search, up to 16: on a CPU nothing stops it before memory is spent), and the fastest counts for each task.
Loading is not timed; building prompts and marking is, for both. Processor seconds are those of all threads
and of the programs that HumanEval runs.

Equality is of fp32: metrics, the log-likelihood of every choice, and HumanEval's texts. Greedy texts may part
where two tokens are equally likely to the last digits.

`--quick` is a smoke test with a tiny model, not a measurement.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from harness import child, entry, markdown, options_of, record_of, say, write_record

from publius.core.errors import UserError
from publius.data.sources import read_documents
from publius.evals.lm.harness import Leaf, dressed, need_harness, quiet
from publius.evals.lm.model import EngineLM
from publius.evals.lm.run import leaves_of
from publius.model import ModelConfig, Transformer
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.tokenizer.bpe import TokenizerConfig, train_bpe

FILES = {
    "arc_easy": "arc_easy_test.jsonl.gz",
    "mmlu": "mmlu_half_test.jsonl.xz",
    "mmlu_dev": "mmlu_half_dev.jsonl.gz",
    "winogrande": "winogrande_val.jsonl.gz",
    "truthfulqa": "truthfulqa_mc.jsonl.gz",
    "humaneval": "humaneval.jsonl.gz",
}
TASKS = ["arc_easy", "mmlu", "winogrande", "truthfulqa_mc1", "truthfulqa_mc2", "humaneval"]
SIZES = {
    "2M": {"hidden_size": 128, "layers": 4, "heads": 4, "kv_heads": 2, "intermediate_size": 352},
    "30M": {"hidden_size": 512, "layers": 8, "heads": 8, "kv_heads": 4, "intermediate_size": 1408},
    "125M": {"hidden_size": 768, "layers": 16, "heads": 12, "kv_heads": 4, "intermediate_size": 2048},
}
VOCABULARY, CONTEXT, TEXT_BYTES = 16_384, 2048, 20_000_000
AUTO_MOST = 16
SAME = 1e-3
DEMANDED = 2.0


def make_checkpoint(folder: Path, size: str, texts: Sequence[str]) -> None:
    """A Llama of random weights that can tell choices apart, with a tokenizer trained on `texts`."""
    told, read = 0, list[str]()
    for document in read_documents(texts):
        read.append(document.text)
        told += len(document.text)
        if told > TEXT_BYTES:
            break
    tokenizer = train_bpe(read, TokenizerConfig(vocab_size=VOCABULARY))
    shape = SIZES[size]
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, head_dim=shape["hidden_size"] // shape["heads"],
        max_position=CONTEXT, tie_embeddings=True, **shape,
    )  # fmt: skip
    model = Transformer(config, seed=0).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(5.0)
    save_checkpoint(folder, model, tokenizer)


class Timed:
    """Wall and processor seconds of this process, its threads and its children."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _processor()

    def seconds(self) -> tuple[float, float]:
        """Since it was made."""
        return time.perf_counter() - self._wall, _processor() - self._cpu


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def side(payload: dict[str, Any]) -> dict[str, Any]:
    """In a child: every task through one model class; for each its scores, its answers and its time."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    need_harness()
    evaluate = importlib.import_module("lm_eval.evaluator").evaluate
    lm = _model(payload)
    found: dict[str, Any] = {}
    for task in payload["tasks"]:
        leaves = leaves_of([task], payload["files"])
        for leaf in leaves:
            if leaf.task.get_config("output_type") == "generate_until":
                leaf.task.set_config("generation_kwargs", {"max_gen_toks": payload["new"]}, update=True)
        limit = -(-payload["items"] // len(leaves))
        with quiet():
            timed = Timed()
            results = evaluate(
                lm=lm, task_dict={leaf.name: leaf.task for leaf in leaves}, limit=limit, bootstrap_iters=0
            )
            wall, cpu = timed.seconds()
        found[task] = {"wall": wall, "cpu": cpu, **_scores(leaves, results["samples"])}
        say(f"  {payload['name']:24s} {task:16s} {wall:8.1f} s {cpu:8.1f} processor s")
    return found


def _model(payload: Mapping[str, Any]) -> Any:
    dtype = getattr(torch, payload["dtype"])
    folder = Path(payload["model"])
    if payload["side"] == "ours":
        return dressed(EngineLM.of(Checkpoint(folder), dtype=dtype))
    peer = importlib.import_module("lm_eval.models.huggingface").HFLM
    return peer(
        pretrained=str(folder), dtype=payload["dtype"], device="cpu", batch_size=payload["batch"],
        max_batch_size=AUTO_MOST,
    )  # fmt: skip


def _scores(leaves: Sequence[Leaf], samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each metric's mean, and every answer in order: (log-likelihood, greedy) of choices, or a text."""
    asked = [sample for leaf in leaves for sample in samples[leaf.name]]
    means = {m: sum(float(s[m]) for s in asked) / len(asked) for m in asked[0]["metrics"]}
    answers = [answer for sample in asked for responses in sample["resps"] for answer in responses]
    return {"n": len(asked), "metrics": means, "answers": answers}


def compare(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> dict[str, Any]:
    """One task, answered by both: what differs, and by how much.

    Log-likelihood differences are absolute, in nats, over a whole choice.
    """
    gaps = {m: abs(value - peer["metrics"][m]) for m, value in ours["metrics"].items()}
    pairs = list(zip(ours["answers"], peer["answers"], strict=True))
    line: dict[str, Any] = {"n": ours["n"], "metrics": ours["metrics"], "theirs": peer["metrics"]}
    line |= {"metric_gap": max(gaps.values()), "answers": len(pairs)}
    if isinstance(pairs[0][0], str):
        line["same_texts"] = sum(a == b for a, b in pairs) / len(pairs)
    else:
        off = [abs(a[0] - b[0]) for a, b in pairs]
        line |= {"largest_gap": max(off), "mean_gap": sum(off) / len(off)}
        line["same_greedy"] = sum(a[1] == b[1] for a, b in pairs) / len(pairs)
    return line


def best(found: Mapping[str, Any], names: Sequence[str], task: str) -> tuple[str, dict[str, Any]] | None:
    """The mode of `names` that took the least wall time for a task; None when none did it."""
    done = [(name, found[name][task]) for name in names if task in found[name]]
    return min(done, key=lambda pair: pair[1]["wall"]) if done else None


def ratios(found: Mapping[str, Any], tasks: Sequence[str], dtype: str) -> dict[str, Any]:
    """Their best time over ours, for each task and all together, in one dtype."""
    ours = f"ours:{dtype}"
    peers = [name for name in found if name.startswith(f"hf:{dtype}:")]
    lines: dict[str, Any] = {}
    sums = {"ours": [0.0, 0.0], "hf": [0.0, 0.0]}
    for task in tasks:
        top = best(found, peers, task)
        if task not in found.get(ours, {}) or top is None:
            continue
        name, theirs = top
        mine = found[ours][task]
        for place, kind in enumerate(("wall", "cpu")):
            sums["ours"][place] += mine[kind]
            sums["hf"][place] += theirs[kind]
        lines[task] = {
            "ours": mine["wall"], "hf": theirs["wall"], "mode": name, "wall": theirs["wall"] / mine["wall"],
            "cpu": theirs["cpu"] / mine["cpu"],
        }  # fmt: skip
    if lines:
        (mine, my_cpu), (peer, peer_cpu) = sums["ours"], sums["hf"]
        lines["all"] = {"ours": mine, "hf": peer, "mode": "", "wall": peer / mine, "cpu": peer_cpu / my_cpu}
    return lines


def fast_enough(times: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether what is asked for holds in every dtype; not where a side failed in one."""
    return all(bool(lines) and lines["all"]["wall"] >= DEMANDED for lines in times.values())


def modes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Who runs how, in the order they take turns."""
    asked: list[dict[str, Any]] = []
    for dtype in options.dtypes:
        asked.append({"name": f"ours:{dtype}", "side": "ours", "dtype": dtype})
        asked += [
            {"name": f"hf:{dtype}:{batch}", "side": "hf", "dtype": dtype, "batch": batch}
            for batch in options.batches
        ]
    return asked


def measure(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """What each mode found; of several rounds the least time for each task."""
    files = {name: str(options.data / file) for name, file in FILES.items()}
    missing = [file for file in files.values() if not Path(file).is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing", where="--data", fix="give the folder that holds it")
    shared = {"files": files, "tasks": options.tasks, "items": options.items, "new": options.new,
              "model": str(model)}  # fmt: skip
    found: dict[str, Any] = {}
    for _, mode in itertools.product(range(options.rounds), modes(options)):
        result = child(
            Path(__file__), "side", mode | shared, seconds=options.limit, threads=options.threads, show=True
        )
        if "error" in result:
            say(f"  {mode['name']}: {result['error']}")
            continue
        before = found.setdefault(mode["name"], result)
        for task, one in result.items():
            if one["wall"] < before[task]["wall"]:
                before[task] = one
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "2M weights, a few questions, one batch size", limit=3600.0)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of questions")
    parser.add_argument("--model", type=Path, default=None, help="a checkpoint's folder; else one is made")
    parser.add_argument("--size", choices=list(SIZES), default="30M", help="of the one that is made")
    parser.add_argument("--text", nargs="+", default=None, help="what its tokenizer is trained on")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--items", type=int, default=200, help="questions of a task, about")
    parser.add_argument("--new", type=int, default=256, help="most new tokens of HumanEval")
    parser.add_argument("--batches", nargs="+", default=["1", "4", "16", "auto"], help="of hf")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=None)
    parser.add_argument("--rounds", type=int, default=1, help="every mode in each; the least time counts")
    options = parser.parse_args()
    options.dtypes = options.dtypes or ["float32", "bfloat16"]
    if options.quick:
        options.size, options.items, options.new = "2M", 2, 4
        options.batches, options.dtypes = ["4"], ["float32"]
    if options.model is None and not options.text:
        parser.error("give --model, or --text to train a tokenizer on")
    return options


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    need_harness()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder)
        if options.model is None:
            make_checkpoint(model, options.size, options.text)
        config = Checkpoint(model).config()
        say(f"{config.parameters() / 1e6:.1f}M weights, {config.vocab_size} ids")
        found = measure(options, model)
    report(options, config, found)


def report(options: argparse.Namespace, config: ModelConfig, found: Mapping[str, Any]) -> None:
    """Print the tables; write the JSON when asked to; exit 1 where scores differ."""
    peer = next((name for name in found if name.startswith("hf:float32:")), None)
    if peer is None or "ours:float32" not in found:
        raise UserError("a side failed, so nothing can be compared", where="see above", fix="mend it")
    same = {task: compare(found["ours:float32"][task], found[peer][task]) for task in options.tasks}
    head = ["task", "n", "metrics: ours", "theirs", "largest gap in log-likelihood", "same greedy, or text"]
    rows = [
        [task, str(s["n"]), _means(s["metrics"]), _means(s["theirs"]), f"{s.get('largest_gap', 0):.2e}",
         f"{s.get('same_greedy', s.get('same_texts', 0)):.1%}"]
        for task, s in same.items()
    ]  # fmt: skip
    print(markdown(head, rows), end="\n\n")
    times = {dtype: ratios(found, options.tasks, dtype) for dtype in options.dtypes}
    rows = [
        [dtype, task, f"{r['ours']:.1f}", f"{r['hf']:.1f}", r["mode"].rpartition(":")[2], f"{r['wall']:.2f}",
         f"{r['cpu']:.2f}"]
        for dtype, lines in times.items() for task, r in lines.items()
    ]  # fmt: skip
    print(markdown(["dtype", "task", "ours, s", "hf, s", "its batch", "ratio", "of processor time"], rows))
    equal = all(s["metric_gap"] <= SAME for s in same.values())
    fast = fast_enough(times)
    print(f"\nscores equal to {SAME}: {equal}; {DEMANDED:g} times as fast over all: {fast}")
    if options.out is not None:
        kept = {
            name: {task: {k: v for k, v in one.items() if k != "answers"} for task, one in result.items()}
            for name, result in found.items()
        }
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "out"}
        plain |= {"data": options.data.name, "text": [Path(text).name for text in options.text or []]}
        record = record_of(
            torch.device("cpu"), lm_eval=metadata.version("lm_eval"),
            settings=plain, model=config.model_dump(mode="json"), equality=same, ratios=times, modes=kept,
        )  # fmt: skip
        say(f"written: {write_record(options.out, 'lm-eval-vs-hf', record)}")
    if not equal:
        sys.exit(1)


def _means(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


if __name__ == "__main__":
    entry(main, {"side": side})
