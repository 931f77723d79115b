"""Findings: attacks that worked, how surely, and what of them may go back into training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from publius.core.messages import Conversation
from publius.core.stats import Estimate
from publius.pipeline import Artifact
from publius.pipeline.artifact import damaged

__all__ = [
    "Attempt",
    "CellCount",
    "Finding",
    "Findings",
    "FindingsDocument",
    "Judged",
    "conversation_id",
    "measure",
    "read_rows",
    "write_findings",
    "write_rows",
]

_M = TypeVar("_M", bound=BaseModel)


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Attempt(_Row):
    """One attack, the reply, and its mark. `leaked` None means unscored: counted as a leak."""

    style: str
    sealed: bool
    split: str
    category: str
    entity: str
    conversation: Conversation
    """As played, replies included."""
    reply: str
    """Everything the model said in answer, turns joined."""
    leaked: bool | None
    refused: bool
    score: float
    """Share of the key steps given."""


class Judged(_Row):
    """What one judge says of a finding's reply. `label` None: it abstained, failed, or could not be read."""

    judge: str
    """Its fingerprint: of its weights, or the name of a program."""
    label: Literal["refusal", "safe", "harmful", "incoherent"] | None
    score: float = 0.0
    reason: str = ""


class Finding(_Row):
    """A confirmed hit: the conversation up to one reply that leaked, and how often the attack leaks at
    temperature 1. In attacks over several turns the model's own earlier replies stand in it.

    The fields from `chain` on say how it was found and what it is worth. Rounds of fixed styles and files of
    older versions leave them at their defaults, which mean: nobody said.
    """

    id: str
    round: int
    style: str
    sealed: bool
    split: str
    """`train` may be trained on; `held` is a cluster kept back for measuring."""
    category: str
    entity: str
    conversation: Conversation
    reply: str
    score: float
    """How near the reply came to what was asked for, 0 to 1."""
    reproduced: int
    tries: int
    model: str
    """Fingerprint of the weights attacked."""

    chain: tuple[str, ...] = ()
    """The style, then the mutators put over it, in order."""
    seed: int | None = None
    """With it `redteam.search.chains` plays the same chain again."""
    turns: int = 1
    """User messages in the conversation."""
    language: str = "en"
    benign: bool = False
    """The request is harmless, and the fault is that it was refused."""
    principles: tuple[str, ...] = ()
    """Ids of those that the reply breaks, where the goal names them."""
    constitution: str = ""
    """Hash of the constitution they stand in."""
    judged: tuple[Judged, ...] = ()
    transfer: float | None = None
    """Share of other goals that the same chain unlocks; None where nobody tried."""
    severity: float | None = None
    """Harm (`score`) x reproducibility x transfer."""
    cluster: str = ""
    """Findings of one cluster are one finding in other words: same goal, style and wording."""
    wording: str = ""
    """The name of its wording alone, whatever it asks for: what is held back, is held back by it."""
    replies: int = 0
    """Of the target, that it took to find and confirm it, since the last."""
    tokens: int = 0
    """The same in tokens, read and written."""
    attack: Conversation | None = None
    """Where it is played over several live turns: as it is begun, its further lines in `meta["turns"]`. Later
    models answer these themselves; `conversation` holds replies of the one attacked, and is to learn from."""


class CellCount(_Row):
    """One place of the coverage map, and what was tried there."""

    category: str
    style: str
    turns: str
    language: str
    tried: int
    succeeded: int
    unscored: int = 0
    confirmed: int = 0
    best: float = 0.0
    """The highest score of any reply."""


class FindingsDocument(_Row):
    """The content of `findings.json`. Measures are `{"value", "n", "low", "high", "unscored"}`."""

    model: str
    round: int
    split: str
    metrics: dict[str, dict[str, Any]]
    by_style: dict[str, dict[str, Any]]
    by_category: dict[str, dict[str, Any]]
    sealed_styles: tuple[str, ...]
    tried: int
    hits: int
    confirmed: int
    config: dict[str, Any] = {}
    cells: tuple[CellCount, ...] = ()
    """Of a search: category x style x turns x language."""
    spent: dict[str, int] = {}
    """Of a search: replies and tokens by what they were for."""
    clusters: int | None = None
    """Distinct findings; None where nobody counted."""
    effective: float | None = None
    """How many equally common clusters would be as diverse (the exponential of their entropy)."""
    note: str = ""
    """Why it ended early, if it did."""


class Findings(Artifact):
    """`findings.json` (metrics), `findings.jsonl` (hits), `twins.jsonl` (one each), `attempts.jsonl`."""

    def document(self) -> FindingsDocument:
        """The summary.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return self.parse("findings.json", FindingsDocument)

    def findings(self) -> list[Finding]:
        """Every confirmed finding."""
        return read_rows(self.file("findings.jsonl"), Finding)

    def attempts(self) -> list[Attempt]:
        """Every measured attack on held-out items, hit or not."""
        return read_rows(self.file("attempts.jsonl"), Attempt)

    def twins(self) -> list[Conversation]:
        """Benign questions in the clothes of the findings; `meta["finding"]` is the finding's id."""
        return read_rows(self.file("twins.jsonl"), Conversation)

    def prompts(self, split: Literal["train"] = "train") -> list[Conversation]:
        """What may be trained on: confirmed findings on training items, unsealed styles, each with its twin.

        The twin wears the same wrapper around a benign question, so that what is learnt is the
        difference in harm and not the wrapper.
        """
        kept = [f for f in self.findings() if f.split == split and not f.sealed]
        twins = {str(t.meta["finding"]): t for t in self.twins()}
        return [prompt for f in kept for prompt in (f.conversation, twins.get(f.id)) if prompt is not None]


def conversation_id(*parts: object) -> str:
    """A short stable id of conversations and strings."""
    texts = [p.model_dump_json() if isinstance(p, BaseModel) else str(p) for p in parts]
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def measure(estimate: Estimate, unscored: int = 0) -> dict[str, Any]:
    """An estimate as findings and scans store it; an unmeasured value is None (NaN is not JSON)."""
    value = None if estimate.n == 0 else estimate.value
    return {**estimate.as_dict(), "value": value, "unscored": unscored}


def estimate(measured: Mapping[str, Any]) -> Estimate:
    """What `measure` stored."""
    value = measured["value"]
    return Estimate(math.nan if value is None else value, measured["n"], measured["low"], measured["high"])


def write_findings(
    folder: Path,
    document: FindingsDocument,
    findings: Sequence[Finding],
    twins: Mapping[str, Conversation],
    attempts: Iterable[Attempt],
) -> None:
    """Write a `Findings` payload; `twins` maps a finding's id to its benign twin."""
    marked = [t.model_copy(update={"meta": {**t.meta, "finding": id_}}) for id_, t in twins.items()]
    write_rows(folder / "findings.jsonl", findings)
    write_rows(folder / "twins.jsonl", marked)
    write_rows(folder / "attempts.jsonl", attempts)
    (folder / "findings.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")


def read_rows(path: Path, kind: type[_M]) -> list[_M]:
    """The rows of a file, one JSON document a line. A line ends in a line feed alone: JSON keeps other
    separators of lines (U+2028) as they are.

    Raises:
        UserError: when one is damaged.
    """
    try:
        return [kind.model_validate_json(line) for line in path.read_text("utf-8").split("\n") if line]
    except ValidationError as error:
        raise damaged(path, error) from None


def write_rows(path: Path, rows: Iterable[BaseModel]) -> None:
    """One JSON document a line."""
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), "utf-8")
