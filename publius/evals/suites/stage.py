"""Suites as a stage: what `publius eval` measures, as an artifact that a gate can decide on.

    evaluate_suites(run, SuitesConfig(suites=("overrefusal", "bbq"), folder="benchmarks"), model=model)

The files are the user's, and what is in them is part of the stage's identity: an edited file is another
artifact. lm-eval's tasks are asked at the command line only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from publius.constitution.styles import StyleName
from publius.core.config import Config, execution
from publius.core.device import pick_device
from publius.evals.registry import SUITES, files_of
from publius.evals.suites.compare import Comparison, compare, hashes, prepare
from publius.evals.suites.compare import run as put
from publius.evals.suites.subjects import REPLY_TOKENS, LanguageSubject, Subject
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Artifact, Run, stage
from publius.pipeline.names import did_you_mean

__all__ = ["SuiteReport", "SuitesConfig", "evaluate_suites"]


class SuitesConfig(Config):
    """What is asked, from which files, and how."""

    suites: tuple[str, ...] = Field(min_length=1)
    """Names from `publius eval list`, but lm-eval's."""
    folder: str = ""
    """Where the files are found by name, as with `--data`."""
    files: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Suite -> its files, in place of those found."""
    limit: int | None = Field(default=None, ge=1)
    """So many questions of each."""
    style: StyleName = "raw"
    max_tokens: int = Field(default=REPLY_TOKENS, ge=1)
    """Of a reply."""
    max_batch: int = execution(64)
    device: str = execution("auto")

    @field_validator("suites")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in SUITES:
                raise ValueError(f"no suite is called {name!r}: {did_you_mean(name, SUITES)}")
        if len(set(names)) != len(names):
            raise ValueError(f"a suite stands twice: {list(names)}")
        return names


class SuiteReport(Artifact):
    """`comparison.json`, as `publius eval --out` writes it, and `samples.jsonl` with every answer."""

    def document(self) -> Comparison:
        """What was measured.

        Raises:
            UserError: when it is missing or damaged.
        """
        return self.parse("comparison.json", Comparison)


def _paths(config: SuitesConfig) -> dict[str, list[str]]:
    folder = Path(config.folder).expanduser() if config.folder else None
    return {name: files_of(SUITES[name], config.files, folder) for name in config.suites}


def _contents(config: Config) -> Any:
    """The sha256 of every file: an edited one is evaluated anew."""
    assert isinstance(config, SuitesConfig)
    return {name: sorted(hashes(paths).values()) for name, paths in _paths(config).items()}


@stage(version=2, fingerprint=_contents)
def evaluate_suites(
    run: Run, config: SuitesConfig, *, model: Checkpoint, judge: Checkpoint | None = None
) -> SuiteReport:
    """Put suites to a model, and what no program can mark to a judge.

    Metrics: `SUITE.METRIC` of each, with n and an interval that knows clusters.

    Raises:
        UserError: for a suite without a file or questions, and one that only a judge can mark without one.
    """
    asked = [
        prepare(SUITES[name], paths, config.limit, judged=judge is not None)
        for name, paths in _paths(config).items()
    ]
    name, where = fingerprint(model)[:12], str(pick_device(config.device))
    facts = {"style": config.style, "max_tokens": config.max_tokens, "limit": config.limit}
    facts["judge"] = None if judge is None else fingerprint(judge)

    def subject(checkpoint: Checkpoint) -> LanguageSubject:
        return LanguageSubject(
            name, checkpoint, style=config.style, max_tokens=config.max_tokens, max_batch=config.max_batch,
            device=where,
        )  # fmt: skip

    @contextmanager
    def opened() -> Iterator[Subject]:
        yield subject(model)

    reader = None if judge is None else subject(judge).scorer()
    tested = list(put(asked, [opened], facts, reader))
    found = Comparison(
        models=[name], settings=facts, results=[compare(one, tested, [name]) for one in asked],
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    for result in found.results:
        for report in result.reports:
            for metric, measure in report.metrics.items():
                run.metric(metric, measure.estimate())
    lines = [sample.model_dump_json() + "\n" for one in tested for sample in one.samples]
    (run.output / "samples.jsonl").write_text("".join(lines), "utf-8")
    (run.output / "comparison.json").write_text(found.model_dump_json(indent=1) + "\n", "utf-8")
    return SuiteReport(run.output)
