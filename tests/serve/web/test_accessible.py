"""axe-core finds nothing on any page. Set PUBLIUS_AXE to a copy of axe.min.js (npm pack axe-core)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

AXE = Path(os.environ.get("PUBLIUS_AXE", "/nowhere"))
pytestmark = pytest.mark.skipif(not AXE.is_file(), reason="PUBLIUS_AXE names no copy of axe.min.js")


def violations(page: Page) -> list[str]:
    """What axe finds, all its rules on."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]]


def chat(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#model option")).to_have_count(2)
    assert violations(page) == []
    for toggle in ("#tools", "#think", "#tune"):
        page.click(toggle)
    for text in ("sum", "refuse", "overload", "markdown"):
        page.fill("#message", text)
        page.press("#message", "Enter")
        expect(page.locator("#send")).to_have_attribute("aria-label", "Send")
    page.click("[aria-label=Regenerate] >> nth=-1")
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_chat_has_no_barrier(chromium, url, scheme):
    context = chromium.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    chat(page, url)
    assert violations(page) == []
    page.click("#key")
    assert violations(page) == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_chat_on_a_phone_has_no_barrier(chromium, url, scheme):
    size = {"width": 360, "height": 740}
    context = chromium.new_context(color_scheme=scheme, viewport=size, reduced_motion="reduce")
    page = context.new_page()
    page.goto(url)
    page.fill("#message", "markdown")
    page.press("#message", "Enter")
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send")
    assert violations(page) == []
    page.click("#menu")
    assert violations(page) == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["compare", "redteam"])
def test_the_other_pages_have_no_barrier(chromium, real, path, scheme):
    context = chromium.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{real.url}/{path}")
    if path == "compare":
        expect(page.locator(".answer")).to_have_count(2)
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    else:
        expect(page.locator("#model option")).to_have_count(1)
        page.fill("#message", "hello")
        page.press("#message", "Enter")
        expect(page.locator("#broke")).to_be_enabled()
    assert violations(page) == []
    context.close()
