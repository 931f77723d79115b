"""The chat page, driven as a person would, against a server that says what its script says."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tests.serve.web.scripted import LONG, Scripted, serving


def ask(page: Page, text: str, *, wait: bool = True) -> None:
    """Send a message, and wait for the whole reply."""
    page.fill("#message", text)
    page.press("#message", "Enter")
    if wait:
        expect(page.locator("#send")).to_have_attribute("aria-label", "Send")


def replies(page: Page):
    return page.locator("article.answered")


@pytest.fixture
def chat(page: Page, url: str) -> Page:
    page.goto(url)
    expect(page.locator("#model option")).to_have_count(2)
    return page


def test_a_message_is_answered_as_it_streams_and_sent_with_what_was_said(chat, scripted):
    ask(chat, "hello")
    expect(replies(chat)).to_contain_text("You said: hello")
    expect(chat.locator(".usage")).to_contain_text("publius-haiku · 16 in · 31 out · 4 cached")
    assert chat.title() == "hello · Publius"
    ask(chat, "again")
    assert [m["role"] for m in scripted.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert scripted.bodies[-1]["messages"][1]["content"] == [{"type": "text", "text": "You said: hello"}]
    assert scripted.bodies[-1]["stream"] is True and "temperature" not in scripted.bodies[-1]
    expect(chat.locator("#said")).to_have_text("Publius: You said: again")


def test_a_long_reply_is_announced_by_sentences(chat):
    said = chat.evaluate(
        """async () => {
          const { Teller } = await import("/web/teller.js");
          const said = [];
          const region = document.getElementById("said");
          new MutationObserver(() => said.push(region.textContent)).observe(region, { childList: true });
          let now = 0;
          performance.now = () => now;
          const teller = new Teller();
          const text = "One. Two three. Four. Five";
          for (let i = 1; i <= text.length; i++) {
            now += 100;
            teller.grow(text.slice(0, i));
            await Promise.resolve();
          }
          teller.end(text);
          await Promise.resolve();
          return said;
        }"""
    )
    assert said[0] == "Publius is answering" and len(said) == 3
    assert "".join(said[1:]).replace(" ", "") == "One.Twothree.Four.Five"


def test_shift_enter_is_a_new_line_and_slash_goes_to_the_box(chat, scripted):
    chat.locator("#log").focus()
    chat.keyboard.press("/")
    chat.keyboard.type("a")
    chat.keyboard.press("Shift+Enter")
    chat.keyboard.type("b")
    chat.keyboard.press("Enter")
    expect(replies(chat)).to_have_count(1)
    assert scripted.bodies[0]["messages"][0]["content"] == [{"type": "text", "text": "a\nb"}]


def test_stopping_keeps_what_came_and_ends_the_request(chat, scripted):
    ask(chat, "long", wait=False)
    expect(replies(chat)).to_contain_text("word3 ")
    assert chat.locator("#send").get_attribute("aria-label") == "Stop"
    assert chat.locator("#log").get_attribute("aria-busy") == "true"
    chat.keyboard.press("Escape")
    expect(replies(chat)).to_contain_text("Stopped.")
    text = replies(chat).locator(".prose").inner_text()
    assert LONG.startswith(text.strip()) and len(text) < len(LONG)
    expect(chat.locator("#said")).to_have_text("Stopped.")
    ask(chat, "next")
    assert [m["role"] for m in scripted.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert scripted.cancelled == 1


def test_regenerating_branches_and_both_branches_stay(chat, scripted):
    ask(chat, "hello")
    chat.click("[aria-label=Regenerate]")
    expect(chat.locator(".branches")).to_contain_text("2/2")
    assert scripted.bodies[1]["messages"] == scripted.bodies[0]["messages"]
    chat.click("[aria-label='Branch before']")
    expect(chat.locator(".branches")).to_contain_text("1/2")
    assert chat.locator("[aria-label='Branch before']").is_disabled()
    expect(chat.locator("[aria-label='Branch after']")).to_be_focused()


def test_an_edited_message_is_sent_in_place_of_the_old_one(chat, scripted):
    ask(chat, "hello")
    ask(chat, "second")
    chat.locator("article.asked").first.hover()
    chat.locator("[aria-label^='Edit and']").first.click()
    chat.fill("[aria-label='Edit your message']", "other")
    chat.keyboard.press("Enter")
    expect(replies(chat)).to_contain_text(["You said: other"])
    assert len(scripted.bodies[-1]["messages"]) == 1
    expect(chat.locator(".branches")).to_contain_text("2/2")
    chat.click("[aria-label='Branch before']")
    expect(replies(chat)).to_have_count(2)
    expect(replies(chat).last).to_contain_text("You said: second")


def test_leaving_an_edit_changes_nothing(chat):
    ask(chat, "hello")
    chat.locator("article.asked").hover()
    chat.click("[aria-label^='Edit and']")
    chat.keyboard.press("Escape")
    expect(chat.locator("article.asked .bubble")).to_have_text("hello")
    expect(chat.locator("[aria-label^='Edit and']")).to_be_focused()


@pytest.mark.parametrize(
    ("said", "shown"), [("sum", "408"), ("birthday", "12 of frost month (birthday of Mara)")]
)
def test_a_tool_call_is_run_shown_and_answered(chat, scripted, said, shown):
    chat.click("#tools")
    ask(chat, said)
    expect(replies(chat)).to_have_count(1)
    expect(chat.locator("details.call summary")).to_contain_text(shown)
    expect(replies(chat)).to_contain_text(f"The tool says {shown}.")
    assert [tool["name"] for tool in scripted.bodies[0]["tools"]] == ["calculator", "almanac"]
    call, result = (m["content"][0] for m in scripted.bodies[1]["messages"][1:])
    assert result == {"type": "tool_result", "tool_use_id": call["id"], "content": shown}
    chat.click("details.call summary")
    expect(chat.locator("details.call pre").first).to_contain_text(f'"{"sum" if said == "sum" else "ask"}"')


def test_a_failed_call_is_told_to_the_model(chat, scripted):
    chat.click("#tools")
    ask(chat, "bad sum")
    expect(chat.locator("details.call.failed")).to_contain_text("failed: the sum ends too early")
    assert scripted.bodies[1]["messages"][2]["content"][0]["is_error"] is True


def test_tools_are_offered_only_when_switched_on(chat, scripted):
    ask(chat, "hello")
    assert "tools" not in scripted.bodies[0]


def test_thinking_is_folded_while_it_streams_and_sent_back_signed(chat, scripted):
    chat.click("#think")
    ask(chat, "think", wait=False)
    expect(chat.locator("details.thought summary")).to_have_text("Thinking")
    assert chat.locator("details.thought").get_attribute("open") is None
    chat.click("details.thought summary")
    expect(chat.locator("details.thought summary")).to_have_text("Thought, 9 words")
    expect(replies(chat)).to_contain_text("You said: think")
    expect(chat.locator(".thinking")).to_be_visible()
    body = scripted.bodies[0]
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert body["max_tokens"] == 1024 + 1024
    ask(chat, "more")
    thought = scripted.bodies[1]["messages"][1]["content"][0]
    assert (thought["type"], thought["signature"]) == ("thinking", "signed")


def test_a_refusal_is_shown_as_one(chat):
    ask(chat, "refuse")
    expect(chat.locator(".card.refusal")).to_contain_text("Declined (poison)")
    expect(chat.locator(".card.refusal")).to_contain_text("This would make people ill.")


def test_an_error_is_shown_with_its_request_id_and_can_be_retried(chat, scripted):
    ask(chat, "overload")
    card = chat.locator(".card.error")
    expect(card).to_contain_text("overloaded error · 529 · try again in 3 s")
    expect(card).to_contain_text("req_scripted")
    card.get_by_text("Try again", exact=True).click()
    expect(replies(chat)).to_contain_text("You said: overload")
    expect(chat.locator(".branches")).to_have_count(0)


def test_an_error_in_the_middle_keeps_what_came(chat):
    ask(chat, "break")
    expect(replies(chat)).to_contain_text("You said: break")
    expect(chat.locator(".card.error")).to_contain_text("the engine stopped")
    expect(chat.locator(".card.error code")).to_have_text("req_42")


def test_settings_go_into_the_request_and_stay(chat, scripted, url):
    chat.click("#tune")
    chat.fill("#system", "Be brief.")
    chat.locator("#temperature").fill("0.3")
    chat.locator("#top-p").fill("0.9")
    chat.fill("#max-tokens", "77")
    chat.select_option("#model", "publius-sonnet")
    ask(chat, "hello")
    body = scripted.bodies[0]
    assert (body["system"], body["temperature"], body["top_p"], body["max_tokens"]) == (
        "Be brief.",
        0.3,
        0.9,
        77,
    )
    assert body["model"] == "publius-sonnet"
    chat.goto(url)
    expect(chat.locator("#model")).to_have_value("publius-sonnet")
    expect(chat.locator("#system")).to_have_value("Be brief.")
    expect(chat.locator("#max-tokens")).to_have_value("77")


def test_a_page_that_is_closed_during_a_reply_loses_nothing_that_was_asked(chat, scripted, url):
    ask(chat, "long", wait=False)
    expect(replies(chat)).to_contain_text("word3 ")
    chat.goto(url)
    expect(chat.locator("article.asked .bubble")).to_have_text("long")
    expect(replies(chat)).to_contain_text("Stopped.")
    ask(chat, "next")
    expect(replies(chat).last).to_contain_text("You said: next")
    assert [m["role"] for m in scripted.bodies[-1]["messages"]] == ["user", "user"]


def test_a_conversation_that_is_deleted_during_a_reply_stays_deleted(chat, scripted, url):
    ask(chat, "hello")
    ask(chat, "long", wait=False)
    expect(replies(chat).last).to_contain_text("word3 ")
    chat.locator("#list li").hover()
    chat.click("[aria-label='Delete hello']")
    expect(chat.locator("#send")).to_have_attribute("aria-label", "Send")
    chat.goto(url)
    expect(chat.locator("#model option")).to_have_count(2)
    expect(chat.locator("#list .entry")).to_have_count(0)


def test_no_temperature_is_asked_for_that_the_api_refuses(chat, scripted, url):
    assert chat.locator("#temperature").get_attribute("max") == "1"
    chat.evaluate("localStorage.setItem('publius.settings', JSON.stringify({ temperature: '1.7' }))")
    chat.goto(url)
    expect(chat.locator("#model option")).to_have_count(2)
    ask(chat, "hello")
    expect(replies(chat)).to_contain_text("You said: hello")
    assert "temperature" not in scripted.bodies[-1]


def test_conversations_are_kept_found_named_exported_and_deleted(chat, url, tmp_path):
    ask(chat, "of oats")
    chat.click("#new")
    ask(chat, "of barley")
    expect(chat.locator("#list .entry")).to_have_text(["of barley", "of oats"])
    chat.goto(url)
    expect(replies(chat)).to_contain_text("You said: of barley")
    chat.keyboard.press("Control+k")
    expect(chat.locator("#find")).to_be_focused()
    chat.keyboard.type("oats")
    expect(chat.locator("#list .entry")).to_have_text(["of oats"])
    chat.keyboard.press("Enter")
    expect(replies(chat)).to_contain_text("You said: of oats")
    chat.click("[aria-label='Rename of oats']")
    chat.keyboard.type("Grain")
    chat.keyboard.press("Enter")
    chat.fill("#find", "")
    expect(chat.locator("#list li.current .entry")).to_have_text("Grain")
    with chat.expect_download() as download:
        chat.click("[aria-label='Export Grain']")
    told = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "Grain.json"
    assert [m["content"][0]["text"] for m in told["messages"]] == ["of oats", "You said: of oats"]
    chat.click("[aria-label='Delete Grain']")
    expect(chat.locator("#list .entry")).to_have_text(["of barley"])
    expect(replies(chat)).to_have_count(0)
    chat.click(".toast button")
    expect(chat.locator("#list li.current .entry")).to_have_text("Grain")


def test_the_theme_follows_the_system_until_it_is_chosen(chromium, url):
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(url)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(26, 25, 23)"
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(251, 250, 247)"
    page.goto(f"{url}/compare")
    assert page.evaluate(paper) == "rgb(251, 250, 247)"
    context.close()


def test_a_phone_shows_one_thing_at_a_time(chromium, url):
    context = chromium.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#model option")).to_have_count(2)
    expect(page.locator("#sidebar")).to_be_hidden()
    page.fill("#message", "markdown")
    page.tap("#send")
    expect(replies(page)).to_contain_text("half is lost")
    page.tap("#menu")
    expect(page.locator("#sidebar")).to_be_visible()
    page.tap("#list .entry")
    expect(page.locator("#sidebar")).to_be_hidden()
    page.tap("#tune")
    expect(page.locator("#settings")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_a_key_in_the_address_is_taken_and_gone_at_once(page):
    scripted = Scripted(key="k-1")
    with serving(scripted.app) as url:
        page.goto(f"{url}/?a=b#key=k-1")
        expect(page.locator("#model option")).to_have_count(2)
        assert page.url == f"{url}/?a=b"
        assert page.evaluate("localStorage.getItem('publius.key')") == "k-1"
        page.goto(f"{url}/compare")
        expect(page.locator("#model-a option")).to_have_count(2)


def test_a_key_is_asked_for_once(page):
    scripted = Scripted(key="k-1")
    with serving(scripted.app) as url:
        page.goto(url)
        expect(page.locator("#key-why")).to_have_text("This server asks for a key.")
        page.fill("#key-field", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_have_text("The server does not know this key.")
        page.fill("#key-field", "k-1")
        page.click("#key-keep")
        expect(page.locator("#model option")).to_have_count(2)
        page.goto(url)
        expect(page.locator("#model option")).to_have_count(2)
        expect(page.locator("#key-dialog")).to_be_hidden()


def test_a_server_that_is_gone_is_said_in_words(page):
    with serving(Scripted().app) as url:
        page.goto(url)
        expect(page.locator("#model option")).to_have_count(2)
    ask(page, "hello")
    expect(page.locator(".card.error")).to_contain_text("The server cannot be reached.")
