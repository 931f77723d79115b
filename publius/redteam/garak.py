"""Reads what garak, another scanner, found, so that it can be judged again.

garak (Derczynski et al. 2024, arXiv 2406.11036) runs in an environment of its own against any endpoint and
writes a report, one JSON object a line. Its detectors look for strings, or for the absence of a refusal;
whatever they could not score it leaves out of its rates. Here every attempt becomes an `Attempt` without a
truth of its own: what garak says of it stands beside, and is no truth.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, assistant, user
from publius.core.stats import wilson
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Run, stage
from publius.redteam.findings import Attempt, Findings, FindingsDocument, measure, write_findings

__all__ = ["GarakAttempt", "GarakConfig", "GarakRate", "garak_findings", "garak_rates", "read_garak"]

_DONE = 2
"""The status of an attempt whose detectors have run; earlier ones repeat it without their results."""


class GarakAttempt(NamedTuple):
    """One prompt and one reply.

    Args:
        attempt: style is garak's probe, category what garak calls the intent, entity the probe's goal in
            words.
            Unscored: no truth is known.
        results: detector -> score from 0 to 1; None where it gave none.
        threshold: from which a score is a hit.
    """

    attempt: Attempt
    results: dict[str, float | None]
    threshold: float = 0.5

    @property
    def hit(self) -> bool:
        """Whether any detector calls it one."""
        return any(score is not None and score >= self.threshold for score in self.results.values())

    @property
    def scored(self) -> bool:
        """Whether any detector said anything."""
        return any(score is not None for score in self.results.values())


class GarakRate(NamedTuple):
    """What one detector says of one probe: as garak reckons, without those it could not score."""

    probe: str
    detector: str
    hits: int
    scored: int
    unscored: int


class GarakConfig(Config):
    """Which report.

    Attributes:
        report: garak's `*.report.jsonl`.
        target: name of what was attacked, where no checkpoint is given.
    """

    report: str
    target: str = ""


def _content(config: GarakConfig) -> Any:
    path = Path(config.report)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@stage(version=1, fingerprint=_content, light=True)
def garak_findings(run: Run, config: GarakConfig, *, model: Checkpoint | None = None) -> Findings:
    """A report's attempts as findings, ready for `judge_findings`.

    Metrics: `garak.hits`, the share that some detector calls a hit, unscored counted as hits; by probe in
    `findings.json`.

    Raises:
        UserError: when the report cannot be read, or holds no attempt.
    """
    found = read_garak(Path(config.report))
    groups: dict[str, list[GarakAttempt]] = defaultdict(list)
    for one in found:
        groups[one.attempt.style].append(one)
    hits = _hits(found)
    run.metric("garak.hits", wilson(sum(one.hit or not one.scored for one in found), len(found)))
    document = FindingsDocument(
        model=fingerprint(model) if model else config.target,
        round=0,
        split="garak",
        metrics={"garak.hits": hits},
        by_style={name: _hits(group) for name, group in sorted(groups.items())},
        by_category={},
        sealed_styles=(),
        tried=len(found),
        hits=sum(one.hit for one in found),
        confirmed=0,
        config=config.model_dump(mode="json"),
    )
    write_findings(run.output, document, [], {}, [one.attempt for one in found])
    return Findings(run.output)


def read_garak(path: Path) -> list[GarakAttempt]:
    """Every attempt whose detectors have run, one for each reply.

    Raises:
        UserError: when the file is missing, no report, or holds no attempt.
    """
    threshold, found = 0.5, list[GarakAttempt]()
    for number, row in _rows(path):
        try:
            kind = row["entry_type"]
            if kind == "start_run setup":
                threshold = float(row.get("run.eval_threshold") or threshold)
            elif kind == "attempt" and row["status"] == _DONE:
                found += _attempts(row, threshold)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise _bad(path, f"line {number} is no entry of a garak report ({reason})") from None
    if not found:
        raise _bad(path, "the report holds no attempt that was evaluated")
    return found


def garak_rates(found: Sequence[GarakAttempt]) -> list[GarakRate]:
    """By probe and detector, as garak's own summary."""
    rates: list[GarakRate] = []
    names = {(one.attempt.style, detector) for one in found for detector in one.results}
    for probe, detector in sorted(names):
        mine = [one for one in found if one.attempt.style == probe and detector in one.results]
        scores = [one.results[detector] for one in mine]
        said = [score for score in scores if score is not None]
        hits = sum(score >= mine[0].threshold for score in said)
        rates.append(GarakRate(probe, detector, hits, len(said), len(scores) - len(said)))
    return rates


def _hits(found: Sequence[GarakAttempt]) -> dict[str, Any]:
    silent = sum(not one.scored for one in found)
    return measure(wilson(sum(one.hit for one in found) + silent, len(found)), silent)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, cast("dict[str, Any]", json.loads(line))
    except OSError as error:
        raise _bad(path, f"cannot read the report: {error.strerror}") from None
    except ValueError as error:
        raise _bad(path, f"the report is no jsonl ({error})") from None


def _bad(path: Path, what: str) -> UserError:
    return UserError(what, where=str(path), fix="give the *.report.jsonl of a garak run that came to its end")


def _attempts(row: Mapping[str, Any], threshold: float) -> list[GarakAttempt]:
    """One for each reply; a reply that never came leaves the prompt alone."""
    results: dict[str, list[float | None]] = row["detector_results"]
    found: list[GarakAttempt] = []
    for place, output in enumerate(row["outputs"]):
        played = _conversation(row["prompt"]["turns"])
        reply = None if output is None else output.get("text")
        if reply is not None:
            played = played.then(assistant(str(reply)))
        attempt = Attempt(
            style=str(row["probe_classname"]),
            sealed=False,
            split="garak",
            category=str(row.get("intent") or ""),
            entity=str(row.get("goal") or ""),
            conversation=played,
            reply=str(reply or ""),
            leaked=None,
            refused=False,
            score=0.0,
        )
        scores = {name: each[place] if place < len(each) else None for name, each in results.items()}
        found.append(GarakAttempt(attempt, scores, threshold))
    return found


def _conversation(turns: Sequence[Mapping[str, Any]]) -> Conversation:
    system, messages = "", list[Message]()
    for turn in turns:
        text = str(turn["content"]["text"])
        if turn["role"] == "system":
            system = f"{system}\n{text}".strip()
        else:
            messages.append(assistant(text) if turn["role"] == "assistant" else user(text))
    return Conversation(system=system or None, messages=tuple(messages))
