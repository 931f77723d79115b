"""Locks, atomic writes and disk errors, with real locks and a really full device where there is one."""

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import store as publius_store
from publius.pipeline.store import (
    Store,
    claim,
    disk_errors,
    is_claimed,
    left_by_the_dead,
    read_json,
    remove_tree,
    write_json,
)


def test_a_claim_excludes_another(tmp_path):
    partial = tmp_path / "sft-abc.partial"
    assert not is_claimed(partial)
    with claim(partial):
        assert is_claimed(partial)
        said = rf"another runner \(process {os.getpid()}\) is making sft-abc"
        with pytest.raises(UserError, match=said), claim(partial):
            pass
    assert not is_claimed(partial)
    with claim(partial):
        pass


def test_a_claim_survives_the_owner_renaming_the_folder(tmp_path):
    """A claimer that opened the lock of a folder since renamed must not think it holds the new one."""
    partial = tmp_path / "s.partial"
    failures: list[str] = []
    held = threading.Lock()

    def worker():
        for _ in range(60):
            try:
                with claim(partial):
                    if not held.acquire(blocking=False):
                        failures.append("two at once")
                        continue
                    held.release()
                    remove_tree(partial)  # from here on another may claim the name
            except UserError:
                pass

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device_is_a_user_error():
    with pytest.raises(UserError, match="the disk is full") as caught, disk_errors("stage x"):
        Path("/dev/full").write_text("x")
    assert caught.value.where == "stage x"


def test_disk_full_told_by_a_library_in_words_only():
    with pytest.raises(UserError, match="the disk is full"), disk_errors("here"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(UserError, match="cannot use here: File too large"), disk_errors("here"):
        raise RuntimeError("I/O error: File too large (os error 27)")
    with pytest.raises(UserError, match="the disk is full"), disk_errors("here"):
        raise RuntimeError("wrapped") from OSError(errno.EDQUOT, "quota")


def test_refused_and_other_errors():
    with pytest.raises(UserError, match="cannot use /data/x: Read-only file system"), disk_errors("here"):
        raise OSError(errno.EROFS, "Read-only file system", "/data/x")
    for code, fix in (
        (errno.ENOTDIR, "another path"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.EFBIG, "ulimit"),
    ):
        with pytest.raises(UserError, match="cannot use /data/x: ") as caught, disk_errors("here"):
            raise OSError(code, os.strerror(code), "/data/x")
        assert fix in caught.value.fix
    with pytest.raises(FileNotFoundError), disk_errors("here"):
        Path("/nowhere/at/all").read_bytes()
    with pytest.raises(ValueError, match="mine"), disk_errors("here"):
        raise ValueError("mine")
    error = UserError("mine")
    with pytest.raises(UserError) as caught, disk_errors("here"):
        raise error
    assert caught.value is error


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    for text in ("{", "[" * 100_000, "9" * 5000):
        path.write_text(text)
        with pytest.raises(UserError, match="damaged"):
            read_json(path)


def test_temporaries_of_dead_processes_are_told_apart(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = {f".a.json.{ended.pid}": True, f".a.json.{os.getpid()}": False, ".a.json.1": False}
    names |= {"a.json": False, f"a.json.{ended.pid}": False, ".hidden": False}
    assert {name: left_by_the_dead(tmp_path / name) for name in names} == names


def test_a_full_disk_takes_no_claim_and_leaves_no_folder(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    partial = tmp_path / "a.partial"
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with claim(partial), pytest.raises(UserError, match="process unknown"), claim(partial):
            pass
    remove_tree(partial)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(OSError, match="No space left"), claim(partial):
            pass
    assert list(tmp_path.iterdir()) == []


def test_alias_is_relative_and_replaced(tmp_path):
    store = Store(tmp_path / "home")
    store.run("r").mkdir(parents=True)
    for folder in ("a-1", "a-2"):
        (store.final(folder) / "files").mkdir(parents=True)
        store.alias("r", "node", folder)
    link = store.run("r") / "node"
    assert str(link.readlink()) == "../../artifacts/a-2"
    (tmp_path / "home").rename(tmp_path / "moved")
    assert (tmp_path / "moved/runs/r/node/files").is_dir()
    assert Store(tmp_path / "moved").aliased("r", "node") == "a-2"
    assert Store(tmp_path / "moved").aliased("r", "none") is None
    assert not store.has_run("r") and not store.has_run("r" * 300)


def test_remove_tree(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_all_is_honest():
    assert all(hasattr(publius_store, name) for name in publius_store.__all__)
