"""Opening, migrating, and what a killed process leaves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from publius.core.errors import UserError
from publius.serve.exchange import Usage
from publius.serve.store import Store
from publius.serve.store.database import Database
from publius.serve.store.tables import metadata, settings


def child(code: str, url: str) -> subprocess.Popen[str]:
    program = "import sys\nfrom publius.serve.store import Store\n" + code
    return subprocess.Popen(
        [sys.executable, "-c", program, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_migrated_tables_are_those_of_the_code(url: str) -> None:
    database = Database(url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def test_a_secret_is_made_once(url: str) -> None:
    with Store.open(url) as one, Store.open(url) as other:
        assert one.secret() == other.secret() and len(one.secret()) == 32
        secret = one.secret()
    with Store.open(url) as again:
        assert again.secret() == secret


def test_threads_and_processes_open_an_empty_database_at_once(url: str) -> None:
    children = [child("print(Store.open(sys.argv[1]).secret().hex())", url) for _ in range(2)]
    found: list[str] = []

    def opened() -> None:
        with Store.open(url) as store:
            found.append(store.secret().hex())

    threads = [threading.Thread(target=opened) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in children:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        found.append(out.strip())
    assert len(found) == 6 and len(set(found)) == 1


def test_a_store_of_a_newer_version_is_refused(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(UserError, match="a newer Publius made this store"):
        Store.open(url)


def test_a_transaction_that_fails_leaves_nothing(url: str) -> None:
    database = Database(url)
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute(sa.insert(settings).values(name="half", value="done"))
        raise RuntimeError
    with database.read() as connection:
        assert connection.execute(sa.select(settings).where(settings.c.name == "half")).all() == []
    database.close()


def test_what_was_committed_outlives_kill_9(url: str) -> None:
    code = """
import time
from publius.serve.exchange import Usage
store = Store.open(sys.argv[1])
for number in range(1, 10**9):
    store.usage.add("key_a", Usage(1, output=2), 0.0)
    print(number, flush=True)
"""
    process = child(code, url)
    assert process.stdout is not None
    for _ in range(50):
        said = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    said = int((process.stdout.read().splitlines() or [said])[-1])
    process.communicate()
    with Store.open(url) as store:
        used = store.usage.total("key_a")
        assert used.requests in (said, said + 1)
        assert used.tokens == 3 * used.requests
        store.usage.add("key_a", Usage(1), 0.0)  # and it can be written to


def test_writers_in_threads_lose_nothing(store: Store) -> None:
    def write() -> None:
        for _ in range(25):
            store.usage.add("key_a", Usage(1, 2, 3, 4), 0.0)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.usage.total("key_a") == (200, 200, 400, 600, 800)


def test_one_process_leads_and_its_death_frees_the_lead(url: str) -> None:
    with Store.open(url) as store:
        code = "lead = Store.open(sys.argv[1]).lead(); print(lead.held(), flush=True); sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys\nfrom publius.serve.store import Store\n" + code, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        lead = store.lead()
        assert not lead.held()
        process.kill()
        process.communicate()
        deadline = threading.Event()
        assert any(lead.held() or deadline.wait(0.05) for _ in range(200))
        late = store.lead()
        assert lead.held() and not late.held()
        lead.release()
        assert late.held()
        late.release()


def test_a_store_in_memory_serves_all_threads() -> None:
    with Store.open("sqlite://") as store:
        threads = [threading.Thread(target=lambda: store.usage.add("", Usage(1), 0.0)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.usage.total("").requests == 8 and store.lead().held()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'a.db'}") as store:
        store.keys.create("a")
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("mysql://h/x", "a store cannot be kept in 'mysql'"),
        ("nonsense", "the store's URL cannot be read"),
        ("sqlite:////nowhere/at/all/x.db", "the folder of the store is not there"),
        ("postgresql://me:hunter2@127.0.0.1:1/x?connect_timeout=2", "the store cannot be opened"),
    ],
)
def test_a_wrong_url_is_a_users_error_without_the_password(bad: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        Store.open(bad)
    assert "hunter2" not in str(error.value)


def test_a_file_that_is_no_database_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database, though long enough to have been one " * 20)
    with pytest.raises(UserError, match="the store cannot be opened: file is not a database"):
        Store.open(f"sqlite:///{tmp_path / 'a.db'}")
