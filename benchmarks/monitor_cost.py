"""What reading a probe at every drawn token costs the engine, on this CPU.

    python benchmarks/monitor_cost.py --out docs/results
    python benchmarks/monitor_cost.py --quick

Rows of random prompts decode greedily at the 10M shape of `train_vs_hf.py`, fresh weights. Where 2% is to be
seen the machine's own unrest is larger: so within a run every other step reads a probe and those between do
not, and a run gives the median step of either kind. Of their ratios the median and quartiles are reported.
Steps are those after every row's first token; time is this process's own, of one thread unless told, so that
what else runs here is not counted. `--quick` is a smoke test, not a measurement.

That is what the engine pays for the readings. Two things are timed besides, each as a share of the time in
which such rows decode, prompts included: looking at every token (averages, and the words), and what a second
stage does about one flagged reply, from its prompt to its end, in the pieces of a cascade. The whole is the
first two, and the third times the share of replies that is flagged (`--flagged`).

*Served* is the same measured as a whole: replies through a server without HTTP (`monitored.py`), in turn
without monitors, with the engine's readings only, with both layers looking at each token or at the tokens
that have gathered, and with a share of the replies flagged. `--only` does one of the parts.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import FIRST_ID, SHAPES, WIDTHS, our_engine
from harness import child, entry, extra, markdown, options_of, record_of, say, write_record
from monitored import ARMS, SAID, Serving, Work, layers, probe_of, time_serving

from publius.core.messages import Conversation, user
from publius.inference import Engine, Request, Sampling
from publius.inference.readings import Probe
from publius.safety.monitor import Monitors

COST = 0.02
"""What is asked: so much more time at most."""
LETTERS = 4
"""Of a token."""
PARTS = ("steps", "served")


def decode(engine: Engine, work: Work, number: int, probe: Probe) -> list[float]:
    """Seconds of the median step that reads and of the median one that does not."""
    rng, ids = random.Random(number), range(FIRST_ID, SHAPES[work.size].vocab_size)
    sampling = Sampling(max_tokens=work.new, temperature=0.0)
    requests: list[Request] = [
        engine.submit(rng.choices(ids, k=work.prompt), sampling, probe=probe) for _ in range(work.rows)
    ]
    while not all(request.tokens for request in requests):
        engine.step()
    found: tuple[list[float], list[float]] = ([], [])
    more, step = True, number
    while more:
        reads = step % 2
        for request in requests:
            request.probe = probe if reads else None
        begun = time.process_time()
        more = engine.step()
        found[1 - reads].append(time.process_time() - begun)
        step += 1
    requests[-1].probe = probe  # readings are the probe's: the last step may have taken it away
    read: list[bool] = [bool(np.isfinite(row).all()) for row in requests[-1].readings[1:]]
    if any(now == before for now, before in itertools.pairwise(read)):  # of the last to come in, every other
        raise AssertionError(f"a token was drawn and not read, or read unasked: {read}")
    return [statistics.median(side) for side in found]


def time_pairs(work: Work) -> dict[str, Any]:
    """In a child: seconds of a step with and without, of every run."""
    engine, probe = our_engine(SHAPES[work.size], work.dtype), probe_of(work)
    return {"pairs": [decode(engine, work, number, probe) for number in range(work.runs + 1)][1:]}


def time_second(work: Work) -> dict[str, Any]:
    """In a child, of every run: seconds of the second stage's work on a reply, of looking at a reply, and of
    decoding one."""
    probe = probe_of(work)
    engine = our_engine(SHAPES[work.size], work.dtype, trunk=True)
    first, cascade = layers(engine.model, probe)
    monitors, asked = Monitors([first, cascade]), Conversation(messages=(user("What is new?"),))
    ids = range(FIRST_ID, SHAPES[work.size].vocab_size)
    sampling = Sampling(max_tokens=work.new, temperature=0.0)
    assert monitors.probe is not None
    rows = np.zeros((work.new, len(monitors.probe)), np.float32)
    text = (SAID * (1 + LETTERS * work.new // len(SAID)))[: LETTERS * work.new]
    found: list[list[float]] = []
    for number in range(work.runs + 1):
        rng = random.Random(number)
        requests: list[Request] = [
            engine.submit(rng.choices(ids, k=work.prompt), sampling, probe=probe) for _ in range(work.rows)
        ]
        begun = time.process_time()
        while engine.step():
            pass
        decoded = (time.process_time() - begun) / work.rows
        drawn = requests[0].tokens
        begun = time.process_time()
        kept = requests[0].trunk
        reading = cascade.second.begin(requests[0].prompt, None if kept is None else kept.values_TD)
        for count in range(0, work.new, cascade.every):
            reading.more(drawn[count : count + cascade.every])
        passes = time.process_time() - begun
        begun = time.process_time()
        watching = monitors.watch(asked, prompt=requests[0].prompt)
        for count in range(1, work.new + 1):
            said, done = text[: LETTERS * count], count == work.new
            if watching.reply(said, rows[:count], done=done, drawn=drawn[:count])[0].action != "allow":
                raise AssertionError("what should only be looked at was stopped")
        found.append([passes, time.process_time() - begun, decoded])
    return {"runs": found[1:]}


def told_whole(engine: dict[str, Any], second: dict[str, Any], flagged: float) -> str:
    """What both stages cost together, in words."""
    if "error" in engine or "error" in second:
        return f"not measured: {engine.get('error') or second.get('error')}"
    reading = extra(engine["pairs"])["median"]
    passes, looking = (statistics.median(run[part] / run[2] for run in second["runs"]) for part in (0, 1))
    whole = reading + looking + flagged * passes
    return (
        f"reading {reading:+.2%}, looking {looking:+.2%}, and the second stage {passes:.0%} of a flagged "
        f"reply's decoding: with {flagged:.1%} flagged {whole:+.2%}, {'met' if whole <= COST else 'missed'}"
    )


def served_table(results: list[tuple[Serving, dict[str, Any]]]) -> str:
    """Markdown: of every shape and number of rows, what each way to serve adds to serving with none."""
    rows: list[list[str]] = []
    for work, result in results:
        told = work.size, str(work.rows)
        if "error" in result:
            rows.append([*told, result["error"], *[""] * len(ARMS)])
            continue
        rounds = result["rounds"]
        base = statistics.median(one[ARMS[0]] for one in rounds)
        more = [extra([[one[arm], one[ARMS[0]]] for one in rounds]) for arm in ARMS[1:]]
        cells = [f"{one['median']:+.1%} ({one['low']:+.1%} to {one['high']:+.1%})" for one in more]
        met = "met" if more[-1]["median"] <= COST else "missed"
        rows.append([*told, f"{1e6 * base:.0f} us", *cells, met])
    flagged = " and ".join(sorted({f"{work.flagged:.0%}" for work, _ in results}))
    head = [
        "served",
        "rows",
        "a token",
        "reads",
        "and looks at each",
        "and looks",
        f"and {flagged} flagged",
        f"at most {COST:.0%}",
    ]
    return markdown(head, rows)


def cases(work: Work) -> list[Work]:
    """One row and many, one output and sixteen, and three layers more."""
    many = {"rows": 32, "outputs": 16, "layers": (2, 4)}
    return [
        work.model_copy(update={"rows": 1}),
        work,
        work.model_copy(update={"rows": 32}),
        work.model_copy(update={"outputs": 16}),
        work.model_copy(update=many),
    ]


def table(results: list[tuple[Work, dict[str, Any]]]) -> str:
    """Markdown: a case a line."""
    rows: list[list[str]] = []
    for work, result in results:
        told = f"{work.size} {work.dtype}", str(work.rows), str(work.outputs), str(len(work.layers) + 1)
        if "error" in result:
            rows.append([*told, result["error"], "", ""])
            continue
        with_it, without = (statistics.median(side) for side in zip(*result["pairs"], strict=True))
        more = extra(result["pairs"])
        rows.append(
            [
                *told,
                f"{work.rows / with_it:,.0f} / {work.rows / without:,.0f}",
                f"{more['median']:+.2%} ({more['low']:+.2%} to {more['high']:+.2%})",
                "met" if more["median"] <= COST else "missed",
            ]
        )
    head = ["model", "rows", "outputs", "states", "tokens/s with / without", "time", f"at most {COST:.0%}"]
    return markdown(head, rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "1M, few and short rows", 900.0)
    parser.add_argument("--size", choices=list(SHAPES), default="10M")
    parser.add_argument("--dtype", choices=list(WIDTHS), default="float32")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--flagged", type=float, default=0.1, help="share of replies a first stage flags")
    parser.add_argument("--only", choices=PARTS, default=None, help="one part; without: all")
    parser.add_argument("--served", nargs="+", choices=list(SHAPES), default=["1M", "10M"], metavar="SIZE")
    parser.add_argument("--served-rows", nargs="+", type=int, default=[1, 8, 32], metavar="ROWS")
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    if options.quick:
        options.size, options.runs, options.served, options.served_rows = "1M", 2, ["1M"], [2]
    return options


def measure_steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the readings cost the engine, and both stages by themselves."""
    base = Work(size=options.size, dtype=options.dtype, runs=options.runs, new=8 if options.quick else 64)
    found: list[tuple[Work, dict[str, Any]]] = []
    for work in cases(base)[: 2 if options.quick else None]:
        payload = work.model_dump(mode="json")
        result = child(Path(__file__), "pairs", payload, seconds=options.limit, threads=options.threads)
        told = result.get("error") or extra(result["pairs"])
        say(f"{work.rows} rows, {work.outputs} outputs, {len(work.layers) + 1} states: {told}")
        found.append((work, result))
    print(table(found))
    seconds: list[tuple[Work, dict[str, Any]]] = []
    for work, result in found:
        if work.outputs == 1:
            payload = work.model_dump(mode="json")
            second = child(Path(__file__), "second", payload, seconds=options.limit, threads=options.threads)
            print(f"{work.rows} rows: {told_whole(result, second, options.flagged)}")
            seconds.append((work, second))
    lines = [{"work": work.model_dump(mode="json"), **result} for work, result in found]
    return lines + [{"work": work.model_dump(mode="json"), "second": result} for work, result in seconds]


def measure_served(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What monitors cost where replies are served."""
    found: list[tuple[Serving, dict[str, Any]]] = []
    for size in options.served:
        for rows in options.served_rows:
            new = 8 if options.quick else 64
            work = Serving(size=size, rows=rows, new=new, rounds=options.runs, flagged=options.flagged)
            payload = work.model_dump(mode="json")
            result = child(Path(__file__), "served", payload, seconds=options.limit, threads=options.threads)
            say(f"served, {size}, {rows} rows: {result.get('error') or 'done'}")
            found.append((work, result))
    print(served_table(found))
    return [{"serving": work.model_dump(mode="json"), **result} for work, result in found]


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    lines: list[dict[str, Any]] = []
    for part, measure in zip(PARTS, (measure_steps, measure_served), strict=True):
        if options.only in (None, part):
            lines += measure(options)
    if options.out is not None:
        plain = {name: value for name, value in vars(options).items() if name != "out"}
        record = record_of(torch.device("cpu"), settings=plain, results=lines)
        say(f"written: {write_record(options.out, 'monitor-cost', record)}")


if __name__ == "__main__":
    entry(
        main,
        {
            "pairs": lambda payload: time_pairs(Work.model_validate(payload)),
            "second": lambda payload: time_second(Work.model_validate(payload)),
            "served": lambda payload: time_serving(Serving.model_validate(payload)),
        },
    )
