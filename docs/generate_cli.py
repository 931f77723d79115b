"""Write docs/cli.md from the command line itself: `python docs/generate_cli.py`.

The page is made from the Typer app's own words, so it cannot say anything else than `--help` does.
`tests/test_docs.py` fails when the page on disk is not what this script gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from publius.cli import app

__all__ = ["render"]

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """\
# cli: the command line

<!-- Made by docs/generate_cli.py. Do not edit: run `python docs/generate_cli.py`. -->

[`publius/cli/`](../publius/cli/) holds thin verbs over the Python API of the same names: what a verb
does is written in the room it calls. Three rules hold for all of them.

- Results go to stdout, words for people to stderr. With `--json`, stdout is one JSON document.
- What a user can mend ends with one message (what is wrong, where, what to do) and exit code 2. A bug
  ends with a traceback and code 1, Ctrl-C with code 130, SIGTERM with code 0: it stopped as asked.
- `--home`, or the variable `PUBLIUS_HOME`, says where `artifacts/` and `runs/` lie. Without it: here.
"""
PARAGRAPHS = """\
## In practice

```sh
publius plan quickstart                          # what would run, why, and what it would take
publius plan --tier opus --tokens 15T --cluster 16384xh100  # one model on a cluster
publius run quickstart                           # stop it at any time; the same command goes on
publius run quickstart --set seed=1 --name second
publius run quickstart --until sft --set sft.steps=50
publius run my_recipe.py:my_recipe               # a recipe of your own
publius show quickstart --json
publius chat quickstart                          # the release, else the last model of the run
publius chat quickstart/sft -m "What is the river of Elmford?"
publius import ~/models/Qwen3-0.6B --to base      # a base to fine-tune, checked tensor by tensor
publius export quickstart --to out --dtype bfloat16
publius constitution check my.yaml
publius clean --dry-run
```
"""


def render() -> str:
    """The whole page."""
    command = typer.main.get_command(app)
    parts = [INTRODUCTION, PARAGRAPHS, "## Verbs\n", *_verbs(command, "publius")]
    return "\n".join(parts).rstrip("\n") + "\n"


def _verbs(command: Any, name: str) -> Iterator[str]:
    """The section of a command, or those of a group's commands."""
    children = getattr(command, "commands", None)
    if children is None:
        yield _section(command, name)
        return
    options = _table(command)
    if options:
        yield f"### {name}\n\n{_sentence(command)}\n\n{options}"
    for child in children.values():
        yield from _verbs(child, f"{name} {child.name}")


def _section(command: Any, name: str) -> str:
    words = [name, *(_argument(p) for p in _parameters(command, "argument"))]
    if _parameters(command, "option"):
        words.append("[OPTIONS]")
    return f"### {name}\n\n{_sentence(command)}\n\n```text\n{' '.join(words)}\n```\n\n{_table(command)}"


def _sentence(command: Any) -> str:
    return " ".join((command.help or "").split())


def _parameters(command: Any, kind: str) -> list[Any]:
    return [p for p in command.params if p.param_type_name == kind and p.name != "help"]


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    if parameter.secondary_opts:
        names += " / " + ", ".join(f"`{name}`" for name in parameter.secondary_opts)
    return f"{names} `{parameter.metavar}`" if parameter.metavar else names


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value == "" or isinstance(value, (list, tuple)):
        return ""
    if isinstance(value, bool):
        return ("on" if value else "off") if parameter.secondary_opts else ""
    return f"`{value}`"


def _table(command: Any) -> str:
    arguments = [(f"`{_argument(p)}`", p.help or "", _default(p)) for p in _parameters(command, "argument")]
    options = [
        (
            _option(p),
            (p.help or "") + (f" Also `{p.envvar}`." if p.envvar else ""),
            _default(p),
        )
        for p in _parameters(command, "option")
    ]
    rows = arguments + options
    if not rows:
        return ""
    lines = ["| | | default |", "|---|---|---|"]
    lines += [f"| {name} | {words.strip()} | {default} |" for name, words, default in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
