"""The training text a benchmark is searched in: a run's shards and conversations, or files of any shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from publius.core.errors import UserError
from publius.data.files import expand, format_of, read_lines, whole
from publius.data.sources import rows
from publius.evals.contamination import Block, Overlaps, shard_blocks, text_blocks
from publius.pipeline import list_runs, show_run
from publius.pipeline.names import did_you_mean
from publius.pipeline.show import StageView
from publius.tokenizer.shards import Shards
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Corpora", "corpora_of", "search", "strings"]

_NOT_READ = frozenset({"id", "source", "meta", "type", "role"})
"""Keys of a row whose strings no model is trained on."""


class Corpora(NamedTuple):
    """Something to search.

    Attributes:
        size: of shards in tokens, of text in bytes, about; for the time left.
        blocks: reads it anew.
    """

    name: str
    size: int
    blocks: Callable[[], Iterator[Block]]


def corpora_of(targets: Sequence[str], home: Path) -> list[Corpora]:
    """What each target names: a run (all it trained on), `run/stage`, or files, folders, globs.

    Raises:
        UserError: for a name that is neither, or a stage that holds no text.
    """
    found: list[Corpora] = []
    for target in targets:
        run, _, stage = target.partition("/")
        if run in list_runs(home) and not Path(target).exists():
            found += _of_run(run, stage, home)
        elif Path(target, "index.json").is_file():
            raise UserError(
                "shards are read with their tokenizer",
                where=target,
                fix="name the run and its stage: --against RUN/shards",
            )
        else:
            try:
                files = expand([target])
            except UserError as error:
                known = did_you_mean(run, list_runs(home)) if list_runs(home) else error.fix
                raise UserError(error.what, where=error.where, fix=known) from None
            found += [Corpora(file, _size(file), _Texts(file)) for file in files]
    return found


def _size(file: str) -> int:
    """About how many bytes of text: packed files hold some four times their size."""
    size = Path(file).stat().st_size if "://" not in file else 0
    return 4 * size if format_of(file)[1] else size


def search(
    items: Mapping[str, Sequence[str]], corpora: Sequence[Corpora], *, words: int = 13, least: int = 8
) -> Overlaps:
    """Every item looked for in every corpus; arguments and errors as `Overlaps`."""
    found = Overlaps(items, words=words, least=min(least, words))
    for one in corpora:
        found.scan(one.blocks(), one.size, f"searching {one.name}")
    return found


class _Texts:
    """The strings of a file, each a document of its own."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __call__(self) -> Iterator[Block]:
        return text_blocks(self._strings())

    def _strings(self) -> Iterator[str]:
        if format_of(self._file)[0] == "text":
            yield whole(self._file)
            return
        for row, _ in rows(self._file):
            yield from strings(row)


def strings(value: Any) -> Iterator[str]:
    """Every text in a row of any shape, but for names and notes."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, dict):
        for key, part in cast("dict[str, Any]", value).items():
            if key not in _NOT_READ:
                yield from strings(part)
    elif isinstance(value, list):
        for part in cast("list[Any]", value):
            yield from strings(part)


def _of_run(run: str, stage: str, home: Path) -> list[Corpora]:
    """The shards of a run, and its files of training text that are in none of them."""
    done = [s for s in show_run(run, home).stages if s.state == "done" and s.record is not None]
    made = {s.record.id: s for s in done if s.record is not None}
    if stage and stage not in {s.name for s in done}:
        names = [s.name for s in done]
        raise UserError(
            f"run {run!r} has no finished stage {stage!r}", where=run, fix=did_you_mean(stage, names)
        )
    shards = [s for s in done if (s.path / "files" / "index.json").is_file()]
    in_shards = {made[i].name for s in shards for i in _inputs(s) if i in made}
    found: list[Corpora] = []
    for one in done:
        text = one.path / "files" / "train.jsonl.zst"
        if stage not in ("", one.name):
            continue
        if one in shards:
            found.append(_shards(run, one, made))
        elif text.is_file() and (stage or one.name not in in_shards) and _has_rows(text):
            found.append(Corpora(f"{run}/{one.name}", _size(str(text)), _Texts(str(text))))
    if not found:
        where = f"{run}/{stage}" if stage else run
        raise UserError("nothing to search", where=where, fix="name a run that has tokenized its text")
    return found


def _inputs(stage: StageView) -> Iterator[str]:
    """The identities of what a stage was given."""
    for given in stage.record.inputs.values() if stage.record is not None else ():
        yield from [given] if isinstance(given, str) else given or ()


def _has_rows(text: Path) -> bool:
    return next(read_lines(str(text)), None) is not None


def _shards(run: str, stage: StageView, made: dict[str, StageView]) -> Corpora:
    name = f"{run}/{stage.name}"
    tokenizers = [
        made[i] for i in _inputs(stage) if i in made and (made[i].path / "files/tokenizer.json").is_file()
    ]
    if not tokenizers:
        raise UserError(
            "the tokenizer of these shards is not in the run", where=name, fix=f"publius run {run}"
        )
    shards, tokenizer = Shards(stage.path / "files"), Tokenizer.load(tokenizers[0].path / "files")
    if tokenizer.vocab_size < shards.vocab_size:
        raise UserError(
            f"ids up to {shards.vocab_size}, and a tokenizer of {tokenizer.vocab_size}", where=name,
            fix=f"publius run {run}",
        )  # fmt: skip
    return Corpora(name, shards.tokens("train"), lambda: shard_blocks(shards, tokenizer))
