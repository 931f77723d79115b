"""Keys and what they used, in either database."""

from __future__ import annotations

import pytest

from publius.core.errors import UserError
from publius.serve.exchange import Usage
from publius.serve.store import Limits, Store


def test_a_key_comes_back_as_it_was_made(store: Store) -> None:
    assert not store.keys.any() and store.keys.version() == 0
    limits = Limits(1, 2**40, 3, 2**62)
    made = store.keys.create("ann", scopes=["admin", "label"], expires=20.5, limits=limits, now=10.25)
    assert store.keys.all() == [made.key] and store.keys.any() and store.keys.version() == 1
    assert made.key.hint == made.secret[-4:] and made.key.limits == limits
    assert made.key.refusal(20.4) is None and made.key.refusal(20.5) == "this API key has expired"


def test_a_name_is_free_again_when_its_key_is_revoked(store: Store) -> None:
    first = store.keys.create("ann", now=1.0).key
    with pytest.raises(UserError, match="a key named 'ann' is in use"):
        store.keys.create(" ann ")
    store.keys.revoke("ann", now=2.0)
    second = store.keys.create("ann", now=3.0).key
    assert [key.revoked for key in store.keys.all()] == [2.0, None]
    with pytest.raises(UserError, match="no key in use is called"):
        store.keys.revoke(first.id)
    store.keys.revoke(second.id)
    assert store.keys.version() == 4


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": " "}, "a key's name is empty"),
        ({"name": "a\0b"}, "cannot be printed"),
        ({"scopes": ["message"]}, "no scope 'message'"),
        ({"scopes": []}, "opens nothing"),
        ({"limits": Limits(budget_tokens=0)}, "budget_tokens is 0"),
        ({"limits": Limits(requests_per_minute=2**63)}, "requests_per_minute is"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(store: Store, wrong: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        store.keys.create(**{"name": "a", **wrong})
    assert not store.keys.any()


def test_usage_is_summed_by_key_and_day(store: Store) -> None:
    store.usage.add("a", Usage(1, 2, 3, 4), 0.0)
    store.usage.add("a", Usage(1, 2, 3, 4), 86_399.0)
    store.usage.add("a", Usage(10), 86_400.0)
    store.usage.add("b", Usage(2**40), 0.0)
    assert store.usage.by_day("a") == {"1970-01-01": (2, 2, 4, 6, 8), "1970-01-02": (1, 10, 0, 0, 0)}
    assert store.usage.total("a").tokens == 30 and store.usage.total("b").input == 2**40
    assert store.usage.total("nobody") == (0, 0, 0, 0, 0)
