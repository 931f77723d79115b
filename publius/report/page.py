"""The page: sections in the order of the story, one file that asks nothing of the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from publius.core.errors import UserError
from publius.pipeline.store import Store, disk_errors
from publius.report.alignment import judges, outcomes, principles
from publius.report.collect import Gathered, collect
from publius.report.context import haystacks
from publius.report.critiques import critiques, filter_rules
from publius.report.html import Html, el, join
from publius.report.monitors import layers
from publius.report.overview import costs, header, metrics
from publius.report.redteam import coverage, redteam
from publius.report.regression import suites
from publius.report.studies import studies
from publius.report.thinking import budgets
from publius.report.training import losses, reinforcement
from publius.report.transcripts import attacks, conversations

__all__ = ["render", "write_report"]

_SECTIONS: tuple[tuple[str, str, Callable[[Gathered], Html | None]], ...] = (
    ("outcomes", "Before and after", outcomes),
    ("studies", "Studies", studies),
    ("numbers", "Numbers", metrics),
    ("conversations", "Answers", conversations),
    ("context", "Long context", haystacks),
    ("thinking", "Thinking", budgets),
    ("redteam", "Red team", redteam),
    ("coverage", "Coverage", coverage),
    ("regression", "Regression", suites),
    ("attacks", "Attacks", attacks),
    ("monitors", "Monitors", layers),
    ("principles", "Principles", principles),
    ("critiques", "Critiques", critiques),
    ("judges", "Judges", judges),
    ("rl", "RL", reinforcement),
    ("training", "Training", losses),
    ("costs", "Costs", costs),
)
# No scripts, no requests: model text that slipped through escaping could still do nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render(gathered: Gathered) -> str:
    """The whole page. Sections without data are left out."""
    made = [(key, word, part) for key, word, make in _SECTIONS if (part := make(gathered)) is not None]
    style = Html(Path(__file__).with_name("style.css").read_text("utf-8") + filter_rules(gathered))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{gathered.view.name}: Publius run report"),
        el("style", style),
    )
    links = el("nav", [el("a", word, href=f"#{key}") for key, word, _ in made], aria_label="sections")
    body = el("body", header(gathered), links, el("main", [part for _, _, part in made]))
    return "<!doctype html>\n" + join(el("html", head, body, lang="en")) + "\n"


def write_report(home: Path, name: str) -> Path:
    """Write `runs/<name>/report.html` under `home`, whole or not at all, and return its path.

    Raises:
        UserError: for an unknown run, one without a finished stage, a damaged artifact, a disk that refuses.
    """
    gathered = collect(home, name)
    try:
        page = render(gathered)
    except ValueError:  # of a reader that does not say which file it could not read
        if (path := gathered.unreadable()) is None:
            raise
        raise UserError(
            f"{path.name} is damaged: it is not JSON",
            where=str(path),
            fix="delete the artifact and run it again",
        ) from None
    target = Store(home).run(name) / "report.html"
    fresh = target.with_name(f".report.html.{os.getpid()}")
    with disk_errors(f"report of run {name}"):
        try:
            fresh.write_text(page, "utf-8")
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    return target
