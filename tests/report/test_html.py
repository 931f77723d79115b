from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from publius.report.html import Html, compact, details, el, interval_bar, join, number, rate, table


def test_text_is_escaped_and_markup_is_kept():
    assert el("p", "a < b & c", class_='x"y') == '<p class="x&quot;y">a &lt; b &amp; c</p>'
    assert el("p", el("b", "<i>")) == "<p><b>&lt;i&gt;</b></p>"
    assert join("<", Html("<br/>"), None, ["a", ["&"]]) == "&lt;<br/>a&amp;"


def test_attributes_and_void_elements():
    assert el("line", x1=1, stroke_width=2.5, hidden=None) == '<line x1="1" stroke-width="2.5"/>'
    assert el("details", "x", open=True) == "<details open>x</details>"
    assert el("details", "x", open=False) == "<details>x</details>"
    assert el("meta", name="viewport") == '<meta name="viewport"/>'


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@given(st.text(), st.text())
def test_no_text_becomes_markup(text, value):
    parser = _Texts()
    parser.feed(str(el("p", text, title=value)))
    parser.close()
    assert [tag for tag, _ in parser.tags] == ["p"]
    assert parser.text == text
    assert parser.tags[0][1]["title"] == value


def test_numbers():
    assert [number(x) for x in (None, float("nan"), 3.0, 1234567.0, 0.123456, 61961.4, 123456.78, 2e9)] == [
        "n/a", "n/a", "3", "1,234,567", "0.1235", "61,961", "123k", "2B",
    ]  # fmt: skip
    assert [compact(x) for x in (None, 12, 3_200_000, 4.1e15, 0.05, -1500)] == [
        "n/a", "12", "3.2M", "4.1e+15", "0.05", "-1.5k",
    ]  # fmt: skip
    assert rate(0.123) == "12.3%"
    assert rate(None) == rate(0.0, 0) == "n/a"


def test_rounding_carries_into_the_next_unit():
    assert [compact(x) for x in (999.6, 999_600, 999_999_999, 999.4)] == ["1k", "1M", "1B", "999"]
    assert compact(1234.5, 5) == "1.2345k"


def test_table_marks_headers_and_numbers():
    made = table(["a", "b"], [["x", "<1"]], numeric=(1,), caption="cap", kind="map")
    assert '<th scope="row">x</th><td class="num">&lt;1</td>' in made
    assert "<caption>cap</caption>" in made
    assert '<table class="map">' in made
    assert 'tabindex="0"' in made  # a scrolling region must be reachable by keyboard


def test_details_can_be_opened():
    assert (
        details("more", "text") == '<details><summary>more</summary><div class="inside">text</div></details>'
    )
    assert details("more", "text", open_=True).startswith("<details open>")


def test_interval_bar_stays_inside_its_track():
    assert "left:10.00%;width:30.00%" in interval_bar(0.2, 0.1, 0.4)
    assert "left:0.00%;width:100.00%" in interval_bar(None, -1.0, 3.0)
    assert "<b" not in interval_bar(None, 0.0, 1.0)
    assert "<i" not in interval_bar(0.5, None, None)
