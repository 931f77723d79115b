"""Constitutions: read, check, show, compare, import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from publius.cli.base import AsJson, app, print_json
from publius.constitution.differences import Difference, differences, word_pieces
from publius.constitution.lint import doubts
from publius.constitution.principles import Constitution, Principle
from publius.constitution.published import import_published
from publius.constitution.raw_text import Case
from publius.constitution.styles import StyleName, make_style
from publius.core.console import console
from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.pipeline.store import disk_errors
from publius.testing import byte_tokenizer

__all__ = ["check", "diff", "import_constitution", "show_constitution"]

constitution_app = typer.Typer(help="Read, check, compare and import constitutions.", no_args_is_help=True)
app.add_typer(constitution_app, name="constitution")

Source = Annotated[str, typer.Argument(help="A YAML file, or `default` for the bundled one.")]


@constitution_app.command()
def check(
    path: Source = "default",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there is a doubt.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a constitution strictly and list what a careful editor would question.

    A file that cannot be used exits with 2, as everywhere. Doubts are advice: they exit with 0, or with 1
    under --strict.
    """
    loaded = Constitution.load(path)
    found = doubts(loaded)
    if as_json:
        print_json({"id": loaded.id, "version": loaded.version, "hash": loaded.hash, "doubts": found})
    else:
        for doubt in found:
            print(doubt)
        console.print(
            f"{_summary(loaded)}, {_count(found)}, hash {loaded.hash[:12]}", markup=False, soft_wrap=True
        )
    if strict and found:
        raise typer.Exit(1)


def _count(found: list[str]) -> str:
    return f"{len(found)} doubt{'' if len(found) == 1 else 's'}"


def _summary(c: Constitution) -> str:
    revise, judge = (sum(p.serves(use) for p in c.principles) for use in ("revision", "comparison"))
    examples = f"{len(c.critiques)} + {len(c.comparisons)} + {len(c.reasonings)} examples"
    return (
        f"{c.id} version {c.version}: {len(c.principles)} principles ({revise} to revise by, {judge} to "
        f"judge by), {examples}"
    )


@constitution_app.command("show")
def show_constitution(
    path: Source = "default",
    principle: Annotated[str | None, typer.Argument(help="A principle's id: show it whole.")] = None,
    style: Annotated[StyleName, typer.Option(help="How its prompts are laid out: raw or chat.")] = "raw",
    shots: Annotated[int, typer.Option(min=0, help="Worked examples shown before each prompt.")] = 1,
) -> None:
    """Print the principles with their sources; or one of them whole, and the prompts it makes."""
    loaded = Constitution.load(path)
    if principle is not None:
        _show_principle(loaded, loaded.principle(principle), style, shots)
        return
    table = Table(title=loaded.title, title_justify="left")
    for column in ("id", "category", "principle", "source"):
        table.add_column(column, overflow="fold")
    for each in loaded.principles:
        table.add_row(each.id, each.category, each.text, each.source)
    Console(highlight=False).print(table)


def _show_principle(c: Constitution, p: Principle, style: StyleName, shots: int) -> None:
    out = Console(highlight=False)
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="bold", no_wrap=True)
    fields.add_column(overflow="fold")
    category = f"{p.category}: {c.categories[p.category]}" if p.category in c.categories else p.category
    for name, text in (
        ("id", p.id), ("principle", p.text), ("source", p.source), ("category", category),
        ("weight", f"{p.weight:g}"), ("critique request", p.critique_request),
        ("revision request", p.revision_request), ("comparison question", p.comparison_question),
    ):  # fmt: skip
        fields.add_row(name, Text(text or "(none)"))
    out.print(fields)
    for title, prompt in _prompts(c, p, style, shots):
        out.print(Rule(f"{title}, {style}", align="left"))
        print(prompt)


def _prompts(c: Constitution, p: Principle, style: StyleName, shots: int) -> list[tuple[str, str]]:
    """What a model is given under this principle, with stand-ins for what only a run knows."""
    tokenizer = byte_tokenizer()  # of bytes, so that decoding gives the very text that any tokenizer gets
    made = make_style(style, c, tokenizer, context=1 << 30, shots=shots)
    asked = Conversation(messages=(user("(what the person said)"),))
    prompts: list[tuple[str, list[int]]] = []
    if p.serves("critique"):
        prompts.append(("critique", made.critique(asked, "(the answer)", p)))
        prompts.append(("revision", made.revision(asked, "(the answer)", p, "(the critique)")))
    elif p.serves("revision"):
        prompts.append(("revision", made.revision(asked, "(the answer)", p, None)))
    if p.serves("comparison"):
        case = Case(asked, "(one answer)", "(another answer)", p.comparison_question)
        prompts.append(("comparison", made.comparison(case)))
    return [(title, tokenizer.decode(ids)) for title, ids in prompts]


@constitution_app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A YAML file, or `default`.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Say what B changes, word by word. Exits with 0 when nothing differs, 1 when something does, as diff."""
    old, new = Constitution.load(before), Constitution.load(after)
    found = differences(old, new)
    if as_json:
        print_json({"before": old.hash, "after": new.hash, "differences": [d._asdict() for d in found]})
    else:
        out = Console(highlight=False, soft_wrap=True)
        for difference in found:
            _print_difference(out, difference)
        kinds = [d.kind for d in found]
        told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("added", "removed", "changed"))
        console.print(told if found else "no difference", markup=False)
    if found:
        raise typer.Exit(1)


_STYLES = {"added": "green", "removed": "red", "changed": "yellow", "same": ""}
_MARKS = {"added": ("{+", "+}"), "removed": ("[-", "-]"), "same": ("", "")}


def _print_difference(out: Console, difference: Difference) -> None:
    """The place, and under it the words; without colours they are marked as wdiff does."""
    out.print(Text(f"{difference.kind} {difference.where}", style=f"bold {_STYLES[difference.kind]}"))
    text = Text()
    if difference.kind == "changed":
        pieces = word_pieces(difference.before or "", difference.after or "")
    else:
        pieces = [(difference.kind, difference.after or difference.before or "")]
    marked = out.color_system is None and difference.kind == "changed"
    for kind, words in pieces:
        start, end = _MARKS[kind] if marked else ("", "")
        style = _STYLES[kind] + (" strike" if kind == "removed" else "")
        text.append(f"{start}{words}{end}", style=style)
    for line in text.split("\n"):
        out.print(Text("  ") + line)


@constitution_app.command("import")
def import_constitution(
    files: Annotated[list[Path], typer.Argument(help="Published JSON files, or a folder of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The YAML file to write.")],
    name: Annotated[str | None, typer.Option("--id", help="The constitution's id (else the file's).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Make a constitution.yaml of one in a published form, every text as it was published."""
    if output.exists() and not force:
        raise UserError("the file is there already", where=str(output), fix="give another name, or --force")
    if not output.parent.is_dir() or output.is_dir():
        raise UserError(
            "no file can be written there", where=str(output), fix="name a file in a folder that is there"
        )
    made = import_published(files, name=name)
    told = "Imported by `publius constitution import`, texts unchanged. The docs explain each field."
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    with disk_errors(str(output)):
        try:
            fresh.write_text(made.to_yaml(told), "utf-8")
            fresh.replace(output)
        finally:
            fresh.unlink(missing_ok=True)
    found = doubts(made)
    for doubt in found:
        print(doubt)
    console.print(
        f"{output}: {_summary(made)}, {_count(found)}, hash {made.hash[:12]}",
        markup=False,
        soft_wrap=True,
    )
