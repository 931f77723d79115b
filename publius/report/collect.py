"""What a run left behind, by kind of artifact: stages are known by what they left, never by name."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from publius.constitution.grading import JudgeReport
from publius.constitution.revise import Revisions
from publius.core.errors import UserError
from publius.evals import BudgetReport, NeedleReport, Report, StudyReport
from publius.pipeline import Artifact, Record, RunView, StageView, show_run
from publius.pipeline.artifact import read_log
from publius.pipeline.store import Store, read_json
from publius.redteam import Findings, Regression, TriggerReport
from publius.release import DecisionArtifact
from publius.safety import MonitorReport

__all__ = ["Entry", "Gathered", "collect"]

A = TypeVar("A", bound=Artifact)

_MARKS: dict[type[Artifact], tuple[str, frozenset[str]]] = {
    BudgetReport: ("budgets.json", frozenset({"budgets", "accuracy"})),
    DecisionArtifact: ("decision.json", frozenset({"format"})),
    Findings: ("findings.json", frozenset({"metrics", "by_style"})),
    JudgeReport: ("judge.json", frozenset({"metrics", "samples"})),
    MonitorReport: ("monitors.json", frozenset({"curves"})),
    NeedleReport: ("needle.json", frozenset({"lengths", "depths"})),
    Regression: ("regression.json", frozenset({"metrics", "by_round"})),
    Report: ("report.json", frozenset({"metrics", "prefix"})),
    Revisions: ("transcripts.jsonl", frozenset({"prompt", "revisions"})),
    StudyReport: ("study.json", frozenset({"config", "results"})),
    TriggerReport: ("scan.json", frozenset({"metrics", "best"})),
}
"""Kind of artifact -> the payload file that it has, and keys that stand in it: so stages of a user's own are
read too, and a file of their own that only bears such a name is left alone."""


class Entry(NamedTuple):
    """One finished stage: its name in the recipe, record, and folder."""

    name: str
    record: Record
    path: Path

    def metrics(self, prefix: str = "") -> dict[str, Any]:
        """Its recorded metrics whose names start with `prefix`."""
        return {name: value for name, value in self.record.metrics.items() if name.startswith(prefix)}

    def log(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, in order; none when it logged nothing."""
        return read_log(self.path)


class Gathered:
    """A run's finished stages, in recipe order, with readers by kind.

    Attributes:
        view: what `show_run` says.
        entries: finished and current stages; two stages that share an artifact are one entry each.
        published: names the recipe publishes, in its order.
    """

    def __init__(self, view: RunView, published: Sequence[str] = ()) -> None:
        self.view = view
        self.published = list(published)
        self.entries = [_entry(s) for s in view.stages if s.state == "done" and s.record is not None]
        self._by_id = {entry.record.id: entry for entry in reversed(self.entries)}

    def made(self) -> list[Entry]:
        """Each artifact once; one that several stages share carries all their names."""
        names: dict[str, list[str]] = defaultdict(list)
        for entry in self.entries:
            names[entry.record.id].append(entry.name)
        return [self._by_id[key]._replace(name=", ".join(shared)) for key, shared in names.items()]

    def _of(self, kind: type[A]) -> list[tuple[Entry, A]]:
        files = [(entry, entry.path / "files") for entry in self.entries]
        return [(entry, kind(path)) for entry, path in files if _is(kind, path)]

    def reports(self) -> list[tuple[Entry, Report]]:
        """Evaluations, those without a model (baselines) included; `needles` and `budgets` apart."""
        apart = {entry.record.id for entry, _ in (*self.needles(), *self.budgets())}
        return [(entry, report) for entry, report in self._of(Report) if entry.record.id not in apart]

    def needles(self) -> list[tuple[Entry, NeedleReport]]:
        """Searches for needles in haystacks."""
        return self._of(NeedleReport)

    def budgets(self) -> list[tuple[Entry, BudgetReport]]:
        """Accuracy by thinking budget."""
        return self._of(BudgetReport)

    def studies(self) -> list[tuple[Entry, StudyReport]]:
        """Published claims beside what was found."""
        return self._of(StudyReport)

    def findings(self) -> list[tuple[Entry, Findings]]:
        """Red-team rounds."""
        return self._of(Findings)

    def regressions(self) -> list[tuple[Entry, Regression]]:
        """Old findings tried again."""
        return self._of(Regression)

    def scans(self) -> list[tuple[Entry, TriggerReport]]:
        """Searches for backdoors."""
        return self._of(TriggerReport)

    def revisions(self) -> list[tuple[Entry, Revisions]]:
        """Critique and revision stages."""
        return self._of(Revisions)

    def monitors(self) -> list[tuple[Entry, MonitorReport]]:
        """What layers stop while a model answers."""
        return self._of(MonitorReport)

    def judges(self) -> list[tuple[Entry, JudgeReport]]:
        """Graded judges."""
        return self._of(JudgeReport)

    def decisions(self) -> list[tuple[Entry, DecisionArtifact]]:
        """Gates; the one a release rests on comes first, else recipe order stands."""
        rested = {str(e.record.inputs["decision"]) for e in self.entries if "decision" in e.record.inputs}
        return sorted(self._of(DecisionArtifact), key=lambda found: found[0].record.id not in rested)

    def labels(self) -> list[Entry]:
        """Stages that labelled preference pairs."""
        return [e for e in self.entries if e.metrics("label.")]

    def rewards(self) -> list[Entry]:
        """Preference models."""
        return [e for e in self.entries if e.metrics("reward.")]

    def model(self, entry: Entry) -> str:
        """The name of the stage whose model `entry` measured or decided on, "" when it has none here."""
        given = entry.record.inputs.get("model")
        found = self._by_id.get(given) if isinstance(given, str) else None
        return found.name if found else ""

    def is_control(self, entry: Entry) -> bool:
        """True when the model that `entry` measured took no part in making the model of the first gate.

        Such models (a planted backdoor) are there to be caught; they are no step on the way.
        """
        decisions = self.decisions()
        given = entry.record.inputs.get("model")
        if not decisions or not isinstance(given, str):
            return False
        final = decisions[0][0].record.inputs.get("model")
        return isinstance(final, str) and given not in self._ancestors(final)

    def _ancestors(self, identity: str) -> set[str]:
        seen: set[str] = set()
        pending = [identity]
        while pending:
            current = pending.pop()
            if current not in seen:
                seen.add(current)
                entry = self._by_id.get(current)
                for given in entry.record.inputs.values() if entry else ():
                    pending.extend([given] if isinstance(given, str) else given)
        return seen

    def unreadable(self) -> Path | None:
        """The first log or payload file that should be JSON and is not."""
        for entry in self.entries:
            found = (*entry.path.iterdir(), *(entry.path / "files").iterdir())
            for path in sorted(p for p in found if p.suffix in (".json", ".jsonl")):
                lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
                if not all(_json(line) for line in lines if line):
                    return path
        return None

    def distinct(self, what: Callable[[Record], str | None]) -> list[str]:
        """The different values of something in the records, in order."""
        return list(dict.fromkeys(value for e in self.entries if (value := what(e.record))))


def _is(kind: type[Artifact], folder: Path) -> bool:
    """Whether it has that kind's file. One that cannot be read is taken for damaged, not for another's."""
    name, keys = _MARKS[kind]
    path = folder / name
    if not path.exists():
        return False
    with path.open("rb") as file:
        content = file.readline() if path.suffix == ".jsonl" else file.read()
    try:
        document = json.loads(content)
    except ValueError:
        return True
    return isinstance(document, dict) and keys <= document.keys()


def _json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _entry(stage: StageView) -> Entry:
    assert stage.record is not None
    return Entry(stage.name, stage.record, stage.path)


def collect(home: Path, name: str) -> Gathered:
    """Everything run `name` under `home` has to report.

    Raises:
        UserError: for an unknown run, and for one without a finished stage.
    """
    view = show_run(name, home)
    recipe = read_json(Store(home).run(name) / "recipe.json")
    gathered = Gathered(view, list(recipe["published"]))
    if not gathered.entries:
        raise UserError(
            f"run {name!r} has no finished stage to report on",
            where=str(Store(home).run(name)),
            fix=f"finish some of it first: publius run {view.recipe} --name {name}",
        )
    return gathered
