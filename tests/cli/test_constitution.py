"""`publius constitution`: check, show, diff, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from rich.console import Console

from publius.cli import main
from publius.cli.constitution import _print_difference
from publius.constitution.differences import Difference
from publius.constitution.principles import Constitution

FORMS = Path(__file__).parents[1] / "constitution"


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(["constitution", *arguments])
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


def write(name: str, **changes: object) -> None:
    data = yaml.safe_load(Constitution.load().to_yaml()) | changes
    Path(name).write_text(yaml.safe_dump(data))


def test_check_advises_and_fails_only_when_strict(call) -> None:
    clean = call("check")
    assert (clean.code, clean.out) == (0, "")
    assert "16 principles (16 to revise by, 16 to judge by), 6 + 6 + 3 examples, 0 doubts" in clean.err
    assert call("check", "--strict").code == 0
    write("odd.yaml", categories={"lonely": "no principle has it"})
    odd = call("check", "odd.yaml")
    assert odd.code == 0 and "categories: 'lonely' has no principle\n" in odd.out
    assert call("check", "odd.yaml", "--strict").code == 1
    told = json.loads(call("check", "odd.yaml", "--json").out)
    assert len(told["doubts"]) == 17 and told["id"] == "publius-default"
    assert call("check", "none.yaml").code == 2


def test_show_lists_and_shows_one_whole(call) -> None:
    assert "Plutarch" in call("show").out
    shown = call("show", "default", "useful").out
    assert "weight" in shown and "An unhelpful answer" in shown
    assert "CritiqueRequest: Say where the assistant's last answer is vague" in shown
    assert shown.count("My neighbour's dog") == 2, (
        "an example before the critique and one before the revision"
    )
    assert "Revision:\n" in shown and "The answer is:\n" in shown
    chat = call("show", "default", "useful", "--style", "chat", "--shots", "0").out
    assert "<|user|>Human: (what the person said)" in chat and "neighbour" not in chat
    wrong = call("show", "default", "usefull")
    assert wrong.code == 2 and "no principle 'usefull'" in wrong.err


def test_show_of_half_a_principle(call) -> None:
    call("import", str(FORMS / "published"), "-o", "c.yaml")
    c = Constitution.load("c.yaml")
    judging = next(p for p in c.principles if not p.serves("revision"))
    out = call("show", "c.yaml", judging.id).out
    assert "(none)" in out and "comparison, raw" in out and "critique, raw" not in out
    assert "Options:\n (A) [[[(one answer)]]]" in out


def test_diff_is_like_diff(call) -> None:
    assert call("diff", "default", "default") == (0, "", "no difference\n")
    principles = yaml.safe_load(Constitution.load().to_yaml())["principles"]
    principles[0]["source"] = "Universal Declaration of Human Rights, articles 1, 2 and 23"
    write("mine.yaml", principles=principles[:-1], version="3")
    found = call("diff", "default", "mine.yaml")
    assert found.code == 1 and found.err == "0 added, 1 removed, 2 changed\n"
    assert "changed version\n  [-2-]{+3+}\n" in found.out
    assert (
        "changed principles[dignity].source\n" in found.out and "articles 1, 2 and [-7-]{+23+}\n" in found.out
    )
    assert (
        "removed principles[machine]\n  id: machine\n  text: Be open" in found.out and "\x1b" not in found.out
    )
    told = json.loads(call("diff", "default", "mine.yaml", "--json").out)
    assert [d["where"] for d in told["differences"]] == [
        "version",
        "principles[dignity].source",
        "principles[machine]",
    ]
    assert told["before"] == Constitution.load().hash
    assert call("diff", "default", "none.yaml").code == 2


def test_on_a_terminal_colours_tell_what_marks_tell_elsewhere() -> None:
    out = Console(force_terminal=True, color_system="standard", width=80, highlight=False, no_color=False)
    with out.capture() as shown:
        _print_difference(out, Difference("changed", "title", "an old title", "a new title"))
    assert "[-" not in shown.get() and "\x1b[9;31m" in shown.get() and "\x1b[32m" in shown.get()


def test_import_writes_whole_or_not_at_all(call) -> None:
    done = call("import", str(FORMS / "published"), "-o", "c.yaml", "--id", "garden")
    assert done.code == 0 and "c.yaml: garden version 1" in done.err
    c = Constitution.load("c.yaml")
    assert c.id == "garden" and call("check", "c.yaml").code == 0
    again = call("import", str(FORMS / "swarm.json"), "-o", "c.yaml")
    assert again.code == 2 and "--force" in again.err and Constitution.load("c.yaml") == c
    assert call("import", str(FORMS / "swarm.json"), "-o", "c.yaml", "--force").code == 0
    assert Constitution.load("c.yaml").id == "swarm"
    for place in ("no/c.yaml", "."):
        assert call("import", str(FORMS / "swarm.json"), "-o", place, "--force").code == 2
    Path("bad.json").write_text('{"constitutions": [{"critic": "\\ud800", "revision": "x"}]}')
    half = call("import", "bad.json", "-o", "d.yaml")
    assert half.code == 2 and "not valid JSON" in half.err
    Path("bad.json").unlink()
    assert sorted(p.name for p in Path().iterdir()) == ["c.yaml"]
