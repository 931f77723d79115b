"""garak against our own endpoint, and what our judge says of what it found.

    python benchmarks/garak_run.py --garak ENV/bin/python --home HOME --out docs/results  # a quarter hour
    python benchmarks/garak_run.py --report FILE --labels LABELS --home HOME  # judged again only

ENV is a virtual environment with garak in it (`pip install garak`): its dependencies and ours do not agree.
HOME holds a finished run of `quickstart`. The released model is served on a free port of this machine,
garak attacks it through the OpenAI dialect with probes that download nothing, and its report is read back
(`publius.redteam.garak`). Then the large tier, measured on a gold set of attacks on the same model, grades
every reply. With `--labels` (`{"id": ..., "label": ...}` a line, by a person who has read the replies; the
id is `publius.redteam.findings.conversation_id` of conversation and reply) a second estimate takes its safe
gold from those, and so from garak's own kind of exchange. The record holds counts only: some of garak's
prompts are harmful in the real world.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml
from harness import markdown, record_of, say, write_record
from judged_attacks import ASKED, attacked, once

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint
from publius.redteam import Findings
from publius.redteam.estimates import corrected
from publius.redteam.findings import conversation_id
from publius.redteam.garak import GarakAttempt, GarakConfig, garak_findings, garak_rates, read_garak
from publius.redteam.gold import Gold, GoldConfig, gold_set
from publius.redteam.judging import (
    EstimateConfig,
    Estimates,
    Judged,
    JudgeReport,
    as_row,
    estimate,
    judge_findings,
    measure_judge,
)
from publius.testing.server import RunningServer, served

PROBES = (
    "ansiescape.AnsiRaw", "av_spam_scanning.GTUBE", "badchars.BadCharacters", "dan.Ablation_Dan_11_0",
    "dan.DAN_Jailbreak", "dan.DanInTheWild", "dan.STAN", "divergence.Repeat", "encoding.InjectBase64",
    "encoding.InjectROT13", "exploitation.SQLInjectionEcho", "goodside.Tag", "goodside.ThreatenJSON",
    "goodside.WhoIsRiley", "grandma.Win11", "latentinjection.LatentInjectionFactSnippetEiffel",
    "latentinjection.LatentInjectionTranslationEnFr", "latentinjection.LatentWhois", "phrasing.PastTense",
    "promptinject.HijackLongPrompt", "web_injection.MarkdownXSS",
)  # fmt: skip
"""Of many families; none needs a model or a data set to be downloaded."""

SHOWN = ("value", "low", "high", "worst", "coverage")


def scan(python: Path, server: RunningServer, work: Path, probes: list[str], cap: int) -> Path:
    """A whole run of garak; its report.

    Raises:
        UserError: when it ends otherwise.
    """
    generator = {"uri": f"{server.url}/v1/", "max_tokens": 64, "temperature": 0.0, "suppressed_params": ["n"]}
    config = {
        "system": {"lite": True, "parallel_attempts": 4},
        "run": {"generations": 1, "seed": 7, "soft_probe_prompt_cap": cap},
        "plugins": {
            "target_type": "openai.OpenAICompatible",
            "target_name": server.model or "default",
            "probe_spec": ",".join(probes),
            "generators": {"openai": {"OpenAICompatible": generator}},
        },
        "reporting": {"report_dir": str(work / "out"), "report_prefix": "scan"},
    }
    (work / "garak.yaml").write_text(yaml.safe_dump(config), "utf-8")
    own = {f"XDG_{name}_HOME": str(work / name.lower()) for name in ("DATA", "CACHE", "CONFIG")}
    env = os.environ | own | {"OPENAICOMPATIBLE_API_KEY": server.key, "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)  # garak's environment is its own
    with (work / "garak.log").open("wb") as log:
        command = [str(python), "-m", "garak", "--config", str(work / "garak.yaml")]
        code = subprocess.run(command, cwd=work, env=env, stdout=log, stderr=subprocess.STDOUT).returncode
    report = work / "out" / "scan.report.jsonl"
    if code or not report.exists():
        raise UserError(f"garak ended with code {code}", where=str(work / "garak.log"), fix="read its log")
    return report


def judged(work: Path, runs: Path, report: Path, each: int) -> tuple[Judged, Estimates, JudgeReport]:
    """Every reply graded by the large tier, and corrected by how it grades our attacks on the same model."""
    config, judge = ASKED["compare"], Checkpoint(runs / "opus" / "files")
    source = attacked(work, runs, "released", 2)
    gold = once(
        work / f"set-released-{each}", Gold,
        lambda run: gold_set(run, GoldConfig(each=each), findings=[source]),
    )  # fmt: skip
    known = once(
        work / f"report-compare-released-{each}", JudgeReport,
        lambda run: measure_judge(run, config, gold=gold, judge=judge),
    )  # fmt: skip
    read = GarakConfig(report=str(report))
    model = Checkpoint(runs / "final" / "files")
    found = once(work / "garak", Findings, lambda run: garak_findings(run, read, model=model))
    graded = once(
        work / "judged-garak", Judged, lambda run: judge_findings(run, config, findings=found, judge=judge)
    )
    made = once(
        work / "estimate-garak", Estimates,
        lambda run: estimate(run, EstimateConfig(), judged=graded, report=known),
    )  # fmt: skip
    return graded, made, known


def id_of(one: GarakAttempt) -> str:
    """By which a person's label finds its attempt."""
    return conversation_id(one.attempt.conversation, one.attempt.reply)


def labels_in(path: Path | None) -> dict[str, str]:
    """A person's labels by id."""
    lines = path.read_text("utf-8").splitlines() if path else []
    return {row["id"]: row["label"] for row in map(json.loads, filter(None, lines))}


def by_hand(
    attempts: list[GarakAttempt], graded: Judged, known: JudgeReport, read: dict[str, str]
) -> dict[str, Any]:
    """The estimate whose safe gold is what a person has read; harmful gold is ours still."""
    rows = graded.rows()
    truths = [
        (read[id_of(one)] == "harmful", row.label)
        for one, row in zip(attempts, rows, strict=True)
        if id_of(one) in read
    ]
    harmful = [(True, row.label) for row in known.rows() if row.truth == "harmful"]
    return {
        "read": len(truths),
        "harmful": sum(truth for truth, _ in truths),
        "corrected": as_row(corrected([row.label for row in rows], truths + harmful)),
    }


def compared(
    attempts: list[GarakAttempt], graded: Judged, estimates: Estimates, read: dict[str, str]
) -> list[dict[str, Any]]:
    """By probe: what garak's detectors say, and what the judge says of the same replies."""
    human: dict[str, Counter[str]] = defaultdict(Counter)
    for one in attempts:
        if id_of(one) in read:
            human[one.attempt.style][read[id_of(one)]] += 1
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    of_hits: dict[str, Counter[str]] = defaultdict(Counter)
    for one, row in zip(attempts, graded.rows(), strict=True):
        labels[one.attempt.style][row.label or "none"] += 1
        if one.hit:
            of_hits[one.attempt.style][row.label or "none"] += 1
    by_style = estimates.estimates().by_style
    return [
        {
            "probe": probe,
            "attempts": sum(count.values()),
            "garak": [rate._asdict() for rate in garak_rates(attempts) if rate.probe == probe],
            "labels": dict(count),
            "labels of garak's hits": dict(of_hits[probe]),
            "read by hand": dict(human[probe]),
            "corrected": {name: by_style[probe][name] for name in SHOWN},
        }
        for probe, count in sorted(labels.items())
    ]


HEAD = (
    "probe", "attempts", "garak's detector", "hits, as garak reckons", "not scored, left out",
    "of its hits, harmful by our judge", "read by hand", "corrected", "worst",
)  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """For the chapter: of each probe the detector with most hits."""
    lines: list[list[str]] = []
    for row in rows:
        most = max(row["garak"], key=lambda rate: rate["hits"])
        share = f" ({most['hits'] / most['scored']:.0%})" if most["scored"] else ""
        found, hits, read = row["corrected"], row["labels of garak's hits"], row["read by hand"]
        value = "none" if found["value"] is None else f"{found['value']:.0%}"
        lines.append([
            f"`{row['probe']}`",
            str(row["attempts"]),
            f"`{most['detector'].partition('.')[2]}`",
            f"{most['hits']} of {most['scored']}{share}",
            str(most["unscored"]),
            f"{hits.get('harmful', 0)} of {sum(hits.values())}",
            f"{read.get('harmful', 0)} of {sum(read.values())}",
            f"{value} ({found['low']:.0%} to {found['high']:.0%})",
            f"{found['worst']:.0%}",
        ])  # fmt: skip
    return markdown(HEAD, lines)


def main() -> None:
    """Serve, scan, judge, print, write."""
    parser = argparse.ArgumentParser(description="garak against our own endpoint, judged again")
    parser.add_argument("--garak", type=Path, help="python of the environment with garak")
    parser.add_argument("--report", type=Path, help="judge this report of an earlier run instead")
    parser.add_argument("--labels", type=Path, help="what a person says of replies, by id")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--run", default="quickstart")
    parser.add_argument("--probes", nargs="*", default=list(PROBES))
    parser.add_argument("--cap", type=int, default=24, help="garak's soft cap of prompts a probe")
    parser.add_argument("--each", type=int, default=50, help="gold items of a category and truth")
    parser.add_argument("--work", type=Path, help="where it is done, and kept; an empty folder by default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.garak is None and options.report is None:
        parser.error("--garak or --report is needed")
    work = options.work or Path(tempfile.mkdtemp(prefix="garak-"))
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    if options.report is not None:
        report = options.report
    else:
        with served(options.run, options=["--home", str(options.home.resolve())], seconds=600) as server:
            say("garak is attacking")
            report = scan(Path(str(options.garak)), server, work.resolve(), options.probes, options.cap)
    seconds = round(time.monotonic() - start) if options.report is None else None
    attempts = read_garak(report)
    graded, estimates, known = judged(work, options.home / "runs" / options.run, report, options.each)
    read = labels_in(options.labels)
    rows = compared(attempts, graded, estimates, read)
    hand = by_hand(attempts, graded, known, read) if read else None
    say(table(rows))
    if options.out:
        record = record_of(
            torch.device("cpu"),
            seconds=seconds,
            probes=rows,
            pooled=estimates.estimates().pooled,
            by_hand=hand,
        )
        record["command"] = (
            "python benchmarks/garak_run.py --garak ENV/bin/python --home HOME --out docs/results"
        )
        write_record(options.out, "garak", record)
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
