"""Who is let in, who is refused and how, and that no key shows anywhere."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from starlette.requests import Request

from publius.serve.errors import ApiError
from publius.serve.exchange import Usage
from publius.serve.guard import Caller, Guard
from publius.serve.store import SCOPES, Limits, Store

NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open("sqlite://") as opened:
        yield opened


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw})


def admit(guard: Guard, *keys: str, scope: str = "messages") -> Caller:
    return asyncio.run(guard.admit(request(), scope, keys=keys))


def refused(guard: Guard, *keys: str, scope: str = "messages") -> ApiError:
    with pytest.raises(ApiError) as error:
        admit(guard, *keys, scope=scope)
    return error.value


def test_a_key_opens_what_its_scopes_say(store: Store, clock: Clock) -> None:
    made = store.keys.create("ann", scopes=["label"], now=NOW)
    guard = Guard(store, open=False, clock=clock, look_every=0.0)
    assert admit(guard, made.secret, scope="label") == (made.key.id, "ann", frozenset({"label"}), True)
    error = refused(guard, made.secret, scope="admin")
    assert (error.status, error.type) == (403, "permission_error") and "'admin'" in error.message


def test_x_api_key_wins_over_a_bearer(store: Store, clock: Clock) -> None:
    good, other = store.keys.create("good").secret, "sk-publius-other"
    guard = Guard(store, open=False, clock=clock, look_every=0.0)
    both = request(x_api_key=other, authorization=f"Bearer {good}")
    assert guard.bearer_or_header(both) == [other, good]
    assert refused(guard, *guard.bearer_or_header(both)).status == 401
    bearer = request(authorization=f"bearer  {good} ", x_api_key="")
    assert admit(guard, *guard.bearer_or_header(bearer)).name == "good"
    assert guard.bearer_or_header(request(authorization=f"Basic {good}")) == []
    assert refused(guard).message.startswith("an API key is required")


def test_an_open_server_takes_anyone_until_there_is_a_key(store: Store, clock: Clock) -> None:
    guard = Guard(store, open=True, clock=clock, look_every=0.0)
    assert admit(guard) == admit(guard, "whatever") == ("", "anyone", frozenset(SCOPES), True)
    assert refused(Guard(store, open=False, clock=clock, look_every=0.0)).status == 401
    assert refused(Guard(store, open=True, key="k", clock=clock, look_every=0.0), "j").status == 401
    key = store.keys.create("a").key
    assert refused(guard).status == refused(guard, "whatever").status == 401
    store.keys.revoke(key.id)
    assert refused(guard).status == 401  # a key was meant to be needed


def test_the_key_of_the_environment_does_everything(store: Store, clock: Clock) -> None:
    guard = Guard(store, open=False, key="from the environment", clock=clock, look_every=0.0)
    for scope in SCOPES:
        assert admit(guard, "from the environment", scope=scope).key_id == "environment"
    assert refused(Guard(store, open=False, key="", clock=clock, look_every=0.0), "").status == 401


def test_revoking_and_making_in_another_process_work_at_once(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store.open(url) as ours, Store.open(url) as theirs:
        guard = Guard(ours, open=False, clock=clock, look_every=0.0)
        made = theirs.keys.create("a", now=NOW)
        assert admit(guard, made.secret).name == "a"
        theirs.keys.revoke("a")
        assert "revoked" in refused(guard, made.secret).message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_wrong_key_is_ever_let_in(store: Store, data: st.DataObject) -> None:
    """Expired, revoked, over budget, foreign, cut off, lengthened, changed: always refused."""
    clock = Clock()
    name = f"key {len(store.keys.all())}"
    budget = data.draw(st.none() | st.integers(1, 1000), label="budget")
    expires = data.draw(st.none() | st.floats(1, 1e6), label="seconds until it expires")
    made = store.keys.create(
        name, now=NOW, expires=None if expires is None else NOW + expires, limits=Limits(budget_tokens=budget)
    )
    guard, secret = Guard(store, open=data.draw(st.booleans()), clock=clock, look_every=0.0), made.secret
    kinds = ["cut", "longer", "changed", "foreign", "revoked"]
    kinds += ["expired"] if expires is not None else []
    kinds += ["over budget"] if budget is not None else []
    kind = data.draw(st.sampled_from(kinds))
    caller = admit(guard, secret)
    status = 401
    if kind == "cut":
        secret = secret[: data.draw(st.integers(0, len(secret) - 1))]
    elif kind == "longer":
        secret += data.draw(st.text(min_size=1, max_size=5))
    elif kind == "changed":
        at = data.draw(st.integers(0, len(secret) - 1))
        other = data.draw(st.characters().filter(lambda letter: letter != secret[at]))
        secret = secret[:at] + other + secret[at + 1 :]
    elif kind == "foreign":
        with Store.open("sqlite://") as elsewhere:
            secret = elsewhere.keys.create(name).secret
    elif kind == "revoked":
        store.keys.revoke(made.key.id)
    elif kind == "expired":
        clock.now = NOW + (expires or 0) + data.draw(st.floats(0, 1e9))
    else:
        asyncio.run(guard.spent(caller, Usage(budget or 0, output=data.draw(st.integers(0, 50)))))
        status = 402
    error = refused(guard, secret)
    assert error.status == status
    assert secret not in error.message or len(secret) < 8
    assert made.secret not in error.message


def test_a_limit_of_requests_is_kept_and_says_when_to_return(store: Store, clock: Clock) -> None:
    secret = store.keys.create("a", now=NOW, limits=Limits(requests_per_minute=3)).secret
    guard = Guard(store, open=False, clock=clock, look_every=0.0)
    caller, *_ = (admit(guard, secret) for _ in range(3))
    error = refused(guard, secret)
    assert error.status == 429 and "3 requests a minute" in error.message
    assert error.headers["retry-after"] == "20" and error.headers["retry-after-ms"] == "20000"
    assert guard.headers(caller) == {
        "anthropic-ratelimit-requests-limit": "3",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:01:00Z",
    }
    clock.now += 19.9
    assert refused(guard, secret).headers["retry-after"] == "1"
    clock.now += 0.1
    assert admit(guard, secret) == caller and refused(guard, secret).status == 429


def test_limits_of_tokens_are_paid_back_before_more_is_let_in(store: Store, clock: Clock) -> None:
    limits = Limits(input_tokens_per_minute=600, output_tokens_per_minute=60)
    secret = store.keys.create("a", now=NOW, limits=limits).secret
    guard = Guard(store, open=False, clock=clock, look_every=0.0)
    caller = admit(guard, secret)
    asyncio.run(guard.spent(caller, Usage(100, cache_write=20, cache_read=10_000, output=90)))
    headers = guard.headers(caller)
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == "480"
    assert headers["anthropic-ratelimit-output-tokens-remaining"] == "0"
    assert headers["anthropic-ratelimit-tokens-limit"] == "660"
    reset = datetime.fromisoformat(headers["anthropic-ratelimit-output-tokens-reset"])
    assert reset.timestamp() == NOW + 90
    error = refused(guard, secret)
    assert "60 output tokens a minute" in error.message and error.headers["retry-after"] == "31"
    clock.now += 31
    assert admit(guard, secret) == caller
    asyncio.run(guard.spent(caller._replace(limited=False), Usage(10**6, output=10**6)))
    assert admit(guard, secret) == caller  # a batch does not stand in its own key's way


def test_a_budget_outlives_the_process(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store.open(url) as store:
        secret = store.keys.create("a", now=NOW, limits=Limits(budget_tokens=100)).secret
        guard = Guard(store, open=False, clock=clock, look_every=0.0)
        asyncio.run(guard.spent(admit(guard, secret), Usage(40, 20, 20, 19)))
        assert admit(guard, secret).name == "a"
        asyncio.run(guard.spent(admit(guard, secret), Usage(1)))
        asyncio.run(guard.close())
    clock.now += math.pi * 1e7
    with Store.open(url) as store:
        error = refused(Guard(store, open=False, clock=clock, look_every=0.0), secret)
    assert (error.status, error.type) == (402, "billing_error")
    assert "100 of its budget of 100 tokens" in error.message


def test_accepted_work_goes_on_only_while_the_key_does(store: Store, clock: Clock) -> None:
    limits = Limits(requests_per_minute=1, budget_tokens=10)
    key = store.keys.create("a", now=NOW, limits=limits, expires=NOW + 60).key
    guard = Guard(store, open=False, clock=clock, look_every=0.0)

    def still(key_id: str) -> Caller:
        return asyncio.run(guard.still_admitted(key_id))

    assert still(key.id) == still(key.id) == (key.id, "a", key.scopes, False)
    assert still("").name == "anyone" and asyncio.run(guard.admit_known(key.id, "messages")).limited
    asyncio.run(guard.spent(still(key.id), Usage(10)))
    for id, status in ((key.id, 402), ("key_unknown", 401)):
        with pytest.raises(ApiError) as error:
            still(id)
        assert error.value.status == status


def test_no_key_is_kept_shown_or_logged(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Store.open(f"sqlite:///{tmp_path / 'a.db'}") as store:
        made = store.keys.create("a", now=NOW)
        guard = Guard(store, open=False, key="environment-key", clock=clock, look_every=0.0)
        caller = admit(guard, made.secret)
        refused(guard, made.secret[:-1])
        store.keys.revoke("a")
        refused(guard, made.secret)
        shown = f"{vars(guard)} {caller} {made.key} {store.keys.all()} {caplog.text}"
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for secret in (made.secret, "environment-key"):
        assert secret not in shown and secret.encode() not in kept
    assert made.secret.startswith("sk-publius-") and len(made.secret) == len("sk-publius-") + 43


def test_who_has_spent_a_budget_may_still_fetch_what_it_paid_for(store: Store, clock: Clock) -> None:
    secret = store.keys.create("a", now=NOW, limits=Limits(budget_tokens=10)).secret
    guard = Guard(store, open=False, clock=clock, look_every=0.0)
    asyncio.run(guard.spent(admit(guard, secret), Usage(10)))
    assert refused(guard, secret, scope="batches").status == 402
    for method in ("GET", "DELETE"):
        fetch = Request({"type": "http", "method": method, "path": "/", "headers": []})
        assert asyncio.run(guard.admit(fetch, "batches", keys=[secret])).name == "a"
    revoked = store.keys.revoke("a")
    with pytest.raises(ApiError):
        asyncio.run(guard.admit(fetch, "batches", keys=[secret]))
    assert revoked.name == "a"


def test_books_that_the_database_refuses_are_written_once_it_takes_them(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = store.keys.create("a", now=NOW)
    guard = Guard(store, open=False, clock=clock, look_every=0.0)
    monkeypatch.setattr("publius.serve.guard._WRITE_EVERY", 0.01)
    write, refusals = store.usage.add_all, [OperationalError("INSERT", {}, Exception("disk full"))] * 2

    def add_all(used: object) -> None:
        if refusals:
            raise refusals.pop()
        write(used)  # type: ignore[arg-type]

    monkeypatch.setattr(store.usage, "add_all", add_all)

    async def spent() -> None:
        await guard.spent(await guard.admit(request(), "messages", keys=[key.secret]), Usage(7))
        async with asyncio.timeout(30):
            while not store.usage.total(key.key.id).tokens:
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.ERROR, "publius.serve"):
        asyncio.run(spent())
    assert store.usage.total(key.key.id).tokens == 7 and not refusals


def test_books_that_cannot_be_written_at_the_end_keep_nothing_else_open(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store.keys.create("a", now=NOW)
    guard = Guard(store, open=False, clock=clock, look_every=0.0)

    def full(_: object) -> None:
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(store.usage, "add_all", full)

    async def ends() -> None:
        await guard.spent(await guard.admit(request(), "messages", keys=[key.secret]), Usage(7))
        await guard.close()

    asyncio.run(ends())
