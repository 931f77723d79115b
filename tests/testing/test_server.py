"""A real server for tests: it is there, says what it is told to, and is gone afterwards."""

from __future__ import annotations

import pytest

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint
from publius.testing import served, write_tiny_checkpoint


def test_a_tiny_checkpoint_loads(tmp_path):
    one = Checkpoint(write_tiny_checkpoint(tmp_path / "one", max_position=128))
    other = Checkpoint(write_tiny_checkpoint(tmp_path / "other", printable=False))
    assert one.config().max_position == 128 and not one.config().tie_embeddings
    assert one.load().lm_head.weight[200].abs().max() < other.load().lm_head.weight[200].abs().max()


def test_it_answers_and_ends(tmp_path):
    model = write_tiny_checkpoint(tmp_path / "tiny")
    with served(model, options=["--unreleased"], folder=tmp_path / "home") as server:
        body = {"model": server.model, "max_tokens": 3, "messages": [{"role": "user", "content": "Hi."}]}
        assert server.ask("POST", "/v1/messages", body).json()["type"] == "message"
        assert server.ask("POST", "/v1/messages", body, headers={}).status == 401
        assert server.ask("POST", "/v1/messages", b"{").status == 400
        assert server.metrics()["publius_replies_in_flight"] == 0
        assert server.stop() == 0
    with served(model, options=["--unreleased"], folder=tmp_path / "home") as server:
        server.kill()
    assert server.process.poll() is not None


def test_what_does_not_start_says_why(tmp_path):
    with pytest.raises(UserError, match="no run and no checkpoint"), served("none-such", folder=tmp_path):
        pass
