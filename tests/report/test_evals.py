"""The comparison of models: tables, and a page that cannot be broken by what models are called."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from publius.core.errors import UserError
from publius.evals.report import Measure, ReportDocument
from publius.evals.suites.compare import Comparison, Contamination, Difference, SuiteResult
from publius.report.evals import comparison_page, comparison_tables, forest_plot, verdict, write_comparison

NASTY = "<b>[bold]one</b>"


def report(model: str, value: float) -> ReportDocument:
    measure = Measure(value=value, n=40, low=value - 0.1, high=value + 0.1, unscored=3)
    groups = {"subject.<i>": {"acc": measure}, "contamination.clean": {"acc": measure}}
    config = {"model": model, "kind": "language"}
    metrics = {"s.acc": measure, "s.bias": Measure(value=-0.4, n=9)}
    return ReportDocument(model="f" * 64, prefix="s", metrics=metrics, by_category=groups, config=config)


@pytest.fixture
def comparison() -> Comparison:
    apart = Difference(
        metric="acc", first=NASTY, second="two", measure=Measure(value=0.2, n=40, low=0.1, high=0.3)
    )
    found = Contamination(against="run", amount=9, words=13, n=40, dirty=4, mostly=2, short=1, items={})
    return Comparison(
        models=[NASTY, "two", "three"],
        settings={},
        results=[
            SuiteResult(
                suite="s", about="a suite", n=40, clusters=10, left_out=2,
                metrics={"acc": "right", "bias": ""}, better={"acc": "higher", "bias": "lower"},
                chance={"acc": 0.25}, reports=[report(NASTY, 0.3), report("two", 0.5)],
                differences=[apart], skipped={"three": "why"}, contamination=found,
            )
        ],
    )  # fmt: skip


def printed(comparison: Comparison) -> str:
    out = io.StringIO()
    for table in comparison_tables(comparison):
        Console(file=out, width=200).print(table)
    return out.getvalue()


def test_the_tables(comparison):
    shown = printed(comparison)
    assert "<b>[bold]one</b>" in shown and "0.200 to 0.400" in shown and "3 unscored" in shown
    assert "+0.200" in shown and "better" in shown and "0.250" in shown
    assert "s: not asked of three (why)" in shown and "40 questions in 10 clusters" in shown
    assert "2 questions only a judge can mark" in shown and "10.00%" in shown


def test_the_page(comparison, tmp_path):
    page = comparison_page(comparison)
    assert "<b>" not in page and "&lt;b&gt;[bold]one&lt;/b&gt;" in page and "&lt;i&gt;" in page
    assert "<script" not in page and "default-src" in page
    assert page.count("<circle") == 6 and "chance: 0.250" in page
    write_comparison(tmp_path / "p.html", comparison)
    assert (tmp_path / "p.html").read_text() == page and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("place", ["file/p.html", f"{'p' * 252}.html"])
def test_a_place_that_cannot_be_written_to_is_the_users_error(comparison, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_comparison(tmp_path / place, comparison)


def test_a_model_may_lack_a_number(comparison):
    """As one behind an address lacks those that need likelihoods."""
    [result] = comparison.results
    first, second = result.reports
    poorer = second.model_copy(update={"metrics": {"s.bias": second.metrics["s.bias"]}})
    lacking = result.model_copy(update={"reports": [first, poorer], "differences": []})
    some = comparison.model_copy(update={"results": [lacking]})
    assert comparison_page(some).count("<circle") == 4 and "n/a" in comparison_page(some)
    assert printed(some).count("0.200 to 0.400") == 2, "its own, and that of the clean questions"


def test_intervals_lie_where_they_say():
    rows = [
        ("acc", "s1", Measure(value=0.5, n=4, low=0.25, high=1.0)),
        ("bias", "s2", Measure(value=-1.0, n=4)),
    ]
    plot = str(forest_plot("t", rows))
    left, right = 140, 480 - 14
    middle, quarter = (round(left + (right - left) * share, 1) for share in (0.75, 0.625))  # from -1 to 1
    assert f'cx="{middle}"' in plot and f'x1="{quarter}"' in plot and f'cx="{left}.0"' in plot
    assert forest_plot("t", [("acc", "s1", Measure(value=None))]) is None


@pytest.mark.parametrize(
    ("low", "high", "better", "word"),
    [(0.1, 0.2, "higher", "better"), (0.1, 0.2, "lower", "worse"), (-0.2, -0.1, "lower", "better"),
     (-0.2, -0.1, "", "less"), (0.1, 0.2, "", "more"), (-0.1, 0.1, "higher", ""), (None, None, "higher", "")],
)  # fmt: skip
def test_a_difference_is_named_only_where_its_interval_says_so(low, high, better, word):
    assert verdict(Measure(value=0.15, n=9, low=low, high=high), better) == word
