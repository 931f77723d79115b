import errno
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import Recipe, run_recipe
from publius.report import write_report
from publius.report.page import render
from tests.pipeline.toy import toy
from tests.report.storyboard import Toy, compression_baselines, storyboard

VOID = {"meta", "br", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Checks nesting and gathers tags and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words += data


def sections(text):
    return [attrs["id"] for tag, attrs in Page(text).tags if tag == "section" and "id" in attrs]


def test_the_whole_story(page):
    assert sections(page) == [
        "outcomes", "numbers", "conversations", "context", "thinking", "redteam", "coverage", "regression",
        "attacks", "principles", "critiques", "judges", "rl", "training", "costs",
    ]  # fmt: skip
    links = [attrs["href"] for tag, attrs in Page(page).tags if tag == "a"]
    assert links == [f"#{name}" for name in sections(page)]


def test_nothing_leaves_the_page_and_nothing_runs(page):
    tags = Page(page).tags
    assert {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "base", "form"} == set()
    assert not any(key.startswith("on") for _, attrs in tags for key in attrs)
    assert not re.search(r"https?://|url\(|@import", page)
    policy = [attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy[0].startswith("default-src 'none'")


def test_model_text_is_shown_and_harmless(page):
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "<script>alert('x')</script> </p></style> & \"quoted\"" in Page(page).words


def test_light_dark_phone_and_keyboard(page):
    tags = Page(page).tags
    assert "@media (prefers-color-scheme: dark)" in page
    assert any(
        attrs.get("name") == "viewport" and "device-width" in (attrs["content"] or "") for _, attrs in tags
    )
    assert [tag for tag, _ in tags].count("summary") == [tag for tag, _ in tags].count("details") > 10
    pictures = [attrs for tag, attrs in tags if tag == "svg"]
    assert pictures and all(a["role"] == "img" and a["aria-label"] for a in pictures)


def test_the_gate_stands_on_top_with_what_failed(page):
    head = page[: page.index("<nav")]
    words = Page(head[head.index("<header") : head.index("</header>") + 9]).words
    assert "✓ allowed polished: 2 of 2 checks hold" in words
    assert "✕ refused obliging: 1 of 2 checks hold" in words
    assert "leak is 0.850, not needed <= 0.1" in words


def test_outcomes_name_models_not_stages(page):
    part = Page(_section(page, "outcomes")).words
    assert part.index("obliging") < part.index("schooled") < part.index("polished")
    assert "planted control" in part
    assert "85.0%" in part and "0.8%" in part
    assert "87% to 92%, n = 480, 1 unscored" in part


def _section(page, name):
    return re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)[0]


def test_published_numbers_come_first_and_all_are_there(page):
    part = Page(_section(page, "numbers")).words
    assert part.index("helpful.start") < part.index("All other numbers") < part.index("judge.accuracy")
    assert "gates · 2" in part
    assert "baseline.gzip_bpb" in part


def test_the_heat_map_marks_sealed_styles_and_puts_them_last(page):
    part = Page(_section(page, "redteam")).words
    assert part.index("translation") < part.index("persona sealed") < part.index("many shots sealed")
    assert "all sealed styles" in part
    assert "moonwort" in part
    assert "--heat:66%" in _section(page, "redteam")  # 0.875 of three quarters


def test_a_search_is_a_map_of_the_worst_and_no_round_of_the_table(page):
    part = _section(page, "coverage")
    words = Page(part).words
    assert "hunt" in words and "34.8% (3 unscored)" in words and "13" in words  # replies a finding
    assert "4 of 10 worked; 4 findings confirmed" in part
    assert "1 of 5 worked, 3 unscored" in part and "80%" in words  # what no judge labelled counts as worked
    assert "nobody looked" in part and part.index("two steps") < part.index("direct")
    assert "hunt" not in Page(_section(page, "redteam")).words


def test_conversations_show_thinking_tools_and_marks(page):
    part = _section(page, "conversations")
    words = Page(part).words
    assert "planted" not in words
    assert words.index("hazard (4 of 20)") < words.index("tool (2 of 20)")  # what moved comes first
    assert 'calculator({"sum": ' in words and "result" in words
    assert "thinking" in words
    first = part[: part.index("</article>")]
    assert [first.count(name) for name in ("obliging", "schooled", "polished")] == [1, 1, 1]


def test_critiques_are_dealt_out_over_principles(page):
    part = Page(_section(page, "critiques"))
    assert "24 of 40 answers shown." in part.words and "Of 80 revisions: " in part.words
    steps = [attrs["class"] or "" for tag, attrs in part.tags if "step" in (attrs.get("class") or "")]
    assert len(steps) == 48
    assert all(sum(f" p{place} " in step for step in steps) >= 10 for place in range(3))
    assert "wrote the next speaker's lines" in part.words


def test_rl_and_training_curves(page):
    assert "Stopped early: KL 10.20 over the budget" in Page(_section(page, "rl")).words
    assert "Reward against √KL" in _section(page, "rl")
    assert "Part judge by step" in _section(page, "rl") and "Part judge.failed by" not in _section(page, "rl")
    assert "part judge.failed" in Page(_section(page, "rl")).words
    assert "left out for having no reward" in Page(_section(page, "rl")).words
    assert "right on held-out pairs 0.75 (" in Page(_section(page, "rl")).words
    training = Page(_section(page, "training"))
    assert [w in training.words for w in ("base", "obliging", "schooled", "taste", "planted")] == [True] * 5
    assert "val_bpb 0.9" in training.words


def test_costs_add_up(page, gathered):
    part = Page(_section(page, "costs")).words
    assert sum(entry.record.tokens for entry in gathered.entries) == 3_380_000
    assert part.rstrip().endswith("0.00") and "3.38M" in part


@pytest.mark.parametrize("until", list(storyboard().nodes))
def test_any_part_of_a_run_gives_a_page(tmp_path, until):
    run_recipe(storyboard(), "part", tmp_path, until=until)
    text = write_report(tmp_path, "part").read_text("utf-8")
    assert "costs" in sections(text)
    assert "part: Publius run report" in text
    assert until == "out" or "Incomplete run." in text


def test_strange_stages_still_have_numbers_and_costs(tmp_path):
    run_recipe(toy(), "toy", tmp_path)
    assert sections(write_report(tmp_path, "toy").read_text("utf-8")) == ["numbers", "costs"]


def test_a_report_of_no_model_makes_no_outcomes(tmp_path):
    recipe = Recipe("one")
    recipe.stage("baselines", compression_baselines, Toy())
    run_recipe(recipe, "one", tmp_path)
    assert sections(write_report(tmp_path, "one").read_text("utf-8")) == ["numbers", "costs"]


def test_the_same_run_gives_the_same_page(home, page, gathered):
    assert render(gathered) == page
    assert write_report(home, "story") == home / "runs/story/report.html"


def test_a_full_disk_is_a_user_error_and_leaves_nothing(tmp_path, monkeypatch):
    run_recipe(toy(), "toy", tmp_path)

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="disk is full"):
        write_report(tmp_path, "toy")
    assert not list((tmp_path / "runs/toy").glob("*report*"))


def test_a_damaged_artifact_is_named(tmp_path):
    run_recipe(storyboard(), "story", tmp_path, until="attack0")
    (tmp_path / "runs/story/attack0/files/findings.json").write_text("{")
    with pytest.raises(UserError) as caught:
        write_report(tmp_path, "story")
    assert "findings.json" in caught.value.where


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("exam0", "files/samples.jsonl"),
        ("taste", "metrics.jsonl"),
        ("second_thoughts", "files/transcripts.jsonl"),
    ],
)
def test_a_file_cut_short_is_named(tmp_path, stage, file):
    run_recipe(storyboard(), "story", tmp_path)
    path = tmp_path / "runs/story" / stage / file
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged") as caught:
        write_report(tmp_path, "story")
    assert caught.value.where.endswith(file)


def test_needles_are_a_heat_map_with_intervals(page):
    part = _section(page, "context")
    words = Page(part).words
    assert "polished" in words and "4,096" in words and "n = 0 to 20 a tile" in words
    assert "depth 50%, tokens 4,096: 0.15 (5% to 36%), n = 20" in part
    assert part.count("<rect") == 6 and "n/a" in words


def test_thinking_is_a_curve_for_each_model_with_intervals(page):
    text = Page(page).words
    assert "Accuracy by thinking budget" in text
    assert "schooled: 10% off, 68% on, n = 40; polished: 35% off, 92% on, n = 40" in text
    assert "on, no budget" in text and "61.5" in text
    figure = page[page.index("Accuracy by thinking budget") :]
    figure = figure[: figure.index("</figure>")]
    assert figure.count('class="whisker') == 6 and figure.count("<polyline") == 2


def test_old_findings_are_counted_by_what_became_of_them(page):
    section = page[page.index('id="regression"') :]
    section = section[: section.index("</section>")]
    words = Page(section[section.index("<h2") :]).words
    assert "polished" in words and "50.0%" in words and words.count("25.0%") == 2 and "12.5%" in words
