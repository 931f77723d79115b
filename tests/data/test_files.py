"""Paths, packings and their damage; files appear whole or not at all."""

import errno
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zstandard

from publius.core.errors import UserError
from publius.data import files
from publius.data.files import JsonlWriter, expand, format_of, open_binary, read_lines, whole

Write = Callable[..., str]


def test_formats() -> None:
    assert format_of("a/b.JSONL.gz") == ("jsonl", ".gz")
    assert format_of("hf://datasets/x/y.parquet") == ("parquet", "")
    assert format_of("notes.md.zst") == ("text", ".zst")
    assert format_of("image.png") == ("", "")


def test_expand_takes_files_folders_and_globs(jsonl: Write, tmp_path: Path) -> None:
    b, a, deep = jsonl([], "in/b.jsonl"), jsonl([], "in/a.jsonl.gz"), jsonl([], "in/sub/c.txt")
    (tmp_path / "in/readme.rst").write_text("")
    assert expand([str(tmp_path / "in")]) == [a, b, deep]
    assert expand([b, str(tmp_path / "in/*.jsonl*")]) == [b, a]
    assert expand([str(tmp_path / "in/**/*.txt")]) == [deep]


def test_expand_globs_from_the_working_directory(
    jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl([], "a.jsonl")
    monkeypatch.chdir(tmp_path)
    assert expand(["*.jsonl"]) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("missing.jsonl", "no such file"), ("empty/*.jsonl", "no data file"), ("x.png", "unknown file format")],
)
def test_expand_errors(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("")
    with pytest.raises(UserError, match=message):
        expand([str(tmp_path / path)])


def test_expand_needs_paths() -> None:
    with pytest.raises(UserError, match="no data paths"):
        expand([])


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_lines_of_every_packing(jsonl: Write, suffix: str) -> None:
    path = jsonl([{"text": "é" * 100_000}, {"n": 2}], f"rows.jsonl{suffix}")
    lines = list(read_lines(path))
    assert [line.number for line in lines] == [1, 2]
    assert lines[1].text == '{"n": 2}'


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_cut_off_file_is_named(jsonl: Write, suffix: str) -> None:
    path = Path(jsonl([{"n": n, "x": os.urandom(40).hex()} for n in range(5000)], f"rows.jsonl{suffix}"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"damaged or cut off[\s\S]*rows.jsonl{suffix}"):
        list(read_lines(str(path)))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_packed_otherwise_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(b"not packed at all, just text\n")
    with pytest.raises(UserError, match="damaged or cut off"):
        list(read_lines(str(path)))


def test_zstd_frames_in_a_row_are_one_file(tmp_path: Path) -> None:
    pack = zstandard.ZstdCompressor().compress
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(pack(b"a\n") + pack(b"b\n"))
    assert [line.text for line in read_lines(str(path))] == ["a", "b"]
    path.write_bytes(b"")
    assert list(read_lines(str(path))) == []


def test_xz_streams_in_a_row_are_one_file(tmp_path: Path) -> None:
    """`lzma.LZMAFile` ends without a word at padding, and at a damaged header, after the first stream."""
    path = tmp_path / "rows.jsonl.xz"
    first, second = lzma.compress(b"a\n"), lzma.compress(b"b\n")
    for between, after in ((b"", b""), (bytes(4), b""), (bytes(8), bytes(4))):
        path.write_bytes(first + between + second + after)
        assert [line.text for line in read_lines(str(path))] == ["a", "b"]
    damaged = [first + broken for broken in (b"\xfe" + second[1:], b"no stream", second[:-1], second[:3])]
    for packed in (*damaged, b"", bytes(8)):
        path.write_bytes(packed)
        with pytest.raises(UserError, match="damaged or cut off"):
            list(read_lines(str(path)))


def test_zstd_with_a_long_window(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)
    path = tmp_path / "rows.jsonl.zst"
    with path.open("wb") as file:
        packed = zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file)
        packed.write(b"a\n")
        packed.close()
    with pytest.raises(zstandard.ZstdError, match="memory"):
        zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    assert [line.text for line in read_lines(str(path))] == ["a"]


@pytest.mark.parametrize("coded", ["utf-16", "utf-16-be"])
def test_the_advice_for_utf16_is_its_own(tmp_path: Path, coded: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        ("\ufeff" if coded == "utf-16-be" else "").encode(coded) + '{"text": "a"}\n'.encode(coded)
    )
    with pytest.raises(UserError, match="iconv -f utf-16"):
        list(read_lines(str(path)))


def test_too_many_open_files_say_what_helps(jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    path = jsonl([{"text": "a"}])
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="ulimit -n"):
        list(read_lines(path))


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(UserError, match=r"byte 0xe9 at column 14 is not UTF-8[\s\S]*rows.jsonl:2"):
        list(read_lines(str(path)))
    text = path.with_suffix(".txt")
    text.write_bytes(b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"byte 0xe9 at column 4 is not UTF-8[\s\S]*rows.txt:3"):
        whole(str(text))


def test_byte_order_marks_blank_lines_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{}\r\n\r\n  \n[1]")
    assert [tuple(line) for line in read_lines(str(path))] == [(1, "{}"), (4, "[1]")]
    path.with_suffix(".txt").write_bytes(b"\xef\xbb\xbfhi\n")
    assert whole(str(path.with_suffix(".txt"))) == "hi\n"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot read"), open_binary(str(path)):
            pass


def test_urls_go_through_fsspec() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/lake/a.jsonl": b'{"n": 1}\n', "/lake/b.txt": b"hello", "/lake/c.png": b""})
    assert expand(["memory://lake"]) == ["memory:///lake/a.jsonl", "memory:///lake/b.txt"]
    assert expand(["memory://lake/*.txt"]) == ["memory:///lake/b.txt"]
    assert [line.text for path in expand(["memory://lake/a.jsonl"]) for line in read_lines(path)] == [
        '{"n": 1}'
    ]
    with pytest.raises(UserError, match="no such file"):
        expand(["memory://lake/d.jsonl"])
    with pytest.raises(UserError, match="cannot reach this address: FileNotFoundError"):
        list(read_lines("memory://lake/d.jsonl"))
    memory.rm("/lake", recursive=True)


def test_the_hub_is_reached_through_its_own_file_system() -> None:
    asked: list[str] = []

    class Hub(fsspec.AbstractFileSystem):
        protocol = "hf"

        def isdir(self, path: str) -> bool:
            asked.append(path)
            raise ConnectionError("no route to host\nmore")

    real = fsspec.get_filesystem_class("hf")
    assert real.__name__ == "HfFileSystem"
    fsspec.register_implementation("hf", Hub, clobber=True)
    try:
        with pytest.raises(
            UserError, match=r"cannot reach this address: ConnectionError: no route to host\n"
        ):
            expand(["hf://datasets/owner/name/train.jsonl"])
    finally:
        fsspec.register_implementation("hf", real, clobber=True)
    assert asked == ["datasets/owner/name/train.jsonl"]


def test_unknown_schemes_are_named() -> None:
    with pytest.raises(UserError, match="cannot reach"):
        expand(["nosuch://a/b.jsonl"])


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new/rows.jsonl.zst"
    with pytest.raises(ZeroDivisionError), JsonlWriter(path) as writer:
        writer.write({"n": 1})
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []


def test_a_writer_keeps_the_old_file_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    for n in (1, 2):
        with JsonlWriter(path) as writer:
            writer.write({"n": n})
            assert writer.rows == 1
            assert path.exists() == (n == 2)
    assert [line.text for line in read_lines(str(path))] == ['{"n":2}']
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl.zst"]


def test_a_full_disk_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with (
        pytest.raises(UserError, match=r"cannot write: No space left on device"),
        JsonlWriter(tmp_path / "rows.jsonl.zst") as writer,
    ):
        writer.write({})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), JsonlWriter(tmp_path / "file/rows.jsonl.zst"):
        pass


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"n": n, "t": "é" * n} for n in range(200)]
    for name in ("a.jsonl.zst", "b.jsonl.zst"):
        with JsonlWriter(tmp_path / name) as writer:
            for row in rows:
                writer.write(row)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.jsonl.zst", "b.jsonl.zst"))
    assert first == second and len(first) < 2000
