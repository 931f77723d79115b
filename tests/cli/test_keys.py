"""`publius keys`: create, list, revoke."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.requests import Request

from publius.cli import main
from publius.cli.keys import seconds_of
from publius.core.errors import UserError
from publius.serve.errors import ApiError
from publius.serve.guard import Guard
from publius.serve.store import Store, default_url


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("PUBLIUS_STORE", raising=False)
    monkeypatch.delenv("PUBLIUS_HOME", raising=False)

    def run(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(["keys", *arguments])
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


def lets_in(store: Store, secret: str) -> bool:
    guard = Guard(store, open=False)
    try:
        asyncio.run(guard.admit(Request({"type": "http", "headers": []}), "messages", keys=[secret]))
    except ApiError:
        return False
    return True


def test_a_key_is_printed_once_and_opens_the_home_s_store(call, tmp_path: Path) -> None:
    made = call("create", "--name", "ann")
    secret = made.out.strip()
    assert made.code == 0 and secret.startswith("sk-publius-") and "not shown again" in made.err
    listed = call("list")
    assert secret not in listed.out + listed.err and secret[-4:] in listed.out and "in use" in listed.out
    with Store.open(default_url(tmp_path)) as store:
        assert lets_in(store, secret)
        assert call("revoke", "ann").code == 0
        assert not lets_in(store, secret)
    assert "revoked" in call("list").out


def test_scopes_limits_and_expiry_are_kept(call, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    made = call(
        "create", "--name", "bob", "--scope", "label", "--scope", "redteam", "--expires", "30d",
        "--requests-per-minute", "5", "--input-tokens-per-minute", "600", "--output-tokens-per-minute", "70",
        "--budget-tokens", "1000", "--store", url, "--json",
    )  # fmt: skip
    told = json.loads(made.out)
    assert told.pop("key").endswith(told["ends_in"]) and made.err == ""
    assert json.loads(call("list", "--store", url, "--json").out) == [told]
    assert told["scopes"] == ["label", "redteam"] and told["limits"] == {
        "requests_per_minute": 5,
        "input_tokens_per_minute": 600,
        "output_tokens_per_minute": 70,
        "budget_tokens": 1000,
    }
    with Store.open(url) as store:
        (key,) = store.keys.all()
    assert key.expires == key.created + 30 * 86400
    assert json.loads(call("list", "--json").out) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "--name", "a", "--scope", "all"), "no scope 'all'"),
        (("create", "--name", "a", "--expires", "soon"), "'soon' is no time a key can last"),
        (("create", "--name", ""), "a key's name is empty"),
        (("create", "--name", "a", "--store", "oracle://x"), "a store cannot be kept in 'oracle'"),
        (("create", "--name", "a", "--home", "nowhere"), "the folder of the store is not there"),
        (("revoke", "nobody"), "no key in use is called 'nobody'"),
    ],
)
def test_a_users_error_ends_with_2(call, arguments: tuple[str, ...], says: str) -> None:
    said = call(*arguments)
    assert said.code == 2 and says in said.err and said.out == ""


def test_times_a_key_can_last() -> None:
    assert [seconds_of(text) for text in ("90m", "12h", "30d", "8w")] == [5400, 43200, 2592000, 4838400]
    for wrong in ("0d", "d", "5", "-1d", "1.5h", "99999w", "3y"):
        with pytest.raises(UserError):
            seconds_of(wrong)


def test_a_name_is_shown_as_it_was_given(call):
    for name in ("[team] bot", "bot[/]", "a :smile: b"):
        assert call("create", "--name", name).code == 0
    told = call("list")
    assert told.code == 0 and all(name in told.out for name in ("[team] bot", "bot[/]", "a :smile: b"))
