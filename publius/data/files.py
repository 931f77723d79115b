"""Bytes in and out: paths, globs and URLs; compressed lines read strictly; files written whole.

Reading is strict on purpose. A corpus that lost its tail to a broken download, or holds bytes that
are not UTF-8, trains a worse model and says nothing; here it stops with the file and the line.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, BinaryIO, NamedTuple, Self, cast

import zstandard
from fsspec.core import url_to_fs

from publius.core.errors import UserError

__all__ = ["JsonlWriter", "Line", "expand", "format_of", "open_binary", "read_lines", "whole"]

COMPRESSIONS = (".gz", ".xz", ".zst")
FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".txt": "text", ".md": "text", ".parquet": "parquet",
}  # fmt: skip
_MAGIC = frozenset("*?[")
_LONGEST_WINDOW = 2**31
"""What `zstd --long=31` needs, with which large dumps are packed: the library's own limit is 2**27."""
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""How a file in UTF-16 begins."""


class Line(NamedTuple):
    """One line of a file: its 1-based number, and its text without the line end."""

    number: int
    text: str


def format_of(path: str) -> tuple[str, str]:
    """`(format, compression)` from a file name, `("", ...)` when the name says nothing we read."""
    name = PurePosixPath(path).name.lower()
    compression = next((c for c in COMPRESSIONS if name.endswith(c)), "")
    stem = name.removesuffix(compression)
    return next((f for suffix, f in FORMATS.items() if stem.endswith(suffix)), ""), compression


def expand(paths: Sequence[str]) -> list[str]:
    """Files behind `paths`: each a file, a folder (searched through), a glob, or a URL of any of these.

    URLs (`hf://datasets/owner/name/file.jsonl`, `s3://...`) go through fsspec. Files keep the order of
    `paths`; those of one folder or glob are sorted by name, and files of no known format in it are
    passed over.

    Raises:
        UserError: when a path has no readable file, names an unknown format, or cannot be reached.
    """
    found: list[str] = []
    for path in paths:
        is_url = "://" in path
        matches, chosen = _remote_files(path) if is_url else _local_files(path)
        if not chosen:  # a folder or glob: take what we can read of it
            matches = sorted(m for m in matches if format_of(m)[0])
        if not matches:
            raise UserError(
                "no data file here", where=path, fix=f"give a file ending in {_known()}, or a folder"
            )
        for match in matches:
            if not format_of(match)[0]:
                raise UserError("unknown file format", where=match, fix=f"give a file ending in {_known()}")
        found += matches
    if not found:
        raise UserError("no data paths were given", where="paths", fix="name at least one file or folder")
    return list(dict.fromkeys(found))


def _known() -> str:
    return f"{', '.join(FORMATS)} (also packed as {', '.join(COMPRESSIONS)})"


def _local_files(path: str) -> tuple[list[str], bool]:
    place = Path(path).expanduser()
    if place.is_file():
        return [str(place)], True
    if place.is_dir():
        return [str(p) for p in place.rglob("*") if p.is_file()], False
    if _MAGIC & set(path):
        anchor = Path(place.anchor or ".")
        pattern = str(place.relative_to(place.anchor) if place.anchor else place)
        return [str(p) for p in anchor.glob(pattern) if p.is_file()], False
    raise UserError("no such file or folder", where=path, fix="check the spelling and the working directory")


def _remote_files(url: str) -> tuple[list[str], bool]:
    with _reaching(url):
        system, inner = url_to_fs(url)
        scheme = url.split("://", 1)[0]
        if _MAGIC & set(url):
            names, chosen = cast("list[str]", system.glob(inner)), False
        elif system.isdir(inner):
            names, chosen = cast("list[str]", system.find(inner)), False
        elif system.exists(inner):
            names, chosen = [inner], True
        else:
            raise UserError(
                "no such file or folder", where=url, fix="check the address, and your access to it"
            )
        return [
            f"{scheme}://{name.removeprefix('/')}" if scheme != "memory" else f"memory://{name}"
            for name in names
        ], chosen


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every fsspec backend raises its own library's errors
        reason = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        raise UserError(
            f"cannot reach this address: {reason}",
            where=url,
            fix="check address, network and access token, or download the files and give their folder",
        ) from error


class _PackedReader(io.RawIOBase):
    """zst frames or xz streams as one stream that, unlike the libraries' own readers, refuses a cut-off end
    (`zstandard`) and what is no frame after a first good one (`lzma`, which ends there without a word)."""

    def __init__(self, source: BinaryIO, decoder: Callable[[], Any], *, padded: bool) -> None:
        self._source, self._new, self._padded = source, decoder, padded
        self._decoder: Any = None  # the frame being read, None between frames
        self._begun = not padded  # an xz file has a stream, were it of nothing
        self._ready = memoryview(b"")
        self._input = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        while not self._ready:
            if not self._input:
                self._input = self._source.read(1 << 17)
                if not self._input:
                    if self._decoder is not None or not self._begun:
                        raise EOFError("the file ends inside a compressed frame")
                    return 0
            if self._decoder is None:
                if self._padded:  # zeros may stand between xz streams, and after the last
                    self._input = self._input.lstrip(b"\0")
                    if not self._input:
                        continue
                self._decoder, self._begun = self._new(), True
            self._ready = memoryview(self._decoder.decompress(self._input))
            self._input = self._decoder.unused_data if self._decoder.eof else b""
            if self._decoder.eof:
                self._decoder = None
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


def _unpack(raw: BinaryIO, compression: str) -> BinaryIO:
    if compression == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    if compression == ".xz":
        stream = _PackedReader(raw, lzma.LZMADecompressor, padded=True)
        return cast("BinaryIO", io.BufferedReader(stream, 1 << 17))
    if compression == ".zst":
        stream = _PackedReader(raw, _zstd_frame, padded=False)
        return cast("BinaryIO", io.BufferedReader(stream, 1 << 17))
    return raw


def _zstd_frame() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW).decompressobj()


@contextmanager
def open_binary(path: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of a local file or URL.

    Raises:
        UserError: naming the file, when it cannot be opened, or when its packing is damaged or cut off.
    """
    compression = format_of(path)[1]
    try:
        with _open_raw(path) as raw, _unpack(raw, compression) as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise UserError(
            f"this {compression.removeprefix('.') or 'file'} is damaged or cut off: {error}",
            where=path,
            fix="download or pack it again",
        ) from error
    except OSError as error:
        many = error.errno in (errno.EMFILE, errno.ENFILE)
        fix = "raise `ulimit -n`, or join some files: a limited amount is read from all at once"
        raise UserError(
            f"cannot read: {error.strerror or error}", where=path, fix=fix if many else "check the file"
        ) from error


@contextmanager
def _open_raw(path: str) -> Iterator[BinaryIO]:
    if "://" not in path:
        with Path(path).open("rb") as raw:
            yield raw
        return
    with _reaching(path):
        system, inner = url_to_fs(path)
        handle = cast("BinaryIO", system.open(inner, "rb"))
    with handle:
        yield handle


def read_lines(path: str) -> Iterator[Line]:
    """The lines of a UTF-8 file, numbered from 1, blank ones left out.

    Raises:
        UserError: as `open_binary`, and naming the line of bytes that are not UTF-8.
    """
    with open_binary(path) as stream:
        for number, raw in enumerate(stream, start=1):
            text = _decode(raw, f"{path}:{number}").strip("\r\n")
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield Line(number, text)


def whole(path: str) -> str:
    """The whole text of a UTF-8 file."""
    with open_binary(path) as stream:
        raw = stream.read()
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _not_utf8(f"{path}:{line}", error) from error


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from error


def _not_utf8(where: str, error: UnicodeDecodeError) -> UserError:
    column = error.start - error.object.rfind(b"\n", 0, error.start)
    coded = "utf-16" if error.start == 0 and error.object.startswith(_WIDE_MARKS) else "latin1"
    return UserError(
        f"byte 0x{error.object[error.start]:02x} at column {column} is not UTF-8",
        where=where,
        fix=f"convert the file, for example: iconv -f {coded} -t utf-8",
    )


class JsonlWriter:
    """Writes JSON objects to a `.jsonl.zst` file that appears whole, or not at all.

    Use as a context manager. The rows go to a temporary file beside `path`, which takes its name only
    when the block ends without an error. The bytes depend on the rows alone.

    Raises:
        UserError: when the disk refuses (full, read-only).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary: Path | None = None
        self._file: IO[bytes] | None = None
        self._packed: Any = None
        self.rows = 0
        """How many rows were written."""

    def __enter__(self) -> Self:
        with self._disk():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            self._temporary = Path(name)
            self._file = os.fdopen(handle, "wb")
        self._packed = zstandard.ZstdCompressor(level=6, write_checksum=True).stream_writer(
            self._file, closefd=False
        )
        return self

    def write(self, row: dict[str, Any]) -> None:
        """Add one row."""
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        with self._disk():
            self._packed.write(line.encode("utf-8") + b"\n")
        self.rows += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None and self._temporary is not None
        try:
            if kind is None:
                with self._disk():
                    self._packed.close()
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._temporary.chmod(0o644)
                    self._temporary.replace(self._path)
        finally:
            try:
                self._file.close()  # fails where the disk is full
            finally:
                self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write: {error.strerror or error}",
                where=str(self._path),
                fix="free some space, or choose a folder you may write to",
            ) from error
