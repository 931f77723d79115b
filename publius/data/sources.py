"""Readers: files, folders, globs and URLs -> documents, conversations, preferences, prompts.

All of them stream. Formats are jsonl (or a json list), parquet, and for documents also txt and md, one
document a file; each packed or not with gz, xz or zst.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.data.chat_shapes import Row, conversation_of
from publius.data.files import expand, format_of, open_binary, read_lines, whole
from publius.data.pair_shapes import check_pair, preferences_of, prompt_of
from publius.data.types import Document, Preference

__all__ = [
    "Drop",
    "file_conversations",
    "file_documents",
    "file_preferences",
    "file_prompts",
    "read_conversations",
    "read_documents",
    "read_preferences",
    "read_prompts",
    "rows",
]

_Item = TypeVar("_Item")

Drop = Callable[[UserError], None]
"""What to do with the error of a row that is to be passed over."""


def read_documents(paths: Sequence[str]) -> Iterator[Document]:
    """Documents: rows with a `text` (and perhaps `id`, `source`), or whole text files.

    Raises:
        UserError: naming file and line, for anything that cannot be read as asked.
    """
    return _each(paths, file_documents)


def read_conversations(paths: Sequence[str]) -> Iterator[Conversation]:
    """Conversations, in any shape of `chat_shapes`. Raises as `read_documents`."""
    return _each(paths, file_conversations)


def read_preferences(paths: Sequence[str]) -> Iterator[Preference]:
    """Preferences, in any shape of `pair_shapes.preferences_of`; a tie has probability 0.5.

    Raises as `read_documents`.
    """
    return _each(paths, file_preferences)


def read_prompts(paths: Sequence[str]) -> Iterator[Conversation]:
    """Prompts, in any shape of `pair_shapes.prompt_of`. Raises as `read_documents`."""
    return _each(paths, file_prompts)


def _each(paths: Sequence[str], read: Callable[[str], Iterator[_Item]]) -> Iterator[_Item]:
    for path in expand(paths):
        yield from read(path)


def file_documents(path: str, drop: Drop | None = None) -> Iterator[Document]:
    """The documents of one file.

    Args:
        drop: called with the error of a row that is no document, which is then passed over; None raises.
    """
    if format_of(path)[0] == "text":
        name = PurePosixPath(path).name
        yield Document(whole(path), name, name.split(".", 1)[0])
        return
    yield from _built(path, _document, drop)


def _document(row: Row, where: str) -> Document:
    text = row.get("text")
    if not isinstance(text, str):
        raise UserError(
            f"a document has no text: its keys are {', '.join(map(repr, row)) or '(none)'}",
            where=where,
            fix='give rows like {"text": "..."}, or use ingest_chats for conversations',
        )
    path, line = where.rsplit(":", 1)
    name = PurePosixPath(path).name
    source = row.get("source") or name.split(".", 1)[0]
    given = row.get("id")
    return Document(text, f"{name}:{line}" if given is None else str(given), str(source))


def file_conversations(path: str, drop: Drop | None = None) -> Iterator[Conversation]:
    """The conversations of one file."""
    return _built(path, conversation_of, drop)


def file_preferences(path: str, drop: Drop | None = None, *, ties: bool = True) -> Iterator[Preference]:
    """The preferences of one file.

    Args:
        drop: also called for each pair that lacks a reply, and for each tie unless `ties` are wanted.
    """
    for pairs, where in _placed(path, preferences_of, drop):
        for pair in pairs:
            try:
                check_pair(pair, where, ties=ties)
            except UserError as error:
                if drop is None:
                    raise
                drop(error)
                continue
            yield pair


def file_prompts(path: str, drop: Drop | None = None) -> Iterator[Conversation]:
    """The prompts of one file."""
    return _built(path, prompt_of, drop)


def _built(path: str, build: Callable[[Row, str], _Item], drop: Drop | None) -> Iterator[_Item]:
    return (item for item, _ in _placed(path, build, drop))


def _placed(path: str, build: Callable[[Row, str], _Item], drop: Drop | None) -> Iterator[tuple[_Item, str]]:
    """What the rows hold, and where they stand."""
    for row, where in rows(path):
        try:
            item = build(row, where)
        except UserError as error:
            if drop is None:
                raise
            drop(error)
            continue
        yield item, where


def rows(path: str) -> Iterator[tuple[Row, str]]:
    """The JSON objects of a jsonl, json or parquet file, each with `file:line` (row number in parquet).

    Raises:
        UserError: for a line that is not a JSON object, or a file of another format.
    """
    kind = format_of(path)[0]
    if kind == "jsonl":
        found = _jsonl_rows(path)
    elif kind == "json":
        found = _json_rows(path)
    elif kind == "parquet":
        found = _parquet_rows(path)
    else:
        raise UserError("this data needs rows", where=path, fix="give a .jsonl, .json or .parquet file")
    for row, where in found:
        if not isinstance(row, dict):
            raise UserError("a row is not a JSON object", where=where, fix='write rows like {"text": "..."}')
        yield cast("Row", row), where


def _jsonl_rows(path: str) -> Iterator[tuple[Any, str]]:
    for line in read_lines(path):
        where = f"{path}:{line.number}"
        try:
            row = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"not valid JSON: {error}", where=where, fix="one JSON object on each line"
            ) from error
        if "\\ud" in line.text or "\\uD" in line.text:
            _refuse_surrogates(row, where)
        yield row, where


def _refuse_surrogates(row: Any, where: str) -> None:
    """Half of an escaped UTF-16 pair is no character, and no UTF-8 file could hold it."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            "an escape \\uD800-\\uDFFF stands alone: it is half a character", where=where, fix="mend the row"
        ) from error


def _json_rows(path: str) -> Iterator[tuple[Any, str]]:
    try:
        value = json.loads(whole(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=path, fix="give a JSON list of objects") from error
    for number, row in enumerate(cast("list[Any]", value if isinstance(value, list) else [value]), start=1):
        _refuse_surrogates(row, f"{path}:{number}")
        yield row, f"{path}:{number}"


def _parquet_rows(path: str) -> Iterator[tuple[Any, str]]:
    packed = bool(format_of(path)[1])
    with open_binary(path) as stream:
        try:
            # Parquet is read from its end: a packed file is unpacked into memory first.
            table = pq.ParquetFile(io.BytesIO(stream.read()) if packed else stream)
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{path}:{number}"
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"not a readable parquet file: {reason}", where=path, fix="write it again"
            ) from error
