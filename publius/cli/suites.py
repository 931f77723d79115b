"""`publius eval NAME...`: published benchmarks and safety sets on several models, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from publius.cli.base import AsJson, Home, print_json
from publius.cli.evaluate import eval_app
from publius.cli.remote import remote_config
from publius.constitution.styles import StyleName
from publius.core.console import console
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.evals.corpora import Corpora, corpora_of, search
from publius.evals.registry import DATA_VARIABLE, HARNESS, SUITES, HarnessTask, files_of, named
from publius.evals.suites.base import Suite
from publius.evals.suites.compare import (
    Asked,
    Comparison,
    Open,
    Searched,
    Tested,
    compare,
    hashes,
    prepare,
    run,
)
from publius.evals.suites.harness import harness_here, harness_result, run_harness
from publius.evals.suites.subjects import (
    REPLY_TOKENS,
    LanguageSubject,
    PreferenceSubject,
    RemoteSubject,
    Subject,
)
from publius.inference.remote import RemoteModel
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, is_reward
from publius.release.locate import locate
from publius.report.evals import comparison_tables, contamination_table, suite_table, write_comparison

__all__ = ["contamination", "run_suites", "tell"]

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Suites; lm:TASK is one of lm-eval's.")]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", metavar="NAME=PATH", help="A suite's file; several for several files."),
]
Data = Annotated[
    Path | None, typer.Option("--data", envvar=DATA_VARIABLE, help="A folder to find the files in.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="So many questions, the same for all.")]
Words = Annotated[int, typer.Option("--words", min=1, max=64, help="So many words in a row are a match.")]
Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against", metavar="TEXT", help="Training text: a run, run/stage, files. Tells who is dirty."
    ),
]


Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A run, run/stage, folder, or DIALECT+URL#NAME; again for more of them."),
]
Style = Annotated[
    StyleName, typer.Option("--style", help="Choices put to our models: raw continues text, chat asks.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Of a reply: 128, or what a task of lm-eval says."),
]
Judge = Annotated[
    str | None, typer.Option("--judge", help="A model that marks what no program can; as --model.")
]
Shots = Annotated[int | None, typer.Option("--shots", min=0, help="Examples before a question (lm:).")]
KeyVariable = Annotated[
    str, typer.Option("--key-variable", help="Environment variable that holds a remote model's key.")
]
RemoteSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Of remote models: spend_cap=2, on_error=skip."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Write JSON here, and every answer beside it.")]
Page = Annotated[Path | None, typer.Option("--page", help="Write a page with figures here.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


class _How(NamedTuple):
    """How models are opened and asked."""

    home: Path
    device: str
    style: StyleName
    max_tokens: int | None
    key_variable: str
    settings: Sequence[str]
    limit: int | None
    judge: str | None
    shots: int | None

    def facts(self) -> dict[str, Any]:
        """What of it decides the numbers."""
        wanted = ("style", "max_tokens", "limit", "judge", "shots")
        return {name: getattr(self, name) for name in wanted}


@eval_app.command("list")
def tell(data: Data = None, as_json: AsJson = False) -> None:
    """What can be evaluated, on which models, and whether its file is in the folder of data."""
    rows: list[dict[str, Any]] = []
    for suite in (*SUITES.values(), *HARNESS.values()):
        try:
            found = files_of(suite, {}, data) if data is not None else []
        except UserError:
            found = []
        models = list(suite.models) if isinstance(suite, Suite) else ["language"]
        ready = not isinstance(suite, HarnessTask) or harness_here()
        needs = "" if ready else "pip install 'publius[eval]'"
        rows.append(
            {"name": suite.name, "about": suite.about, "models": models, "files": found, "needs": needs}
        )
    if as_json:
        print_json(rows)
    else:
        _out(suite_table(rows))


@eval_app.command("run")
def run_suites(
    names: Names,
    models: Models = None,
    file: Files = None,
    data: Data = None,
    limit: Limit = None,
    style: Style = "raw",
    max_tokens: MaxTokens = None,
    judge: Judge = None,
    against: Against = None,
    words: Words = 13,
    shots: Shots = None,
    key_variable: KeyVariable = "",
    settings: RemoteSettings = None,
    out: Out = None,
    page: Page = None,
    device: Device = "auto",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Run suites on models and compare them; `publius eval NAME...` for short.

    Every rate has n and an interval that knows which questions belong together; every model is held against
    the first on the same questions. What could not be scored counts against the model and is shown.
    """
    _places(out, page)
    if not models:
        raise UserError("no model to evaluate", where="publius eval", fix="name one or more with --model")
    how = _How(home, device, style, max_tokens, key_variable, settings or [], limit, judge, shots)
    suites, tasks = _chosen(names)
    given, labels = _files(file or []), _labels(models)
    paths = {suite.name: files_of(suite, given, data) for suite in (*suites, *tasks)}
    openers = [_opener(label, model, how) for label, model in labels.items()]
    asked = [prepare(suite, paths[suite.name], limit, judged=judge is not None) for suite in suites]
    if against:
        asked = _searched(asked, corpora_of(against, home), against, words)
    tested = _tested(asked, openers, how) if asked else []
    tested += _harness(tasks, paths, labels, how, given)
    results = [compare(one, tested, list(labels)) for one in asked]
    results += [harness_result(task, hashes(paths[task.name]), tested) for task in tasks]
    results.sort(key=lambda result: names.index(result.suite))
    found = Comparison(
        models=list(labels), settings=how.facts(), results=results,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    _give(found, tested, out, page, as_json)


@eval_app.command()
def contamination(
    names: Names,
    against: Annotated[
        list[str], typer.Option("--against", metavar="TEXT", help="Training text: a run, run/stage, files.")
    ],
    file: Files = None,
    data: Data = None,
    limit: Limit = None,
    words: Words = 13,
    out: Annotated[Path | None, typer.Option("--out", help="Write JSON here, with every match.")] = None,
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """How many questions of a suite stand word for word in the training text. Asks no model."""
    suites, tasks = _chosen(names)
    if tasks:
        raise UserError(f"{tasks[0].name} cannot be searched for", where="publius eval contamination",
                        fix=f"name one of {', '.join(SUITES)}")  # fmt: skip
    given = _files(file or [])
    asked = [prepare(suite, files_of(suite, given, data), limit, judged=True) for suite in suites]
    results = [compare(one, [], []) for one in _searched(asked, corpora_of(against, home), against, words)]
    found = {r.suite: r.contamination.model_dump() for r in results if r.contamination is not None}
    if out is not None:
        _write(out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        print_json(found)
    else:
        _out(contamination_table(results))


def _chosen(names: Sequence[str]) -> tuple[list[Suite], list[HarnessTask]]:
    found = [named(name) for name in dict.fromkeys(names)]
    return [s for s in found if isinstance(s, Suite)], [s for s in found if isinstance(s, HarnessTask)]


def _files(given: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not path:
            raise UserError(
                f"{one!r} names no file", where="--file", fix="write NAME=PATH: --file bbq=age.jsonl"
            )
        found.setdefault(name, []).append(path)
    return found


def _labels(models: Sequence[str]) -> dict[str, str]:
    """What each model is called in tables -> what it was given as."""
    found: dict[str, str] = {}
    for model in models:
        label = model.partition("#")[2] if "://" in model else model
        if (label or model) in found:
            raise UserError(f"{model!r} stands twice", where="--model", fix="name each model once")
        found[label or model] = model
    return found


def _opener(label: str, model: str, how: _How) -> Open:
    """What opens the model; its name is checked now, its weights are read later."""
    if "://" in model:
        dialect, plus, rest = model.partition("+")
        url, _, name = rest.partition("#")
        if not plus:
            raise UserError(
                f"{model!r} does not say what it speaks", where="--model",
                fix="write openai+http://127.0.0.1:8080/v1#NAME or anthropic+https://HOST#NAME",
            )  # fmt: skip
        fields = {"dialect": dialect, "url": url, "model": name, "key_variable": how.key_variable}
        config = remote_config(fields, how.settings, "publius eval")

        @contextmanager
        def far() -> Iterator[Subject]:
            with RemoteModel(config) as opened:
                yield RemoteSubject(opened, max_tokens=how.max_tokens or REPLY_TOKENS)

        return far
    where, folder = str(pick_device(how.device)), _folder(model, how.home)

    @contextmanager
    def near() -> Iterator[Subject]:
        if is_reward(folder):
            yield PreferenceSubject(label, RewardCheckpoint(folder), device=where)
        else:
            tokens = how.max_tokens or REPLY_TOKENS
            yield LanguageSubject(label, Checkpoint(folder), style=how.style, max_tokens=tokens, device=where)

    return near


def _folder(model: str, home: Path) -> Path:
    places = (Path(model), home / "runs" / model / "files")  # a stage's name may stand for a preference model
    found = next((place for place in places if (place / "config.json").is_file()), None)
    return found if found is not None else locate(model, home).checkpoint


def _searched(
    asked: Sequence[Asked], corpora: Sequence[Corpora], against: Sequence[str], words: int
) -> list[Asked]:
    """All of them looked for at once: the text is read one time."""
    items = {f"{one.suite.name}/{q.meta['id']}": q.meta["passages"] for one in asked for q in one.questions}
    found = search(items, corpora, words=words)
    overlaps, read = found.found(), Searched(", ".join(against), found.tokens, words)
    return [
        one._replace(
            searched=read,
            overlaps={
                (name := str(q.meta["id"])): overlaps[f"{one.suite.name}/{name}"]._replace(id=name)
                for q in one.questions
            },
        )
        for one in asked
    ]


def _tested(asked: Sequence[Asked], openers: Sequence[Open], how: _How) -> list[Tested]:
    """Every suite on every model, the judge beside them where one is wanted."""
    with ExitStack() as stack:
        reader = None
        if how.judge is not None and any(one.suite.judge for one in asked):
            reader = stack.enter_context(_opener(how.judge, how.judge, how)()).scorer()
        return list(run(asked, openers, how.facts(), reader))


def _harness(
    tasks: Sequence[HarnessTask],
    paths: Mapping[str, list[str]],
    labels: Mapping[str, str],
    how: _How,
    given: Mapping[str, list[str]],
) -> list[Tested]:
    if not tasks:
        return []
    if remote := [label for label, model in labels.items() if "://" in model]:
        raise UserError(
            "lm-eval's tasks are run on checkpoints here", where=remote[0], fix="name a checkpoint"
        )
    folders = {label: _folder(model, how.home) for label, model in labels.items()}
    if rewards := [label for label, folder in folders.items() if is_reward(folder)]:
        raise UserError("a preference model writes nothing", where=rewards[0], fix="name a language model")
    examples = {name: path[0] for name, path in given.items() if name.endswith("_dev")}
    return run_harness(
        [(task, paths[task.name]) for task in tasks],
        [(label, Checkpoint(folder)) for label, folder in folders.items()],
        limit=how.limit, shots=how.shots, chat=how.style == "chat", device=how.device, extra_files=examples,
        max_tokens=how.max_tokens,
    )  # fmt: skip


def _give(
    found: Comparison, tested: Sequence[Tested], out: Path | None, page: Path | None, as_json: bool
) -> None:
    if out is not None:
        _write(out, found.model_dump_json(indent=1) + "\n")
        answers = out.with_name(f"{out.stem}.samples.jsonl")
        lines = [
            json.dumps({"model": t.model, **sample.model_dump(mode="json")}, ensure_ascii=False)
            for t in tested
            for sample in t.samples
        ]
        _write(answers, "".join(f"{line}\n" for line in lines))
    if page is not None:
        write_comparison(page, found)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for table in comparison_tables(found):
        _out(table)


def _places(*paths: Path | None) -> None:
    """Asked before hours of work, not after them: is there a folder for each?"""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise UserError("no such folder to write into", where=str(path), fix="make it, or choose another")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write: {error.strerror or error}", where=str(path), fix="choose another place"
        ) from None
    console.print(f"written: {path}", markup=False)


def _out(table: Table) -> None:
    Console(highlight=False).print(table)
