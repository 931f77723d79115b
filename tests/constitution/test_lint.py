from __future__ import annotations

from publius.constitution.lint import doubts
from publius.constitution.principles import Constitution
from tests.constitution.test_principles import edited


def test_lint_finds_what_a_schema_cannot() -> None:
    def change(d) -> None:
        d["principles"][0]["source"] = " "
        d["principles"].append({**d["principles"][0], "id": "two", "category": "nowhere"})
        d["principles"][0]["critique_request"] = "Say it. Critique:"
        d["categories"]["lonely"] = "no principle has it"
        d["answers"] = [" X", " X"]
        d["layout"] = {"human": "Human: ", "critique": "\n\nCritique: {critique_request} "}
        shot = {
            "conversation": "q",
            "response": "r\n\nHuman: x",
            "critique_request": "c",
            "critique": "fine",
            "revision_request": "r",
            "revision": "other",
        }
        d["critiques"] = [shot]
        pair = {"conversation": "q", "a": "same", "b": "same", "answer": "A"}
        d["comparisons"] = [pair, pair]

    found = "\n".join(doubts(Constitution.parse(edited(change))))
    for what in (
        "source is empty",
        "category 'nowhere' is not listed",
        "text repeats another",
        "'lonely' has no principle",
        "contains the cue 'Critique:'",
        "layout.human: the slot {q} is missing",
        "layout.critique: ends with white",
        "the two answers are the same",
        "no example shows `nothing to fix`",
        "2 examples answer A and 0 answer B",
        "comparisons[0]: both options are the same",
        "where the critic stops",
    ):
        assert what in found


def test_lint_wants_a_change_too() -> None:
    shot = {
        "conversation": "q",
        "response": "r",
        "critique_request": "c",
        "critique": "fine",
        "revision_request": "r",
        "revision": "r",
    }
    found = doubts(Constitution.parse(edited(lambda d: d.update(critiques=[shot]))))
    assert found == ["critiques: no example changes the response"]


def test_lint_reads_what_stands_verbatim() -> None:
    def change(d) -> None:
        shot = {"conversation": "q", "a": "one", "b": "two", "answer": "A", "verbatim": "one or the other?"}
        d["comparisons"] = [shot]
        d["layout"] = {"comparison": "{conversation} {question} {a} {b}:"}

    found = "\n".join(doubts(Constitution.parse(edited(change))))
    assert "comparisons[0]: `verbatim` lacks the example's b" in found and "example's a" not in found
    assert "layout.comparison: its last line is the cue" in found


def test_requests_that_are_not_there_do_not_repeat_each_other() -> None:
    def change(d) -> None:
        d["principles"][0]["comparison_question"] = None
        more = {"id": "two", "text": "Be kind.", "critique_request": "Kind?", "revision_request": "Be kind."}
        d["principles"].append({**d["principles"][0], **more})

    assert doubts(Constitution.parse(edited(change))) == []
