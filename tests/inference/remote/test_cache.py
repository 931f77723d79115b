from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.inference.remote.cache import AnswerCache, default_cache, request_key


def test_keys_are_of_content():
    body = {"model": "m", "messages": [{"role": "user", "content": "é"}]}
    key = request_key("http://h", body, 0)
    assert key == request_key("http://h", dict(reversed(body.items())), 0) and len(key) == 64
    others = [("http://g", body, 0), ("http://h", body | {"model": "n"}, 0), ("http://h", body, 1)]
    assert len({key, *(request_key(*other) for other in others)}) == 4


def test_kept_on_disk_for_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "c.sqlite"
    cache = AnswerCache(path)
    cache.put("k", "one")
    cache.put("k", "two")
    other = AnswerCache(path)  # a second process would see the same
    assert other.get("k") == "two" and other.get("none") is None
    other.close()
    cache.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_threads_share_it(tmp_path):
    cache = AnswerCache(tmp_path / "c.sqlite")
    threads = [threading.Thread(target=lambda i=i: cache.put(f"{i}", "x")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.get(f"{i}") == "x" for i in range(8))
    cache.close()


def test_what_cannot_be_used_is_one_error(tmp_path):
    bad = tmp_path / "bad.sqlite"
    bad.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(UserError, match="cache of remote answers cannot be used") as raised:
        AnswerCache(bad)
    assert raised.value.where == str(bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        AnswerCache(tmp_path / "file" / "c.sqlite")


def test_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "publius" / "remote.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "publius" / "remote.sqlite"
