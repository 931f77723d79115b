"""Words are found however they are dressed and cut, and nothing of them leaves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.core.messages import (
    Conversation,
    TextBlock,
    ToolResultBlock,
    ToolSpec,
    ToolUseBlock,
    assistant,
    user,
)
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.monitor import ALLOW

NONE = np.empty((0, 0), np.float32)
ASKED = Conversation(messages=(user("What is new?"),))


def monitor(*words: str, action: str = "block", **more: object) -> KeywordMonitor:
    entry = {"words": list(words), "action": action, "category": "poison", **more}
    return KeywordMonitor(KeywordList.model_validate({"entries": [entry]}))


GREY = monitor("grey bane", "venom*", "moon balm")


def whole(m: KeywordMonitor, text: str) -> str:
    return m.watch(ASKED).reply(text, NONE, done=True)[0].action


def streamed(m: KeywordMonitor, pieces: list[str]) -> tuple[str, str]:
    """Verdict and what left."""
    watch, text, left = m.watch(ASKED), "", ""
    for number, piece in enumerate(pieces):
        text += piece
        verdict, verified = watch.reply(text, NONE, done=number == len(pieces) - 1)
        if verdict.action == "block":
            return "block", left
        assert verified <= len(text) and text[:verified].startswith(left)
        left = text[:verified]
    return verdict.action, left


@pytest.mark.parametrize(
    "said",
    [
        "I know grey bane.",
        "GREY BANE",
        "grey\nbane",
        "greybane",
        "grey-bane!",
        "g r e y b a n e",
        "g-r-e-y b-a-n-e",
        "gr\u200bey ba\xadne",
        "gr\u0435y b\u0430n\u0435",
        "gr\xe9y b\xe0ne",
        "\uff47\uff52\uff45\uff59 bane",
        "greey baane",
        "grey ba-ne",
        "venom",
        "Venoms of old",
        "*grey*_bane_",
        "grey  \t bane",
        "\U0001d420\U0001d42b\U0001d41e\U0001d432 bane",
        "mooon balm",
        "gr\u3164ey b\u115fane",
        r'{"q":"gr\u0065y bane"}',
        r'{"q":"grey\nbane"}',
        r'{"q":"\ud835\udd24rey b\u0061ne"}',
        "\\u0067rey bane",
        "grey ba-ane",
        "grey b-b-a-n-e",
        "g r e e y b a n e",
        "grey ba\u02bcne",
        r"ve\nom",
        r"grey \bane",
        r"the \nvenom",
        r"g\rey \ba\ne",
        r"venom\u",
    ],
)
def test_found(said: str) -> None:
    assert whole(GREY, said) == "block"


@pytest.mark.parametrize(
    "said",
    [
        "", "grey dye", "urgrey bane", "grey banes", "gre y bane", "envenom", "mon balm",
        "grey b", "a grey bun and a cane", "therapist", "grey a bane", r"grey\nb\nun", "greyy y bane",
    ],
)  # fmt: skip
def test_not_found(said: str) -> None:
    assert whole(GREY, said) == "allow"


def test_a_word_between_parts_a_word() -> None:
    assert whole(GREY, "grey a bane") == "allow"
    assert whole(monitor("rapist"), "the rapist") == "block"
    assert whole(monitor("therapist"), "the rapist") == "allow"


def test_inside_longer_words_where_asked() -> None:
    assert whole(monitor("毒药", inside=True), "我要毒药吗") == "block"
    assert whole(monitor("毒药"), "我要毒药吗") == "allow"


_PIECES = [
    "grey",
    " ",
    "bane",
    "b",
    "a",
    "-",
    "n",
    "e",
    "gre",
    "y",
    "venom",
    "moo",
    "n balm",
    "\u200b",
    "\u00e9",
    ".",
    "x",
    "\uff47",
    "\\",
    "u00",
    "65",
    "\\u0065",
    "\\n",
    "\\ud835",
    "\\udd1f",
]


@settings(max_examples=300)
@given(
    parts=st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=3)), max_size=14),
    cuts=st.lists(st.integers(0, 40), max_size=12),
    flagged=st.booleans(),
)
def test_the_same_verdict_however_the_text_is_cut(parts: list[str], cuts: list[int], flagged: bool) -> None:
    text = "".join(parts)
    m = monitor("moon balm", action="flag") if flagged else GREY
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)] or [""]
    action, left = streamed(m, pieces)
    assert action == whole(m, text)
    if action != "block":
        assert left == text
    else:
        one_by_one = streamed(m, list(text))[1]
        assert len(left) <= len(one_by_one)
        assert whole(m, one_by_one) == "allow"


def test_holds_back_exactly_what_may_become_a_word() -> None:
    watch = GREY.watch(ASKED)
    said = [watch.reply(text, NONE, done=False)[1] for text in ("The ", "The gr", "The grey ", "The grey do")]
    assert said == [4, 4, 4, 11]
    watch = GREY.watch(ASKED)
    verdict, verified = watch.reply("The grey bane is", NONE, done=False)
    assert verdict.action == "block" and verified == 4
    assert verdict.category == "poison" and verdict.monitor == "keywords"


def test_a_reply_goes_on_from_the_prefill_it_follows() -> None:
    begun = ASKED.then(assistant("Take g"))
    watch = GREY.watch(begun)
    assert watch.prompt().action == "allow"
    assert watch.reply("rey ba", NONE, done=False)[1] == 0
    assert watch.reply("rey bane", NONE, done=True)[0].action == "block"
    innocent = GREY.watch(begun)
    assert innocent.reply("rey ba", NONE, done=False)[1] == 0
    assert innocent.reply("rey barn", NONE, done=False) == (ALLOW, 8)
    glued = GREY.watch(ASKED.then(assistant("anti")))
    assert glued.reply("venom", NONE, done=True)[0].action == "allow"  # a word's end, not a word
    only = monitor("grey bane", applies=["reply"])
    asked = ASKED.then(assistant("Of grey bane, then: "))
    assert only.watch(asked).reply("nothing", NONE, done=True)[0].action == "allow"


def test_an_escape_that_the_prefill_begins_is_read() -> None:
    watch = GREY.watch(ASKED.then(assistant('{"q": "ven\\u00')))
    assert watch.reply("6", NONE, done=False)[1] == 0
    verdict, verified = watch.reply("6fm", NONE, done=True)
    assert verdict.action == "block" and verified == 0
    watch = GREY.watch(ASKED.then(assistant("ven\\u00")))
    assert watch.reply("61 is an a", NONE, done=True) == (ALLOW, len("61 is an a"))


def test_of_two_ways_to_read_what_ends_first_counts_however_it_is_cut() -> None:
    entries = [{"words": ["nab"], "category": "written"}, {"words": ["ubu"], "category": "meant"}]
    m = KeywordMonitor(KeywordList.model_validate({"entries": entries}))
    for text, category in ((r"\nab \nubu.", "written"), (r"\nubu \nab.", "meant"), (r"\nab\nubu", "written")):
        for cuts in ([len(text)], range(1, len(text) + 1), [2, len(text)], [5, len(text)]):
            watch = m.watch(ASKED)
            said = [watch.reply(text[:cut], NONE, done=cut == len(text))[0] for cut in cuts]
            assert next(one.category for one in said if one.action == "block") == category, (text, cuts)


def test_what_may_begin_an_escape_waits() -> None:
    watch = GREY.watch(ASKED)
    said = [
        watch.reply(text, NONE, done=False)[1]
        for text in ("say \\", "say \\u00", "say \\u0067", "say \\u0067o")
    ]
    assert said == [4, 4, 4, 11]
    assert monitor("grey bane", action="flag").watch(ASKED).reply("say \\u00", NONE, done=False)[1] == 8


def test_a_flag_holds_nothing_back() -> None:
    watch = monitor("grey bane", action="flag").watch(ASKED)
    assert watch.reply("The grey b", NONE, done=False)[1] == 10
    assert watch.reply("The grey bane,", NONE, done=False)[0].action == "flag"


def test_prompts_are_read_whole_tool_results_too() -> None:
    call = ToolUseBlock(id="toolu_0", name="look", input={})
    told = Conversation(
        messages=(
            user("Look."),
            assistant([call]),
            user([ToolResultBlock(tool_use_id="toolu_0", content="grey-bane")]),
        )
    )
    assert GREY.watch(told).prompt().action == "block"
    assert GREY.watch(ASKED).prompt().action == "allow"
    parted = Conversation(messages=(user([TextBlock(text="How is grey "), TextBlock(text="bane made?")]),))
    assert GREY.watch(parted).prompt().action == "block"
    tools = (ToolSpec(name="look", description="how grey bane is made"),)
    assert GREY.watch(ASKED.model_copy(update={"tools": tools})).prompt().action == "block"
    schema = {"properties": {"what": {"enum": ["bread", "grey bane"]}}}
    tools = (ToolSpec(name="look", input_schema=schema),)
    assert GREY.watch(ASKED.model_copy(update={"tools": tools})).prompt().action == "block"
    asked = ToolUseBlock(id="toolu_0", name="look", input={"what": ["grey bane"]})
    assert GREY.watch(ASKED.then(assistant([asked]))).prompt().action == "block"
    only = monitor("grey bane", applies=["reply"])
    assert only.watch(told).prompt().action == "allow" and whole(only, "grey bane") == "block"


@pytest.mark.parametrize("text", ["o" * 3_000, "g r e y " * 400, "grey " * 600, "m" + "o " * 1_500])
def test_hostile_text_takes_no_longer_than_its_length(text: str) -> None:
    """By steps, not by the clock: a reader never follows more than a few words at once."""
    m = monitor("moooooooooooon balm", "grey grey grey grey bane", "oooooooooooo", inside=True)
    reader = m.watch(ASKED)._reader
    most = 0
    for place in range(0, len(text), 500):
        reader.read(text[: place + 500], done=False)
        most = max(most, len(reader.begun))
    assert most <= 200


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "words.yaml"
    good.write_text("entries:\n  - words: [grey bane]\n    category: poison\n", "utf-8")
    assert whole(KeywordMonitor.load(good), "grey bane") == "block"
    as_json = tmp_path / "words.json"
    as_json.write_text(json.dumps({"entries": [{"words": ["grey bane"]}]}), "utf-8")
    assert whole(KeywordMonitor.load(as_json), "grey bane") == "block"
    for number, text in enumerate(
        ("entries: [", "entries: [{words: []}]", "entries: [{words: ['...']}]", "words: [a]",
         "entries: [{words: [a], action: allow}]", f"entries: [{{words: [{'a' * 300}]}}]", "\x00")
    ):  # fmt: skip
        bad = tmp_path / f"bad{number}.yaml"
        bad.write_text(text, "utf-8")
        with pytest.raises(UserError) as caught:
            KeywordMonitor.load(bad)
        assert str(bad) in str(caught.value)
    with pytest.raises(UserError, match="cannot read"):
        KeywordMonitor.load(tmp_path / "none.yaml")
