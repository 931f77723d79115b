"""One store suite, two databases: SQLite in a file, and a PostgreSQL of our own where its programs are."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from publius.serve.store import Store

Url = Callable[[str], str]


def programs() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, or where Debian keeps them."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "postgres").exists()), None)


def other_user() -> dict[str, Any]:
    """For subprocess: PostgreSQL will not run as root."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = next((name for name in ("postgres", "nobody") if name in names), None)
    if user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no user to run it as")
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of a running server's socket; it listens nowhere else."""
    bin_ = programs()
    if bin_ is None:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are not installed")
    how = other_user()
    # Short: the path of a socket holds about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if how:
        shutil.chown(folder, how["user"])
    data = folder / "data"
    quiet: dict[str, Any] = {"check": True, "cwd": folder, "capture_output": True, "timeout": 120, **how}
    try:
        made = ["initdb", "-D", data, "-U", "publius", "-A", "trust", "-N", "-E", "UTF8", "--no-locale"]
        subprocess.run([bin_ / made[0], *made[1:]], **quiet)
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        control = [bin_ / "pg_ctl", "-D", data, "-w"]
        # Its output goes to a file: a pipe would stay open as long as the server runs.
        subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **quiet | {
            "capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL
        })  # fmt: skip
        try:
            yield str(folder)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    socket = request.getfixturevalue("postgres")
    name = f"t{os.urandom(6).hex()}"
    with psycopg.connect(f"host={socket} user=publius dbname=postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql+psycopg://publius@/{name}?host={socket}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open, empty store."""
    with Store.open(url) as opened:
        yield opened
