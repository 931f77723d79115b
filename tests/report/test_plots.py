import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.report import plots
from publius.report.plots import (
    COLOURS,
    HeatCell,
    Series,
    heat_map,
    line_plot,
    log_ticks,
    nice_ticks,
    reliability_plot,
    smooth,
    thin,
)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_inside(low, width):
    high = low + width
    if high <= low:
        return
    ticks = nice_ticks(low, high)
    assert 1 <= len(ticks) <= 6 or (high - low) < 1e-9 * abs(low)
    slack = 1e-6 * width + 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_ticks_by_hand():
    assert nice_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(13, 97, most=4) == [50]
    assert nice_ticks(0, 600, most=4) == [0, 200, 400, 600]


def test_smoothing_is_a_centred_mean_and_keeps_ends():
    points = [(float(i), float(i % 2)) for i in range(9)]
    soft = smooth(points, share=0.2)
    assert soft[0] == (0.0, 0.0)
    assert soft[-1] == (8.0, 0.5)  # the mean of the last two
    assert soft[3][1] == pytest.approx((0 + 1 + 0) / 3)
    line = [(float(i), 3.0 * i) for i in range(200)]
    assert [y for _, y in smooth(line)][:-5] == pytest.approx([y for _, y in line][:-5])  # no lag


def test_thinning_keeps_the_mean_and_the_order():
    points = [(float(i), math.sin(i)) for i in range(1000)]
    few = thin(points, 100)
    assert len(few) == 100
    assert sum(y for _, y in few) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert [x for x, _ in few] == sorted(x for x, _ in few)
    assert thin(points[:7], 100) == points[:7]


def _places(svg):
    return [
        tuple(map(float, pair.split(","))) for pair in re.search(r'polyline points="([^"]+)"', svg)[1].split()
    ]


def test_line_plot_maps_the_data_into_the_picture():
    svg = line_plot("t <", [Series("a", [(0, 0), (5, 1), (10, 2)], "s2")], x_label="step")
    (x0, y0), (x1, y1), (x2, y2) = _places(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 > y1 > y2  # up is less in a picture
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert "t &lt;. a: from 0 to 2" in svg
    assert 'class="line s2"' in svg
    assert "legend" not in svg


def test_line_plot_legend_dots_and_a_single_point():
    svg = line_plot(
        "t", [Series("a", [(0, 1), (1, 2)]), Series("b", [(1, 1.5)], "s2", dots=True)], x_label="x"
    )
    assert svg.count('class="key') == 2
    assert svg.count("<circle") == 1
    assert "b: 1.5 at 1" in svg


def test_plots_without_usable_points_are_left_out():
    assert line_plot("t", [Series("a", [])], x_label="x") is None
    assert line_plot("t", [Series("a", [(0.0, math.nan)])], x_label="x") is None
    flat = line_plot("t", [Series("a", [(3.0, 1.0), (3.0, 1.0)])], x_label="x")
    assert "nan" not in flat and "inf" not in flat


def test_reliability_plot_places_a_perfect_judge_on_the_diagonal():
    svg = reliability_plot("j", [(0.1, 0.1, 10, 0.0, 0.3), (0.9, 0.9, 10, 0.7, 1.0)])
    diagonal = {
        k: float(v)
        for k, v in re.findall(r'(x1|y1|x2|y2)="([\d.]+)"', re.search(r"<line[^>]*diagonal[^>]*>", svg)[0])
    }
    for cx, cy in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg):
        along = (float(cx) - diagonal["x1"]) / (diagonal["x2"] - diagonal["x1"])
        assert float(cy) == pytest.approx(diagonal["y1"] + along * (diagonal["y2"] - diagonal["y1"]), abs=0.3)


def test_log_scale_only_for_wide_positive_heights():
    wide = [(0.0, 8.0), (1.0, 0.8), (2.0, 0.08)]
    svg = line_plot("t", [Series("a", wide)], x_label="step", log=True)
    (_, y0), (_, y1), (_, y2) = _places(svg)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)  # equal ratios are equal steps
    assert "log scale" in svg
    assert "log scale" not in line_plot("t", [Series("a", [(0, 2.0), (1, 1.0)])], x_label="step", log=True)
    assert "log scale" not in line_plot("t", [Series("a", [(0, 9.0), (1, -1.0)])], x_label="step", log=True)
    assert log_ticks(-1.0, 1.0) == [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]


def test_heat_map_puts_every_cell_in_its_row_and_column():
    shares = [[1.0, 0.5, None], [0.0, 0.25, 0.95]]
    cells = [[HeatCell(share, f"told {share}") for share in line] for line in shares]
    svg = heat_map(
        "m <", ["512", "1k", "4k"], ["0%", "50%"], cells, x_label="tokens", y_label="depth", note="n = 9"
    )
    tiles = re.findall(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="24" rx="2" class="([^"]+)" '
        r'fill-opacity="([\d.]+)"><title>([^<]*)</title></rect>',
        svg,
    )
    assert [float(opacity) for *_, opacity, _ in tiles] == [1.0, 0.5, 0.0, 0.0, 0.25, 0.95]
    assert [tip for *_, tip in tiles][5] == "depth 50%, tokens 4k: told 0.95"
    xs, ys = [float(t[0]) for t in tiles], [float(t[1]) for t in tiles]
    assert xs[:3] == xs[3:] == sorted(xs[:3]) and len(set(ys[:3])) == 1 and ys[3] > ys[0]
    assert xs[1] >= xs[0] + float(tiles[0][2])  # they do not lie on each other
    assert [kind for *_, kind, _, _ in tiles] == ["tile s3"] * 2 + ["tile blank s3"] + ["tile s3"] * 3
    assert re.findall(r'class="(on|off)">([^<]*)<', svg) == [
        ("on", "100%"), ("off", "50%"), ("off", "n/a"), ("off", "0%"), ("off", "25%"), ("on", "95%"),
    ]  # fmt: skip
    assert "m &lt;. from 0% to 100%" in svg and "n = 9" in svg


@pytest.mark.parametrize(
    ("heights", "said"),
    [((2.001, 2.006), ["2.002", "2.004", "2.006"]), ((0.0, 1000.0), ["500", "1k"])],
)
def test_ticks_are_written_with_all_their_digits(heights, said):
    """Two lines of the grid with one label between them say that nothing moved."""
    plot = str(line_plot("loss", [Series("a", list(enumerate(heights)))], x_label="step"))
    labels = re.findall(r'text-anchor="end">([^<]+)<', plot)
    assert set(said) <= set(labels) and len(set(labels)) == len(labels)


def test_late_steps_are_told_apart():
    points = [(10_000.0 + step, 1.0) for step in range(50)]
    labels = re.findall(
        r'text-anchor="middle">([^<]+)<', str(line_plot("a", [Series("a", points)], x_label="x"))
    )
    assert labels == ["10k", "10.02k", "10.04k", "x"]


def test_a_log_axis_of_many_decades_has_room_for_its_labels():
    assert log_ticks(-2, 1) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
    assert log_ticks(-8.5, 1) == pytest.approx([10.0**p for p in range(-8, 2)])
    assert 6 <= len(log_ticks(-40, 2)) <= 12


def test_eight_lines_have_eight_colours_on_paper_and_in_the_dark():
    """A fifth model must not look like the first."""
    style = Path(plots.__file__).with_name("style.css").read_text("utf-8")
    assert len(set(COLOURS)) == 8
    for colour in COLOURS:
        assert f".{colour} {{ color: var(--{colour}); }}" in style
    values = re.findall(r"--s\d: (#[0-9a-f]{6});", style)
    assert len(values) == 16 and len(set(values)) == 16
