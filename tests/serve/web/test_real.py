"""The chat page on the real server with a tiny model: streaming, stopping, keys, refusals of the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from publius.model.checkpoint import save_checkpoint
from publius.serve.app import create_app
from publius.testing import byte_tokenizer, tiny_model
from tests.serve.web.conftest import Real, build
from tests.serve.web.scripted import serving


def ask(page: Page, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def ready(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#model")).to_have_value("publius-haiku")


def test_a_reply_comes_with_its_usage(page, real):
    ready(page, real.url)
    page.click("#tune")
    page.fill("#max-tokens", "12")
    page.fill("#temperature", "0")
    ask(page, "go on")
    expect(page.locator(".usage")).to_contain_text("publius-haiku")
    expect(page.locator(".usage")).to_contain_text("12 out")
    expect(page.locator("article.answered")).to_contain_text("largest number of tokens")
    ask(page, "and on")
    expect(page.locator("article.answered")).to_have_count(2)
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send")
    page.click("[aria-label=Regenerate] >> nth=-1")
    expect(page.locator(".branches")).to_contain_text("2/2")
    expect(page.locator(".card.error")).to_have_count(0)


@pytest.fixture
def endless(tmp_path) -> Iterator[Real]:
    """Its model repeats itself at temperature 0."""
    save_checkpoint(tmp_path / "endless", tiny_model(max_position=8192), byte_tokenizer())
    server = build(tmp_path, tmp_path / "endless", "")
    with serving(create_app(server)) as address:
        yield Real(server, address, "")


def test_stopping_frees_the_engine(page, endless):
    ready(page, endless.url)
    page.click("#tune")
    page.fill("#max-tokens", "8000")
    page.fill("#temperature", "0")
    ask(page, "go on")
    expect(page.locator("article.answered .prose")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator("article.answered")).to_contain_text("Stopped.")
    for _ in range(100):
        if not endless.server.live:
            break
        page.wait_for_timeout(50)
    assert endless.server.live == 0


def test_thinking_and_tools_are_understood_by_the_server(page, real):
    ready(page, real.url)
    expect(page.locator("#tools")).to_be_visible()
    page.click("#tools")
    page.click("#think")
    page.click("#tune")
    page.fill("#max-tokens", "20")
    ask(page, "hello")
    expect(page.locator("details.thought")).to_have_count(1)
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send", timeout=60_000)
    expect(page.locator(".card.error")).to_have_count(0)
    page.click("#think")
    ask(page, "again")
    expect(page.locator("article.answered")).to_have_count(2)
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send", timeout=60_000)
    expect(page.locator(".card.error")).to_have_count(0)


def test_what_the_server_refuses_is_shown_in_its_words(page, real):
    ready(page, real.url)
    ask(page, "long " * 2000)
    expect(page.locator(".card.error")).to_contain_text("prompt is too long")
    expect(page.locator(".card.error code")).to_contain_text("req_")


def test_a_key_in_the_address_opens_every_page(page, locked):
    ready(page, f"{locked.url}/#key={locked.key}")
    assert locked.key not in page.url
    for path in ("compare", "redteam"):
        page.goto(f"{locked.url}/{path}")
        expect(page.locator("#facts")).to_contain_text("by anonymous")
    expect(page.locator("#key-dialog")).to_be_hidden()
