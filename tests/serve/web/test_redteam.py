"""The red-team page and its endpoints, on the real server with a tiny model and the real store."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from starlette.testclient import TestClient

from publius.core.messages import text_of
from publius.redteam.findings import Findings
from publius.serve.app import create_app
from tests.serve.web.conftest import build


@pytest.fixture
def asked(tmp_path, checkpoint):
    """Ask an endpoint of an open server; gives (status, body)."""
    server = build(tmp_path, checkpoint, "")
    with TestClient(create_app(server), base_url="http://localhost") as client:

        def ask(name, **body):
            answer = client.post(f"/web/redteam/{name}", json={"attacker": "ann", "max_tokens": 16, **body})
            return answer.status_code, answer.json()

        ask.server = server
        yield ask


def play(asked, *texts):
    """Some turns; gives them all, replies included, and the last receipt."""
    turns, receipt = [], ""
    for text in texts:
        turns.append({"role": "user", "text": text})
        status, reply = asked("reply", model="publius-haiku", turns=turns)
        assert status == 200
        turns.append({"role": "assistant", "text": reply["text"]})
        receipt = reply["receipt"]
    return turns, receipt


FOUND = {
    "model": "publius-haiku",
    "worked": True,
    "harm": 3,
    "category": "truth",
    "tags": ["role play"],
    "note": "n",
}


def test_an_attack_of_two_turns_is_kept_and_read_as_a_finding(asked, tmp_path):
    turns, receipt = play(asked, "first", "second")
    status, told = asked("found", turns=turns, receipt=receipt, **FOUND)
    assert (status, told["tried"], told["worked"]) == (200, 1, 1)
    assert (
        told["mine"][0] | {"asked": "second", "harm": 3, "category": "truth", "turns": 3} == told["mine"][0]
    )
    assert {one["id"]: one["found"] for one in told["categories"]}["truth"] == 1
    asked.server.store.findings.export(tmp_path / "out")
    [finding] = Findings(tmp_path / "out").findings()
    assert [text_of(m) for m in finding.conversation.messages] == [turn["text"] for turn in turns[:3]]
    assert (finding.reply, finding.category, finding.score) == (turns[3]["text"], "truth", 0.75)


def test_a_conversation_nobody_had_is_not_kept(asked):
    turns, receipt = play(asked, "first")
    forged = [turns[0], {"role": "assistant", "text": turns[1]["text"] + " and worse"}]
    for bad in (
        {"turns": forged, "receipt": receipt},
        {"turns": turns, "receipt": "é"},
        {"turns": turns, "receipt": receipt, "system": "other"},
        {"turns": turns[:1], "receipt": receipt},
    ):
        status, told = asked("found", **FOUND, **bad)
        assert status == 400 and "receipt" in told["error"]["message"]
    assert asked("about")[1]["tried"] == 0


def test_undo_takes_the_latest_back(asked):
    turns, receipt = play(asked, "first")
    asked("found", turns=turns, receipt=receipt, **FOUND)
    asked("found", turns=turns, receipt=receipt, **{**FOUND, "worked": False})
    assert [one["worked"] for one in asked("undo")[1]["mine"]] == [True]
    assert asked("undo")[1]["tried"] == 0
    assert asked("undo")[0] == 200


def test_each_attacker_sees_their_own(asked):
    turns, receipt = play(asked, "first")
    asked("found", turns=turns, receipt=receipt, **FOUND)
    assert asked("about", attacker="ben")[1]["mine"] == []


@pytest.mark.parametrize(
    ("name", "body", "status", "says"),
    [
        ("reply", {"model": "nobody", "turns": [{"role": "user", "text": "x"}]}, 404, "nobody"),
        ("reply", {"model": "publius-haiku", "turns": []}, 400, "turns"),
        ("reply", {"model": "publius-haiku", "turns": [{"role": "assistant", "text": "x"}]}, 400, "role"),
        (
            "reply",
            {"model": "publius-haiku", "turns": [{"role": "system", "text": "x"}]},
            400,
            "turns.0.role",
        ),
        ("found", {"model": "publius-haiku", "turns": [{"role": "user", "text": "x"}]}, 400, "receipt"),
        ("about", {"attacker": "\x00"}, 400, "name"),
    ],
)
def test_what_is_wrong_is_said(asked, name, body, status, says):
    got, told = asked(name, **body)
    assert got == status and says in told["error"]["message"], told


def test_an_attack_from_the_page(page, real):
    page.goto(f"{real.url}/redteam")
    expect(page.locator("#model option")).to_have_count(1)
    page.fill("#attacker", "ann")
    expect(page.locator("#broke")).to_be_disabled()
    for text in ("first", "second"):
        page.fill("#message", text)
        page.keyboard.press("Enter")
        expect(page.locator("article.asked").last).to_have_text(text)
        expect(page.locator("#broke")).to_be_enabled()
    page.select_option("#category", "truth")
    expect(page.locator("#category-about")).to_contain_text("Saying what is so")
    page.click("#broke")
    expect(page.locator("#report-hint")).to_contain_text("how bad it was")
    page.get_by_label("3 serious").check()
    page.get_by_label("flattery").check()
    page.fill("#note", "asked nicely")
    page.click("#broke")
    expect(page.locator("#facts")).to_have_text("1 tried by ann1 broke it")
    expect(page.locator("#mine")).to_contain_text("second")
    expect(page.locator("article")).to_have_count(0)
    [finding] = real.server.store.findings.list("ann")
    assert (finding.harm, finding.category, finding.tags, finding.note) == (
        3,
        "truth",
        ("flattery",),
        "asked nicely",
    )
    assert len(finding.conversation.messages) == 3
    page.click("#undo")
    expect(page.locator("#facts")).to_contain_text("0 tried")
