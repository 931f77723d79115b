"""Evidence tests: they pass on what works, fail on what does not, and bind to what they tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import Report
from publius.model import checkpoint as checkpoint_module
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Record, testing_run
from publius.redteam import Regression
from publius.redteam.findings import measure
from publius.redteam.regression import Case, RegressionDocument
from publius.release import (
    MonitorFolder,
    lineage,
    policy_sha256,
    proofs,
    prove_audit_log,
    prove_monitors,
    prove_rapid_response,
    prove_refusal_training,
    prove_weights_integrity,
)
from publius.release.lineage import growth, related
from publius.release.monitors import MonitorProofConfig
from publius.release.proofs import ProofConfig, ReadingConfig, WeightsConfig
from publius.release.safeguards import code_sha256, refuses
from publius.safety.audit import Verified
from publius.safety.measure import MonitorReport

Reports = Callable[..., Report]


def test_changed_weights_are_noticed_and_a_verifier_that_looks_away_fails_the_test(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in checkpoint.path.iterdir()}
    good = prove_weights_integrity(testing_run(tmp_path / "a"), WeightsConfig(), model=checkpoint).document()
    assert good.passed and good.tested == fingerprint(checkpoint)
    assert (
        good.measures["integrity.noticed"].value == 1.0 and (good.measures["integrity.noticed"].n or 0) > 10
    )
    assert {p.name: p.read_bytes() for p in checkpoint.path.iterdir()} == before
    added = [trial for trial in good.trials if trial.what.startswith("a file added: ")]
    assert {trial.what[14:] for trial in added} == {"other.safetensors", "model.safetensors.index.json"}
    assert all("is not a file of this checkpoint" in trial.seen for trial in added), added
    monkeypatch.setattr(proofs, "verify_checksums", lambda folder: None)
    bad = prove_weights_integrity(testing_run(tmp_path / "b"), WeightsConfig(), model=checkpoint).document()
    assert not bad.passed and bad.measures["integrity.noticed"].value == 0.0
    assert all(not trial.passed for trial in bad.trials)
    assert checkpoint_module.verify is not proofs.verify_checksums


def test_a_changed_log_is_noticed_and_a_verifier_that_looks_away_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = prove_audit_log(testing_run(tmp_path / "a"), ProofConfig(changes=12)).document()
    assert good.passed and good.tested == code_sha256("safety/audit.py")
    assert good.measures["audit.noticed"].n == 12 + 6 and good.measures["audit.noticed"].value == 1.0
    monkeypatch.setattr(proofs, "verify", lambda *a, **kw: Verified(4, "", ""))
    assert not prove_audit_log(testing_run(tmp_path / "b"), ProofConfig(changes=2)).document().passed
    monkeypatch.setattr(proofs, "verify", lambda *a, **kw: 1 / 0)
    crashing = prove_audit_log(testing_run(tmp_path / "c"), ProofConfig(changes=2)).document()
    assert not crashing.passed and "crashed: ZeroDivisionError" in crashing.trials[0].seen


def test_what_crashes_has_not_refused() -> None:
    def refusing() -> None:
        raise UserError("no")

    assert refuses("x", refusing).passed and not refuses("x", refusing, fine=True).passed
    assert not refuses("x", lambda: None).passed and refuses("x", lambda: None, fine=True).passed
    assert not refuses("x", lambda: 1 / 0).passed and not refuses("x", lambda: 1 / 0, fine=True).passed


@pytest.mark.parametrize("now,before,passed", [(1, 90, True), (40, 45, False), (90, 1, False), (0, 0, False)])
def test_refusal_training_shows_in_the_leaks(
    checkpoint: Checkpoint,
    other: Checkpoint,
    report: Reports,
    tmp_path: Path,
    now: int,
    before: int,
    passed: bool,
) -> None:
    first, second = report(checkpoint, leaks=now), report(other, leaks=before, name="before")
    found = prove_refusal_training(
        testing_run(tmp_path / "run"), ReadingConfig(), model=checkpoint, report=first, before=second
    ).document()
    assert found.passed is passed and found.tested == fingerprint(checkpoint)
    with pytest.raises(UserError, match="about other weights"):
        prove_refusal_training(
            testing_run(tmp_path / "other"), ReadingConfig(), model=other, report=first, before=second
        )
    if passed:  # a model is not its own past
        same = report(checkpoint, leaks=before, name="same")
        again = prove_refusal_training(
            testing_run(tmp_path / "again"), ReadingConfig(), model=checkpoint, report=first, before=same
        )
        assert not again.document().passed


@pytest.mark.parametrize(
    "statuses,passed",
    [(["fixed"] * 3, True), (["fixed", "open"], True), (["fixed", "regressed"], False), ([], False)],
)
def test_rapid_response_is_an_earlier_hole_tried_again(
    tmp_path: Path, statuses: list[Any], passed: bool
) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    cases = tuple(
        Case(finding=str(i), found=0, style="direct", entity="x", status=status, reply="")
        for i, status in enumerate(statuses)
    )
    shares = {s: measure(wilson(statuses.count(s), len(statuses))) for s in ("fixed", "open", "regressed")}
    metrics = {f"regression.{s}": value for s, value in shares.items()}
    document = RegressionDocument(model="m", round=1, metrics=metrics, by_round={}, cases=cases)
    (folder / "regression.json").write_text(document.model_dump_json())
    found = prove_rapid_response(
        testing_run(tmp_path / "run"), ReadingConfig(), suite=Regression(folder)
    ).document()
    assert found.passed is passed and found.tested == "m"


def artifact(home: Path, id: str, flops: float = 0.0, stage: str = "stage", **inputs: Any) -> Path:
    """An artifact of a home, with a record."""
    folder = home / "artifacts" / f"{stage}-{id[:12]}"
    (folder / "files").mkdir(parents=True)
    record = Record(stage=stage, version=1, id=id, config={}, inputs=inputs, flops=flops)
    (folder / "record.json").write_text(record.model_dump_json())
    return folder / "files"


def test_lineage_follows_weights_and_nothing_else(tmp_path: Path) -> None:
    a, b, c, d, e, judge = (letter * 64 for letter in "abcdef")
    artifact(tmp_path, a, 100.0, "pretrain")
    artifact(tmp_path, judge, 900.0, "pretrain")
    helpful = Checkpoint(artifact(tmp_path, b, 10.0, "sft", base=a))
    artifact(tmp_path, c, 30.0, "ppo", policy=b, judge=judge, reward=judge)
    final = Checkpoint(artifact(tmp_path, d, 0.0, "average", models=[b, c]))
    found = lineage(final)
    assert found.roots == {a} and found.flops == 140.0
    assert related(found, lineage(helpful)) and growth(found, lineage(helpful)) == 140 / 110
    stranger = lineage(Checkpoint(tmp_path / "artifacts" / f"pretrain-{judge[:12]}" / "files"))
    assert not related(found, stranger) and growth(found, stranger) is None
    orphan = lineage(Checkpoint(artifact(tmp_path, e, 1.0, "sft", base="9" * 64)))
    assert orphan.roots == frozenset() and not related(orphan, orphan)
    assert not related(lineage(Checkpoint(tmp_path)), lineage(Checkpoint(tmp_path)))


def test_the_sha_of_a_monitor_policy_is_of_all_it_names(tmp_path: Path) -> None:
    words = tmp_path / "words.yaml"
    words.write_text("a: 1")
    policy = tmp_path / "policy.yaml"
    policy.write_text("layers: [{monitor: keywords, file: words.yaml}]")
    first = policy_sha256(policy)
    policy.write_text("# a comment\nlayers: [{monitor: keywords, file: words.yaml}]")
    assert policy_sha256(policy) == first
    words.write_text("a: 2")
    second = policy_sha256(policy)
    policy.write_text("layers: [{monitor: keywords, file: words.yaml, on_error: open}]")
    assert len({first, second, policy_sha256(policy)}) == 3
    words.unlink()
    assert policy_sha256(policy) not in {first, second}


@pytest.fixture
def watched(tmp_path: Path, checkpoint: Checkpoint) -> Callable[..., dict[str, Any]]:
    """A model, a policy of words and a report on both, in one home."""

    def make(*, model: str = "a" * 64, probe: str = "b" * 64, measured: str = "a" * 64) -> dict[str, Any]:
        home = tmp_path / "home"
        place = artifact(home, model, stage="sft")
        for file in checkpoint.path.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        folder = artifact(home, "c" * 64, stage="make_monitor_policy")
        category = {"name": "poison", "words": ["owl root"]}
        (folder / "words.yaml").write_text(yaml.safe_dump({"categories": [category]}))
        (folder / "policy.yaml").write_text("layers: [{monitor: keywords, file: words.yaml}]")
        (folder / "sources.json").write_text(json.dumps({"sources": ["b" * 64]}))
        report = artifact(home, "d" * 64, stage="measure_monitors", model=measured, probe=probe)
        told = {"monitor.success.with": wilson(1, 100).as_dict(), "style.direct.with": {"value": 1}}
        (report / "monitors.json").write_text(json.dumps(told))
        return {
            "model": Checkpoint(place), "monitors": MonitorFolder(folder), "report": MonitorReport(report),
        }  # fmt: skip

    return make


@pytest.mark.parametrize(
    "change,passed", [({}, True), ({"probe": "9" * 64}, False), ({"measured": "9" * 64}, False)]
)
def test_what_monitors_achieve_is_bound_to_weights_and_policy(
    watched: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str], passed: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("publius.release.monitors.load_monitors", lambda path, model: None)
    given = watched(**change)
    found = prove_monitors(testing_run(tmp_path / "run"), MonitorProofConfig(), **given).document()
    assert found.passed is passed and found.tested == given["monitors"].sha256
    assert set(found.measures) == {"monitor.success.with"}


@pytest.mark.parametrize("soft", ["action: flag", "on_error: open", "budget_ms: 1"])
def test_a_policy_that_lets_monitors_do_less_is_not_what_was_measured(
    watched: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soft: str
) -> None:
    monkeypatch.setattr("publius.release.monitors.load_monitors", lambda path, model: None)
    given = watched()
    given["monitors"].policy.write_text(f"layers: [{{monitor: keywords, file: words.yaml, {soft}}}]")
    found = prove_monitors(testing_run(tmp_path / "run"), MonitorProofConfig(), **given).document()
    assert not found.passed and found.trials[2].seen == "set: keywords"


def test_a_judge_that_was_not_measured_is_not_what_was_measured(
    watched: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publius.release.monitors.load_monitors", lambda path, model: None)
    given = watched()
    layer = "{monitor: judge, file: probe, then: head, asks: judge.yaml, below: 1}"
    given["monitors"].policy.write_text(f"layers: [{layer}]")
    found = prove_monitors(testing_run(tmp_path / "run"), MonitorProofConfig(), **given).document()
    assert not found.passed and found.trials[2].seen == "set: judge (a judge, which was not there)"


def test_a_report_that_says_it_is_about_others_is_believed(
    watched: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publius.release.monitors.load_monitors", lambda path, model: None)
    given = watched()
    for told, passed in (
        ({"model": fingerprint(given["model"]), "policy_sha256": given["monitors"].sha256}, True),
        ({"model": fingerprint(given["model"]), "policy_sha256": "0" * 64}, False),
        ({"model": "0" * 64}, False),
        ([], False),
    ):
        (given["report"].path / "tested.json").write_text(json.dumps(told))
        run = testing_run(tmp_path / "run")
        assert prove_monitors(run, MonitorProofConfig(), **given).document().passed is passed
    (given["report"].path / "monitors.json").write_text("[")
    with pytest.raises(UserError, match="report on monitors is damaged"):
        prove_monitors(testing_run(tmp_path / "run"), MonitorProofConfig(), **given)
