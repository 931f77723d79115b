"""Safeguards, each proved by an *evidence test*: something is tried, and what happened is written down.

A test tries what a safeguard must withstand (a byte of the weights is changed, a record of the log is left
out, a request comes without a key) and what it must let be (the untouched file, the right key). It passes
only when every trial went as it must. The report says what was tested, by its sha256: evidence about other
weights, another policy of the monitors or other code never counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import Measure
from publius.pipeline import Artifact, Run

__all__ = [
    "SAFEGUARDS",
    "Safeguard",
    "SafeguardDocument",
    "SafeguardReport",
    "Trial",
    "code_sha256",
    "noticed",
    "refuses",
    "write_safeguard",
]


class Safeguard(NamedTuple):
    """One kind of safeguard."""

    subject: Literal["weights", "monitor policy", "code"]
    """What its evidence test is about."""
    code: str = ""
    """The file or folder of the package that was tested, where the subject is code."""
    serving: bool = False
    """Must be at work whenever a model that needs it is served."""
    explanation: str = ""


SAFEGUARDS: dict[str, Safeguard] = {
    "monitors": Safeguard(
        "monitor policy", serving=True,
        explanation="Layers that look at every exchange stop attacks, and few others.",
    ),
    "access_control": Safeguard(
        "code", "serve", serving=True,
        explanation="Nothing of the server answers without a key that may.",
    ),
    "audit_log": Safeguard(
        "code", "safety/audit.py", serving=True,
        explanation="Every exchange is recorded, and the log shows every change made to it.",
    ),
    "refusal_training": Safeguard(
        "weights", explanation="The model leaks less than the helpful-only one it was made from.",
    ),
    "rapid_response": Safeguard(
        "weights", explanation="What broke earlier models was tried again on these weights.",
    ),
    "weights_integrity": Safeguard(
        "weights", explanation="A changed byte of the weights is noticed before they are loaded.",
    ),
}  # fmt: skip
"""By the name a policy uses."""


class Trial(BaseModel):
    """One thing that was tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    expected: str
    seen: str
    passed: bool


class SafeguardDocument(BaseModel):
    """The content of `safeguard.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool
    measures: dict[str, Measure]
    tested: str
    """The sha256 of what was tested."""
    when: str
    """UTC, ISO 8601."""
    how: str
    """In words, for the model card."""
    trials: tuple[Trial, ...]


class SafeguardReport(Artifact):
    """`safeguard.json`."""

    def document(self) -> SafeguardDocument:
        """What was tried and what happened.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return self.parse("safeguard.json", SafeguardDocument)


def write_safeguard(
    run: Run, name: str, *, tested: str, how: str, trials: Sequence[Trial], measures: dict[str, Measure]
) -> SafeguardReport:
    """Write the report of an evidence test: it passed when something was tried and every trial went well.

    Metrics: `safeguard.NAME` 1 or 0, and the measures.
    """
    document = SafeguardDocument(
        name=name, passed=bool(trials) and all(trial.passed for trial in trials), measures=measures,
        tested=tested, when=datetime.now(UTC).replace(microsecond=0).isoformat(), how=how,
        trials=tuple(trials),
    )  # fmt: skip
    run.metric(f"safeguard.{name}", int(document.passed))
    for metric, measure in measures.items():
        run.metric(metric, measure.estimate())
    (run.output / "safeguard.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
    return SafeguardReport(run.output)


def refuses(what: str, work: Callable[[], object], *, fine: bool = False) -> Trial:
    """Try something that must be refused with a `UserError` (or, `fine`, must not be).

    Any other exception is a failed trial: what crashes has not refused.
    """
    expected = "accepted" if fine else "refused"
    try:
        work()
        seen = "accepted"
    except UserError as error:
        seen = f"refused: {error.what}"
    except Exception as error:  # whatever it was, it is no refusal
        seen = f"crashed: {type(error).__name__}"
    return Trial(what=what, expected=expected, seen=seen, passed=seen.split(":")[0] == expected)


def noticed(trials: Sequence[Trial]) -> Measure:
    """The share of what had to be refused that was."""
    bad = [trial for trial in trials if trial.expected == "refused"]
    return Measure.of(wilson(sum(trial.passed for trial in bad), len(bad)))


def code_sha256(place: str) -> str:
    """The sha256 of a file or folder of this package, as it is installed: names and contents.

    Raises:
        UserError: when it is not there.
    """
    root = Path(__file__).parents[1]
    found = [root / place] if (root / place).is_file() else sorted((root / place).rglob("*.py"))
    if not found:
        raise UserError(f"the package has no {place}", where=str(root), fix="install Publius again")
    digest = hashlib.sha256()
    for path in found:
        name = path.relative_to(root).as_posix().encode()
        content = path.read_bytes()
        digest.update(len(name).to_bytes(8, "big") + name + len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
