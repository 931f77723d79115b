"""The modules that read text, run in the browser they are written for: markdown, the event stream, sums."""

from __future__ import annotations

import html

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

from publius.data.pocket.tools import calculator
from tests.serve.web.scripted import Scripted, serving


@pytest.fixture(scope="module")
def blank(chromium, blank_url) -> Page:
    page = chromium.new_page()
    page.goto(blank_url)
    yield page
    page.close()


@pytest.fixture(scope="module")
def blank_url():
    from_script = Scripted()
    with serving(from_script.app) as address:
        yield f"{address}/compare"


def rendered(page: Page, text: str) -> str:
    """The HTML of the nodes a text becomes."""
    return page.evaluate(
        """async (text) => {
          const { markdown } = await import("/web/markdown.js");
          const place = document.createElement("div");
          place.append(...markdown(text));
          for (const button of place.querySelectorAll("button")) button.remove();
          return place.innerHTML;
        }""",
        text,
    )


CASES = [
    ("plain", "<p>plain</p>"),
    ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    ("**b** *i* ***both***", "<p><strong>b</strong> <em>i</em> <strong><em>both</em></strong></p>"),
    ("__b__ _i_ ~~s~~", "<p><strong>b</strong> <em>i</em> <del>s</del></p>"),
    ("a_b_c 2*3*4 * * x", "<p>a_b_c 2<em>3</em>4 * * x</p>"),
    ("**bold *and* slanted**", "<p><strong>bold <em>and</em> slanted</strong></p>"),
    ("unclosed **bold and `code", "<p>unclosed **bold and `code</p>"),
    ("`a*b*` ``x`y``", "<p><code>a*b*</code> <code>x`y</code></p>"),
    (r"\*not\* \`code\`", "<p>*not* `code`</p>"),
    ("# One\n## Two ##\n#nothing", '<h2 class="h1">One</h2><h3 class="h2">Two</h3><p>#nothing</p>'),
    ("### Deep\n# Up\n> # In",
     '<h2 class="h3">Deep</h2><h2 class="h1">Up</h2><blockquote><p class="h1">In</p></blockquote>'),
    ("- a\n- b\n  - c\n- d",
     "<ul><li><span>a</span></li><li><span>b</span><ul><li><span>c</span></li></ul></li><li><span>d</span></li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li><span>a</span></li><li><span>b</span></li></ol>'),
    ("1. a\n\n   more\n\n2. b", "<ol><li><p>a</p><p>more</p></li><li><p>b</p></li></ol>"),
    ("- a\n\ntext", "<ul><li><span>a</span></li></ul><p>text</p>"),
    ("In\n1984. It was", "<p>In<br>1984. It was</p>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    ("<b onclick=x>hi</b> <script>x</script>",
     "<p>&lt;b onclick=x&gt;hi&lt;/b&gt; &lt;script&gt;x&lt;/script&gt;</p>"),
    ("[x](javascript:alert(1)) [y](data:text/html,x)",
     "<p>[x](javascript:alert(1)) [y](data:text/html,x)</p>"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES, ids=range(len(CASES)))
def test_markdown_becomes_these_nodes(blank, text, expected):
    assert rendered(blank, text) == expected


def test_links_open_outside_and_tell_nobody_where_from(blank):
    link = '<a href="{}" target="_blank" rel="noopener noreferrer nofollow">{}</a>'
    text = "[a *b*](https://a.test/x_(y)) <https://b.test> see https://c.test/d. ![pic](https://e.test/f.png)"
    shown = rendered(blank, text)
    assert link.format("https://a.test/x_(y)", "a <em>b</em>") in shown
    assert link.format("https://b.test/", "https://b.test") in shown
    assert link.format("https://c.test/d", "https://c.test/d") + ". " in shown
    assert link.format("https://e.test/f.png", "pic") in shown and "<img" not in shown


def test_a_table_keeps_its_columns_and_sides(blank):
    shown = rendered(blank, "| a | b |\n|:--|--:|\n| 1 | `x|y` |\n| 2 |\n\nafter")
    assert '<th scope="col">a</th><th class="end" scope="col">b</th>' in shown
    assert '<td>1</td><td class="end"><code>x|y</code></td>' in shown
    assert '<td>2</td><td class="end"></td>' in shown
    assert shown.endswith("<p>after</p>")


def test_code_is_coloured_and_loses_nothing(blank):
    code = 'def f(x):  # twice\n    return "a\\"b" + 2 * x'
    shown = rendered(blank, f"```python\n{code}\n```")
    assert '<span class="t-word">def</span>' in shown
    assert '<span class="t-comment"># twice</span>' in shown
    assert '<span class="t-number">2</span>' in shown
    text = blank.evaluate(
        """async (code) => {
          const { highlight } = await import("/web/highlight.js");
          const texts = [];
          for (const language of ["js", "python", "sql", "html", "css", "nonsense"]) {
            const pre = document.createElement("pre");
            pre.append(...highlight(code, language));
            texts.push(pre.textContent);
          }
          return texts;
        }""",
        code,
    )
    assert text == [code] * 6


def test_a_code_block_that_has_not_ended_is_shown_already(blank):
    assert "half" in rendered(blank, "text\n```\nhalf")
    assert "<code>`\nnot the end\n</code>" not in rendered(blank, "~~~\n```\nnot the end\n~~~")


def test_a_growing_text_ends_as_if_shown_at_once(blank):
    text = "# T\n\nSome **bold** text\n\n- a\n- b\n\n```js\nlet x = 1;\n```\n\n| a |\n|---|\n| 1 |\n\nend"
    grown, once = blank.evaluate(
        """async (text) => {
          const { show } = await import("/web/markdown.js");
          const [grown, once] = [document.createElement("div"), document.createElement("div")];
          for (let i = 1; i <= text.length; i++) show(grown, text.slice(0, i));
          show(once, text);
          return [grown.innerHTML, once.innerHTML];
        }""",
        text,
    )
    assert grown == once


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="ab *_`~[]()<>!\\#-+1.|:>\n\"'&h", max_size=60))
def test_no_text_makes_an_element_that_is_not_ours(blank, text):
    names = blank.evaluate(
        """async (text) => {
          const { markdown } = await import("/web/markdown.js");
          const place = document.createElement("div");
          place.append(...markdown(text));
          return [...new Set([...place.querySelectorAll("*")].map((e) => e.localName))];
        }""",
        text,
    )
    ours = """p br strong em del code a h2 h3 h4 h5 h6 ul ol li span input blockquote hr div table thead tbody
              tr th td figure figcaption pre button svg path"""
    assert set(names) <= set(ours.split())


@pytest.mark.parametrize(
    "text", ["**a " * 5000, "[" * 20000, "`" * 9999 + "a", "> " * 5000, "- " * 3000, "|" * 9000 + "\n|-|"]
)
def test_hostile_markdown_is_read(blank, text):
    assert html.unescape(rendered(blank, text))


FRAMES = (
    'event: a\r\ndata: {"x": 1}\r\n\r\n: a comment\n\ndata: one\ndata: two\n\nevent: b\rdata:é☃\r\rdata: lost'
)
EVENTS = [
    {"event": "a", "data": '{"x": 1}'},
    {"event": "message", "data": "one\ntwo"},
    {"event": "b", "data": "é☃"},
]


def test_events_are_the_same_however_the_bytes_are_cut(blank):
    assert blank.evaluate(
        """async (text) => {
          const { events } = await import("/web/sse.js");
          const bytes = new TextEncoder().encode("\\ufeff" + text);
          const seen = new Set();
          for (let size = 1; size <= bytes.length; size++) {
            const body = new ReadableStream({
              start(out) {
                for (let i = 0; i < bytes.length; i += size) out.enqueue(bytes.slice(i, i + size));
                out.close();
              },
            });
            const found = [];
            for await (const event of events(body)) found.push(event);
            seen.add(JSON.stringify(found));
          }
          return [...seen].map((one) => JSON.parse(one));
        }""",
        FRAMES,
    ) == [EVENTS]


def calculated(page: Page, text: str) -> str:
    """What the page's calculator says, or `error: ...`."""
    return page.evaluate(
        """async (text) => {
          const { calculate } = await import("/web/calculator.js");
          try { return calculate(text); } catch (error) { return `error: ${error.message}`; }
        }""",
        text,
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", "14"), ("(2 + 3) * 4", "20"), ("2 ^ 3 ^ 2", "512"), ("-2 ^ 2", "-4"),
        ("2 ** 10", "1024"), ("0.1 + 0.2", "0.3"), ("7 / 2", "3.5"), ("8 / 2", "4"), ("7 % 4", "3"),
        ("sqrt(2) * sqrt(2)", "2"),
        ("99999999999999999999 * 3", "299999999999999999997"),
        ("3 \u00d7 4 \u00f7 2 \u2212 1", "5"), ("abs(-5) + pi * 0", "5"),
        ("1 / 0", "error: division by zero"), ("2 +", "error: the sum ends too early"),
        ("alert(1)", 'error: cannot read "alert"'), ("1; 2", 'error: cannot read "; 2"'),
        ("9^9^9", "error: the result is too large"), ("(1", "error: a bracket is not closed"),
        ("constructor", 'error: cannot read "constructor"'), ("", "error: the sum ends too early"),
    ],
)  # fmt: skip
def test_the_calculator_says(blank, text, value):
    assert calculated(blank, text) == value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 999_999), st.sampled_from("+-*"), st.integers(0, 999_999))
def test_the_calculator_agrees_with_the_one_models_are_trained_with(blank, a, sign, b):
    assert calculated(blank, f"{a}{sign}{b}") == calculator({"sum": f"{a}{sign}{b}"})


def test_a_stream_becomes_blocks_and_half_a_call_is_not_kept(blank):
    events = [
        {
            "type": "message_start",
            "message": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 0}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t", "name": "n", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"a":'},
        },
    ]
    rest = [
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": "1}"},
        },
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    half, whole = blank.evaluate(
        """async ([events, rest]) => {
          const { Draft } = await import("/web/draft.js");
          const draft = new Draft();
          for (const event of events) draft.apply(event);
          const half = draft.kept();
          for (const event of rest) draft.apply(event);
          return [half, [draft.kept(), draft.stopReason, draft.usage, draft.done]];
        }""",
        [events, rest],
    )
    assert half == [{"type": "text", "text": "a"}]
    call = {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}}
    assert whole == [[*half, call], "tool_use", {"input_tokens": 3, "output_tokens": 9}, True]
