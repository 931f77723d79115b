"""The Message Batches API, through the whole application over a tiny model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publius.serve.store import Limits
from tests.serve.serving import Spoken

PATH = "/v1/messages/batches"


def question(**changes: Any) -> dict[str, Any]:
    asked = {"model": "claude-test", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
    return {**asked, **changes}


def ask(spoken: Spoken, *params: Any, **headers: str) -> Any:
    requests = [{"custom_id": f"r{number}", "params": each} for number, each in enumerate(params)]
    return spoken.send("POST", PATH, {"requests": requests}, **headers)


def total(batch: dict[str, Any]) -> int:
    return sum(batch["request_counts"].values())


def ended(spoken: Spoken, batch: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The batch when it has ended; on the way every count is under `processing`."""
    size = total(batch)
    for _ in range(1200):
        now = spoken.send("GET", f"{PATH}/{batch['id']}", **headers).json()
        assert total(now) == size
        if now["processing_status"] == "ended":
            assert now["request_counts"]["processing"] == 0
            return now
        assert now["request_counts"]["processing"] == size and now["results_url"] is None
        time.sleep(0.05)
    raise AssertionError("the batch did not end")


def lines(text: str) -> dict[str, dict[str, Any]]:
    return {line["custom_id"]: line["result"] for line in map(json.loads, text.splitlines())}


@pytest.fixture
def closed(checkpoint: Path, tmp_path: Path) -> Iterator[Spoken]:
    """A server that works on no batch: it is stopping."""
    with Spoken(checkpoint, tmp_path) as one:
        one.server.draining = True
        yield one


def test_a_batch_is_made_answered_and_fetched(spoken: Spoken) -> None:
    made = ask(spoken, question(), question(max_tokens="many"), question(model="nobody"), {}, host="my.host")
    batch = made.json()
    assert made.status_code == 200 and made.headers["request-id"].startswith("req_")
    assert batch["id"].startswith("msgbatch_") and batch["type"] == "message_batch"
    assert set(batch) == {
        "id", "type", "processing_status", "request_counts", "created_at", "expires_at", "ended_at",
        "cancel_initiated_at", "archived_at", "results_url",
    }  # fmt: skip
    assert total(batch) == 4 and batch["created_at"].endswith("Z")
    done = ended(spoken, batch, host="my.host:81")
    assert done["request_counts"] == {
        "processing": 0, "succeeded": 1, "errored": 3, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert done["results_url"] == f"http://my.host:81{PATH}/{batch['id']}/results"
    fetched = spoken.send("GET", f"{PATH}/{batch['id']}/results")
    assert fetched.headers["content-type"].startswith("application/x-jsonl")
    found = lines(fetched.text)
    message = found["r0"]["message"]
    assert found["r0"]["type"] == "succeeded" and message["model"] == "claude-test"
    assert message["usage"]["output_tokens"] == 3 and message["stop_reason"] == "max_tokens"
    assert message["usage"]["service_tier"] == "batch"
    errors = [found[f"r{number}"]["error"] for number in (1, 2, 3)]
    assert [error["error"]["type"] for error in errors] == [
        "invalid_request_error", "not_found_error", "invalid_request_error",
    ]  # fmt: skip
    assert errors[0]["error"]["message"].startswith("max_tokens: ") and errors[0]["type"] == "error"
    gone = spoken.send("DELETE", f"{PATH}/{batch['id']}")
    assert gone.json() == {"id": batch["id"], "type": "message_batch_deleted"}
    for method, path in (("GET", ""), ("GET", "/results"), ("DELETE", ""), ("POST", "/cancel")):
        assert spoken.send(method, f"{PATH}/{batch['id']}{path}").status_code == 404


def test_thinking_is_left_out_where_that_is_asked(spoken: Spoken) -> None:
    thinks = {"type": "enabled", "budget_tokens": 1024}
    asked = [question(max_tokens=1025, thinking={**thinks, **how}) for how in ({}, {"display": "omitted"})]
    batch = ended(spoken, ask(spoken, *asked).json())
    found = lines(spoken.send("GET", f"{PATH}/{batch['id']}/results").text)
    shown, omitted = (found[name]["message"]["content"][0] for name in ("r0", "r1"))
    assert shown["type"] == omitted["type"] == "thinking" and shown["thinking"]
    assert omitted["thinking"] == "" and omitted["signature"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "requests: Field required"),
        ({"requests": []}, "requests: List should have at least 1 item"),
        ({"requests": [{"custom_id": "a", "params": {}}] * 2}, "requests.1.custom_id: 'a' is used more"),
        ({"requests": [{"custom_id": "a b", "params": {}}]}, "requests.0.custom_id: "),
        ({"requests": [{"custom_id": "a\n", "params": {}}]}, "requests.0.custom_id: "),
        ({"requests": [{"custom_id": "a" * 65, "params": {}}]}, "requests.0.custom_id: "),
        ({"requests": [{"custom_id": "a"}]}, "requests.0.params: Field required"),
        ({"requests": [{"custom_id": "a", "params": []}]}, "requests.0.params: "),
        (b"[]", "the request body must be a JSON object"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused_whole(closed: Spoken, body: Any, says: str) -> None:
    refused = closed.send("POST", PATH, body)
    assert refused.status_code == 400 and refused.json()["error"]["type"] == "invalid_request_error"
    assert refused.json()["error"]["message"].startswith(says)
    assert closed.send("GET", PATH).json()["data"] == []


def test_the_version_header_is_needed_and_the_size_is_limited(checkpoint: Path, tmp_path: Path) -> None:
    with Spoken(checkpoint, tmp_path, batch_bytes=2000) as spoken:
        refused = ask(spoken, question(), anthropic_version="")
        assert refused.status_code == 400 and "anthropic-version" in refused.json()["error"]["message"]
        large = ask(spoken, question(system="a" * 2000))
        assert large.status_code == 413 and large.json()["error"]["type"] == "request_too_large"


def test_a_batch_under_way_can_be_cancelled_and_has_no_results(closed: Spoken) -> None:
    batch = ask(closed, *[question()] * 3).json()
    at = f"{PATH}/{batch['id']}"
    early = closed.send("GET", f"{at}/results")
    assert early.status_code == 404 and "no results yet" in early.json()["error"]["message"]
    assert closed.send("DELETE", at).status_code == 400
    asked = closed.send("POST", f"{at}/cancel").json()
    assert asked["processing_status"] == "canceling" and asked["cancel_initiated_at"] is not None
    closed.server.draining = False
    done = ended(closed, batch)
    assert total(done) == 3 and done["request_counts"]["errored"] == 0
    assert {r["type"] for r in lines(closed.send("GET", f"{at}/results").text).values()} <= {
        "canceled", "succeeded",
    }  # fmt: skip
    late = closed.send("POST", f"{at}/cancel")
    assert late.status_code == 400 and "has ended" in late.json()["error"]["message"]


def test_lists_go_newest_first_and_by_pages(closed: Spoken) -> None:
    made = [ask(closed, question()).json()["id"] for _ in range(5)][::-1]

    def listed(query: str) -> dict[str, Any]:
        return closed.send("GET", f"{PATH}?{query}").json()

    whole = listed("")
    assert [batch["id"] for batch in whole["data"]] == made and not whole["has_more"]
    first = listed("limit=2")
    assert [batch["id"] for batch in first["data"]] == made[:2] and first["has_more"]
    assert (first["first_id"], first["last_id"]) == (made[0], made[1])
    second = listed(f"limit=2&after_id={first['last_id']}")
    assert [batch["id"] for batch in second["data"]] == made[2:4] and second["has_more"]
    back = listed(f"limit=2&before_id={second['first_id']}")
    assert [batch["id"] for batch in back["data"]] == made[:2] and not back["has_more"]
    for wrong in ("limit=0", "limit=1001", "limit=x", "limit=%C2%B2", "after_id=nobody", "before_id=%00"):
        refused = closed.send("GET", f"{PATH}?{wrong}")
        assert refused.status_code == 400, wrong
        assert refused.json()["error"]["message"].startswith(wrong.split("=")[0])


def test_each_key_sees_its_own_and_an_admin_everyones(closed: Spoken) -> None:
    ann, bob = (closed.server.store.keys.create(name).secret for name in ("ann", "bob"))
    batch = ask(closed, question(), x_api_key=ann).json()
    at = f"{PATH}/{batch['id']}"
    for key, status in ((ann, 200), (bob, 404), ("", 200)):
        headers = {"x_api_key": key} if key else {}
        assert closed.send("GET", at, **headers).status_code == status
        assert len(closed.send("GET", PATH, **headers).json()["data"]) == (status == 200)
    for method, path in (("POST", "/cancel"), ("DELETE", ""), ("GET", "/results")):
        assert closed.send(method, at + path, x_api_key=bob).status_code == 404
    label = closed.server.store.keys.create("cy", scopes=["label"]).secret
    assert closed.send("GET", at, x_api_key=label).status_code == 403


def test_what_a_batch_uses_is_its_keys_and_ends_with_its_budget(spoken: Spoken) -> None:
    keys, usage = spoken.server.store.keys, spoken.server.store.usage
    made = keys.create("ann", limits=Limits(budget_tokens=1, requests_per_minute=100))
    batch = ask(spoken, *[question()] * 100, x_api_key=made.secret).json()
    done = ended(spoken, batch)
    counts = done["request_counts"]
    assert counts["succeeded"] >= 1 and counts["errored"] >= 1
    assert counts["succeeded"] <= spoken.server.config.batch_rows, "only what was under way already"
    found = lines(spoken.send("GET", f"{PATH}/{batch['id']}/results").text).values()
    assert {r["error"]["error"]["type"] for r in found if r["type"] == "errored"} == {"billing_error"}
    spent = sum(
        r["message"]["usage"]["input_tokens"] + r["message"]["usage"]["output_tokens"]
        for r in found if r["type"] == "succeeded"
    )  # fmt: skip
    spoken.run(spoken.server.guard.close())
    assert usage.total(made.key.id).tokens == spent


def test_a_batch_waits_while_the_server_is_away(checkpoint: Path, tmp_path: Path) -> None:
    with Spoken(checkpoint, tmp_path) as first:
        first.server.draining = True
        batch = ask(first, *[question()] * 20).json()
    with Spoken(checkpoint, tmp_path) as second:
        assert ended(second, batch)["request_counts"]["succeeded"] == 20
