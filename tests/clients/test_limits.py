"""Limits as the SDK meets them: keys, scopes, budgets, a full queue, a server that stops."""

from __future__ import annotations

import threading
import time

import anthropic
import pytest

from publius.serve.store import Limits, Store, default_url
from publius.testing import served, write_tiny_checkpoint

ASK = [{"role": "user", "content": "Who lives at the mill?"}]

ENDLESS = {
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "string", "minLength": 9000}}}
}
"""A reply that does not end before it is full."""


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def small(tmp_path, home):
    """One reply at a time, and one more may wait. Replies are long."""
    model = write_tiny_checkpoint(tmp_path / "tiny", max_position=8192)
    options = ["--unreleased", "--rows", "1", "--queue", "1"]
    with served(model, options=options, folder=home) as server:
        yield server


def client_of(server, key=None):
    return anthropic.Anthropic(base_url=server.url, api_key=key or server.key, max_retries=0)


def asked(client, tokens=3):
    return client.messages.create(model="publius-haiku", max_tokens=tokens, messages=ASK)


def test_keys_of_the_store(small, home):
    store = Store.open(default_url(home.absolute()))
    once = store.keys.create("once", limits=Limits(requests_per_minute=1)).secret
    labels = store.keys.create("labels", scopes=("label",)).secret
    poor = store.keys.create("poor", limits=Limits(budget_tokens=1)).secret
    with client_of(small, once) as client:
        raw = client.messages.with_raw_response.create(model="publius-haiku", max_tokens=3, messages=ASK)
        assert raw.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert raw.headers["anthropic-ratelimit-requests-remaining"] == "0"
        with pytest.raises(anthropic.RateLimitError) as limited:
            asked(client)
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
        assert limited.value.response.headers["request-id"] == limited.value.request_id
    with client_of(small, labels) as client, pytest.raises(anthropic.PermissionDeniedError, match="scope"):
        asked(client)
    with client_of(small, poor) as client:
        asked(client)
        with pytest.raises(anthropic.PaymentRequiredError, match="budget"):
            asked(client)
    store.keys.revoke("once")
    time.sleep(0.3)  # a server looks five times a second
    with client_of(small, once) as client, pytest.raises(anthropic.AuthenticationError, match="revoked"):
        asked(client)
    told = small.log.read_text("utf-8")
    assert all(secret not in told for secret in (once, labels, poor, small.key))


def test_a_full_server_says_so_and_when_to_return(small):
    with client_of(small) as client:
        with client.messages.stream(
            model="publius-haiku", max_tokens=8000, messages=ASK, extra_body=ENDLESS
        ) as stream:
            next(event for event in stream if event.type == "content_block_delta")
            waiting = threading.Thread(target=asked, args=(client,))
            waiting.start()
            while not any(value for name, value in small.metrics().items() if "requests_waiting" in name):
                time.sleep(0.02)
            with pytest.raises(anthropic.OverloadedError) as full:
                asked(client)
            assert full.value.status_code == 529 and full.value.body["error"]["type"] == "overloaded_error"
            assert int(full.value.response.headers["retry-after"]) >= 1
        waiting.join(60)  # the stream was left, so its row is free
        assert asked(client).usage.output_tokens > 0


def test_a_server_that_stops_lets_streams_end(small):
    ended: list[str] = []
    begun = threading.Event()

    def follow() -> None:
        with (
            client_of(small) as client,
            client.messages.stream(model="publius-haiku", max_tokens=300, messages=ASK) as stream,
        ):
            for event in stream:
                begun.set()
                if event.type == "message_stop":
                    ended.append(stream.get_final_message().stop_reason or "")

    follower = threading.Thread(target=follow)
    follower.start()
    assert begun.wait(60)
    assert small.stop() == 0
    follower.join(60)
    assert len(ended) == 1 and ended[0] in ("end_turn", "max_tokens")
