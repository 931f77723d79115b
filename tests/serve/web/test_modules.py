"""Modules of the pages that need no browser, run by node; skipped where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).parents[3] / "publius" / "serve" / "web"
NODE = shutil.which("node")
ELEMENTS = """
const element = (tag) => ({
  tagName: tag.toUpperCase(), children: [], dataset: {}, setAttribute() {}, addEventListener() {},
  append(...more) { this.children.push(...more); },
});
globalThis.document = { createElement: element, createElementNS: (_, tag) => element(tag) };
"""


def ran(program: str, folder: Path) -> Any:
    """What a module writes as JSON; `WEB` in it is where the pages' modules are."""
    if NODE is None:
        pytest.skip("no node")
    file = folder / "program.mjs"
    file.write_text(ELEMENTS + program.replace("WEB", WEB.as_uri()), "utf-8")
    done = subprocess.run([NODE, str(file)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "text",
    [
        "['['.repeat(990), '](', ' '.repeat(1990), 'x y)'].join('')",  # 13 s once
        "['http://a', '.'.repeat(60000), 'a'].join('')",  # 7 s once
    ],
)
def test_no_reply_holds_the_page_up(tmp_path: Path, text: str) -> None:
    """It is read anew with every frame while it grows: what is quadratic freezes the page."""
    seconds = ran(
        f"""
        const {{ markdown }} = await import("WEB/markdown.js");
        const text = {text};
        const before = process.cpuUsage();
        markdown(text);
        console.log(process.cpuUsage(before).user / 1e6);
        """,
        tmp_path,
    )
    assert seconds < 2


def test_addresses_end_before_what_ends_the_sentence(tmp_path: Path) -> None:
    shown = ran(
        """
        const { inline } = await import("WEB/inline.js");
        const link = (text) => inline(text).map((n) => (n.tagName ? `<${n.children.join("")}>` : n)).join("");
        console.log(JSON.stringify([
          link("see https://c.test/d?!. So"), link("[a]( https://a.test/x  \\"title\\" )"), link("[a](b c)"),
        ]));
        """,
        tmp_path,
    )
    assert shown == ["see <https://c.test/d>?!. So", "<a>", "[a](b c)"]


@pytest.mark.parametrize(("pieces", "kept"), [(['{"'], []), (['{"a', '":1}'], [{"a": 1}]), ([], [{}])])
def test_a_call_that_the_limit_cut_off_is_no_lost_connection(
    tmp_path: Path, pieces: list[str], kept: list[Any]
) -> None:
    """Its JSON ends anywhere: the server's stream tells it as it was written."""
    deltas = [
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "input_json_delta", "partial_json": piece}}
        for piece in pieces
    ]  # fmt: skip
    events = [
        {"type": "message_start", "message": {"model": "m", "usage": {}}},
        {"type": "content_block_start", "index": 0,
         "content_block": {"type": "tool_use", "id": "t", "name": "sum", "input": {}}},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]  # fmt: skip
    told = ran(
        f"""
        const {{ Draft }} = await import("WEB/draft.js");
        const draft = new Draft();
        for (const event of {json.dumps(events)}) draft.apply(event);
        console.log(JSON.stringify([draft.done, draft.stopReason, draft.kept().map((b) => b.input)]));
        """,
        tmp_path,
    )
    assert told == [True, "max_tokens", kept]
