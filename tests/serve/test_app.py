"""An open server answers this machine's programs and its own pages, and no page of another site."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.serving import Spoken

EVIL = "https://evil.example"
PATHS = ("/v1/messages", "/v1/chat/completions", "/model/publius-haiku/converse", "/web/redteam/undo")


@pytest.fixture(scope="module")
def opened(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spoken]:
    with Spoken(checkpoint, tmp_path_factory.mktemp("open"), key=None) as one:
        yield one


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://127.0.0.1:8080"},
        {"origin": "http://localhost"},
        {"origin": "tauri://localhost:8080"},
        {"origin": "http://localhost:x"},
        {"origin": EVIL, "sec_fetch_site": "same-origin"},
    ],
)
def test_a_page_of_another_site_is_refused_in_the_words_of_the_protocol(opened: Spoken, headers) -> None:
    messages, openai, bedrock, web = (
        opened.send("POST", path, b"{}", content_type="text/plain", host="localhost:8080", **headers)
        for path in PATHS
    )
    assert {answer.status_code for answer in (messages, openai, bedrock, web)} == {403}
    assert messages.json()["request_id"] == messages.headers["request-id"]
    for answer in (messages, openai, web):
        assert answer.json()["error"]["type"] == "permission_error"
    assert bedrock.headers["x-amzn-errortype"] == "AccessDeniedException"


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("localhost:8080", {}),
        ("localhost:8080", {"sec_fetch_site": "none"}),
        ("localhost:8080", {"sec_fetch_site": "same-origin", "origin": "http://localhost:8080"}),
        ("127.0.0.1:8080", {"origin": "http://127.0.0.1:8080"}),
        ("[::1]:8080", {"origin": "http://[::1]:8080"}),
        ("localhost", {"origin": "http://localhost"}),
        ("localhost:80", {"origin": "http://localhost"}),
        ("localhost", {"origin": "https://localhost"}),
        ("localhost:443", {"origin": "https://localhost"}),
    ],
)
def test_its_own_pages_and_other_programs_are_answered(opened: Spoken, host: str, headers) -> None:
    assert opened.send("POST", "/web/redteam/undo", {"attacker": "ann"}, host=host, **headers).is_success


def test_a_link_on_another_site_opens_the_page_and_nothing_else(opened: Spoken) -> None:
    there = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert opened.send("GET", "/", **there).status_code == 200
    assert opened.send("GET", "/", **{**there, "sec_fetch_mode": "no-cors"}).status_code == 403
    assert opened.send("GET", "/v1/models", sec_fetch_site="cross-site").status_code == 403


def test_where_a_key_is_needed_nothing_else_counts(spoken: Spoken) -> None:
    body = {"model": "publius-haiku", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    answer = spoken.send(
        "POST", "/v1/messages", json.dumps(body).encode(), origin=EVIL, sec_fetch_site="cross-site"
    )
    assert answer.status_code == 200
