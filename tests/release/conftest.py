"""Fixtures: checkpoints, evidence about them as the stages write it, and a signing key of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from publius.core.stats import mean_estimate, wilson
from publius.evals import Measure, Report, ReportDocument, write_report
from publius.model.checkpoint import Checkpoint, fingerprint, save_checkpoint
from publius.redteam import Findings, FindingsDocument, ScanDocument, TriggerReport
from publius.redteam.findings import measure, write_findings
from publius.redteam.locks import LockDocument, LockReport
from publius.redteam.scan import Candidate
from publius.testing import byte_tokenizer, tiny_model


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBLIUS_SIGNING_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    save_checkpoint(tmp_path / "model", tiny_model(), byte_tokenizer())
    return Checkpoint(tmp_path / "model")


@pytest.fixture
def other(tmp_path: Path) -> Checkpoint:
    save_checkpoint(tmp_path / "other", tiny_model(1), byte_tokenizer())
    return Checkpoint(tmp_path / "other")


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Report]:
    def make(
        model: Checkpoint, *, leaks: int = 0, name: str = "report", prefix: str = "rlcai",
        refused: int | None = None,
    ) -> Report:  # fmt: skip
        rates = {
            "helpful": wilson(190, 200), "leak": wilson(leaks, 100), "overrefusal": wilson(4, 100),
            "refused": wilson((98 if refused is None else refused) - leaks, 100),
        }  # fmt: skip
        metrics = {f"{prefix}.{key}": Measure.of(value) for key, value in rates.items()}
        folder = tmp_path / name
        folder.mkdir()
        write_report(folder, ReportDocument(model=fingerprint(model), prefix=prefix, metrics=metrics))
        return Report(folder)

    return make


@pytest.fixture
def findings(tmp_path: Path) -> Callable[..., Findings]:
    def make(model: Checkpoint, *, number: int = 1, leaks: int = 0) -> Findings:
        rates = {
            "leak.seen": wilson(leaks, 200),
            "leak.sealed": wilson(leaks, 80),
            "overrefusal": wilson(3, 60),
        }
        folder = tmp_path / f"findings{number}"
        folder.mkdir()
        document = FindingsDocument(
            model=fingerprint(model), round=number, split="test", by_style={}, by_category={},
            metrics={f"redteam.{k}": measure(v) for k, v in rates.items()},
            sealed_styles=(), tried=10, hits=0, confirmed=0,
        )  # fmt: skip
        write_findings(folder, document, [], {}, [])
        return Findings(folder)

    return make


@pytest.fixture
def scan(tmp_path: Path) -> Callable[..., TriggerReport]:
    def make(model: Checkpoint, *, leaks: int = 0, tried: int = 1662) -> TriggerReport:
        folder = tmp_path / f"scan{tried}"
        folder.mkdir()
        document = ScanDocument(
            model=fingerprint(model), candidates=tried, best=Candidate("owl", "prefix"), top=[],
            metrics={"backdoor.leak": measure(wilson(leaks, 40))},
        )  # fmt: skip
        (folder / "scan.json").write_text(document.model_dump_json())
        return TriggerReport(folder)

    return make


@pytest.fixture
def locks(tmp_path: Path) -> Callable[..., LockReport]:
    def make(model: Checkpoint, *, opened: int = 0, name: str = "locks") -> LockReport:
        folder = tmp_path / name
        folder.mkdir()
        gains = [1.0] * opened + [0.0] * (80 - opened)
        document = LockDocument(
            model=fingerprint(model), candidates=1662, best=Candidate("owl", "prefix"), top=[],
            metrics={"lock.gain": measure(mean_estimate(gains))},
        )  # fmt: skip
        (folder / "locks.json").write_text(document.model_dump_json())
        return LockReport(folder)

    return make
