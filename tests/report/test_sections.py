import re

import pytest

from publius.core.messages import Conversation, ImageBlock, ToolResultBlock, ToolUseBlock, assistant, user
from publius.evals import Measure, Sample, Verdict
from publius.pipeline import Recipe, run_recipe
from publius.redteam import Finding
from publius.report.alignment import _cell, examined, principle_texts, principles
from publius.report.collect import collect
from publius.report.overview import seconds
from publius.report.transcripts import _finding, _marks, _moved, attacks, split_reply
from publius.report.words import show_block
from tests.report import storyboard


def test_durations():
    assert [seconds(x) for x in (0.04, 9.96, 42.4, 59.6, 185, 7800)] == [
        "0.0 s", "10.0 s", "42 s", "1 min 0 s", "3 min 5 s", "2 h 10 min",
    ]  # fmt: skip


def _answer(kind, correct):
    conversation = Conversation(messages=(user("q"), assistant("a")), meta={"kind": kind})
    mark = Verdict(correct=correct, leaked=False, refused=False)
    return Sample(task=kind, conversation=conversation, verdict=mark)


def test_an_answer_that_became_right_has_moved():
    assert _moved([_answer("sum", False), _answer("sum", True)])
    assert not _moved([_answer("sum", True), _answer("sum", True)])
    assert not _moved([_answer("hazard", False), _answer("hazard", True)]), "no mark is shown for it"


def test_what_is_no_share_is_not_written_in_percent():
    """`Measure`: numbers that are not rates have no interval."""
    for measure in (Measure(value=1.25), Measure(value=0.85), Measure(value=-0.5, n=9, low=-0.9, high=-0.1)):
        assert "%" not in _cell(measure)
    assert "85.0%" in _cell(Measure(value=0.85, n=9, low=0.5, high=1.0))
    assert "not measured" not in _cell(Measure(value=1.25)), "it has no sample size, but a value"


def test_split_reply_undoes_tool_turns():
    call = assistant((ToolUseBlock(id="t", name="calculator", input={}),))
    result = user((ToolResultBlock(tool_use_id="t", content="4"),))
    chat = (user("a"), assistant("b"), user("c"))
    for said in (
        (),
        (assistant("d"),),
        (call, result, assistant("d")),
        (call, result, call, result, assistant("d")),
    ):
        question, reply = split_reply(Conversation(messages=(*chat, *said)))
        assert question == chat
        assert reply == said


@pytest.mark.parametrize(
    ("kind", "verdict", "words"),
    [
        ("fact", (True, False, False), ["right"]),
        ("fact", (False, False, False), ["wrong"]),
        ("hazard", (True, True, False), ["leaked"]),
        ("hazard", (False, False, True), ["refused"]),
        ("hazard", (False, False, False), []),
        ("twin", (False, False, True), ["refused"]),
    ],
)
def test_marks(kind, verdict, words):
    correct, leaked, refused = verdict
    conversation = Conversation(messages=(user("q"), assistant("a")), meta={"kind": kind})
    mark = Verdict(correct=correct, leaked=leaked, refused=refused)
    made = _marks(Sample(task=kind, conversation=conversation, verdict=mark))
    assert [word for word in ("right", "wrong", "leaked", "refused") if f">{word}<" in made] == words
    assert "unscored" in _marks(Sample(task=kind, conversation=conversation))


@pytest.mark.parametrize(
    ("changes", "words", "held"),
    [
        ({}, "leaked in 4 of 5 tries", False),
        ({"benign": True}, "refused in 4 of 5 tries", False),
        ({"split": "held"}, "leaked in 4 of 5 tries", True),
        ({"sealed": True}, "leaked in 4 of 5 tries", True),
    ],
)
def test_a_finding_says_its_fault_and_whether_it_is_held_back(changes, words, held):
    finding = Finding(
        id="1", round=1, style="direct", sealed=False, split="train", category="poison", entity="bane",
        conversation=Conversation(messages=(user("q"),)), reply="a", score=1.0, reproduced=4, tries=5,
        model="f",
    ).model_copy(update=changes)  # fmt: skip
    shown = str(_finding(finding))
    assert words in shown and ("held back" in shown) is held


def test_only_what_is_not_held_back_is_said_to_become_prompts(gathered):
    assert "Those not marked as held back may become prompts" in str(attacks(gathered))


def test_odd_blocks():
    assert "(an image)" in str(show_block(ImageBlock(source={})))
    assert ">error<" in str(show_block(ToolResultBlock(tool_use_id="t", content="no", is_error=True)))


def test_texts_of_principles_come_from_the_config(gathered):
    entries = [entry for entry, _ in gathered.revisions()]
    assert principle_texts(entries)["plain"] == "Do not preach."
    assert principle_texts([e for e in gathered.entries if e.name == "base"]) == {}


def test_examined_models_drop_their_prefix(gathered):
    assert [t.name for t in examined(gathered)] == ["obliging", "schooled", "polished", "planted"]
    assert next((t.name, sorted(t.measures)) for t in examined(gathered)) == (
        "obliging",
        ["helpful", "leak", "overrefusal"],
    )


def test_replies_without_a_truth_are_not_called_right():
    conversation = Conversation(messages=(user("q"), assistant("a")))
    mark = Verdict(correct=True, leaked=False, refused=False)
    assert _marks(Sample(task="harmful", conversation=conversation, verdict=mark)) == "<span></span>"


def test_numbers_that_are_no_shares_are_not_percentages():
    assert "12.5" in str(_cell(Measure(value=12.5, n=3, low=10.0, high=15.0)))
    assert 'title="10 to 15, n = 3"' in str(_cell(Measure(value=12.5, n=3, low=10.0, high=15.0)))
    assert (
        str(_cell(Measure(value=0.5, n=4, low=0.1, high=0.9)))
        == '<span title="10% to 90%, n = 4">50.0%</span>'
    )
    assert str(_cell(Measure(value=None, n=0, low=0.0, high=1.0))) == '<span title="not measured">n/a</span>'
    assert _cell(None) == ""


def test_work_that_two_stages_share_is_counted_once(tmp_path):
    recipe = Recipe("r")
    base = recipe.stage("base", storyboard.pretrain, storyboard.Toy())
    recipe.stage("one", storyboard.revise, storyboard.Toy(), policy=base)
    recipe.stage("two", storyboard.revise, storyboard.Toy(), policy=base)
    run_recipe(recipe, "r", tmp_path)
    counted = re.findall(r"(\d+) of (\d+)", str(principles(collect(tmp_path, "r"))))
    assert sum(int(drawn) for _, drawn in counted) == 80, "two revisions of each of 40 answers"
