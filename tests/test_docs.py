"""The pages are true: examples run, YAML is valid, the CLI page is the program's, links resolve."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from publius.constitution import Constitution, doubts
from publius.pipeline import builtin_recipes
from publius.redteam.attackers import ATTACKERS
from publius.redteam.mutators import FAMILIES, MUTATORS
from publius.release import load_policy

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHAPTERS = sorted(DOCS.glob("*.md"))
PAGES = [*CHAPTERS, ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def examples(page: Path, language: str) -> list[tuple[int, str]]:
    """(first line number, code) of the page's fenced blocks in `language`."""
    text = page.read_text("utf-8")
    return [(text[: m.start(2)].count("\n") + 1, m[2]) for m in FENCE.finditer(text) if m[1] == language]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links in `text`, standing in `page`, that lead nowhere."""
    broken: list[str] = []
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", [p for p in CHAPTERS if examples(p, "python")], ids=lambda page: page.stem)
def test_examples_run(page, tmp_path, monkeypatch):
    """One namespace a page, from top to bottom, in an empty folder and with a config folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("PUBLIUS_SIGNING_KEY", raising=False)
    names = {"__name__": f"docs_{page.stem}"}
    for line, code in examples(page, "python"):
        exec(compile("\n" * (line - 1) + code, str(page), "exec", dont_inherit=True), names)


def test_yaml_examples_are_valid(tmp_path):
    (_, constitution), *others = examples(DOCS / "constitution.md", "yaml")
    assert not others
    assert doubts(Constitution.parse(constitution)) == []
    (_, policy), *others = examples(DOCS / "policy.md", "yaml")
    assert not others
    (tmp_path / "policy.yaml").write_text(policy)
    assert load_policy(str(tmp_path / "policy.yaml")).release_level == "public"


def test_cli_page_is_the_programs():
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "cli.md").read_text("utf-8") == module.render(), "run: python docs/generate_cli.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_resolve(page):
    assert broken_links(page, page.read_text("utf-8")) == []


def test_broken_links_are_seen():
    page = DOCS / "README.md"
    good = "[a](core.md) [b](core.md#messages) [c](https://example.org) [d](#the-house)"
    assert broken_links(page, good + "\n```text\n[in](code)\n```\n") == []
    bad = ["nowhere.md", "core.md#nowhere", "#nowhere", "../publius/nowhere/"]
    assert broken_links(page, " ".join(f"[a]({link})" for link in bad)) == bad


def test_every_room_has_a_chapter():
    rooms = {path.parent.name for path in (ROOT / "publius").glob("*/__init__.py")} | {"pocket", "cli"}
    index = (DOCS / "README.md").read_text("utf-8")
    assert {room for room in rooms if not (DOCS / f"{room}.md").exists()} == set()
    assert {room for room in rooms if f"({room}.md)" not in index} == set()


def test_pages_name_what_there_is():
    recipes, attacks = (DOCS / "recipes.md").read_text("utf-8"), (DOCS / "redteam.md").read_text("utf-8")
    assert [name for name in builtin_recipes() if f"## {name}\n" not in recipes] == []
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (yes)? ?\|$", attacks, re.MULTILINE))
    known = {name: attacker.sealed for name, attacker in ATTACKERS.items()}
    known |= {family: all(MUTATORS[name].sealed for name in names) for family, names in FAMILIES.items()}
    assert {name: bool(mark) for name, mark in rows.items()} == known
