"""Tokens into blocks."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from publius.serve.blocks import BlockReader, Opens, Part, Says, Shuts
from publius.testing.fakes import byte_tokenizer
from publius.tokenizer.special import THINK, THINK_END, TOOL_USE, TOOL_USE_END

TOKENIZER = byte_tokenizer()
SPECIAL = TOKENIZER.special


def call(name: str, given: object) -> list[int]:
    """Ids of a tool call as the renderer writes it."""
    text = json.dumps({"name": name, "input": given}, ensure_ascii=False, separators=(",", ":"))
    return [SPECIAL[TOOL_USE], *TOKENIZER.encode(text), SPECIAL[TOOL_USE_END]]


def read(
    ids: list[int], reader: BlockReader, stop: str | None = None, cuts: list[int] | None = None
) -> list[Part]:
    """All parts, pieces of one block joined; the ids given one by one, or cut at some places."""
    edges = sorted({0, *(range(len(ids)) if cuts is None else cuts), len(ids)})
    told = [part for a, b in itertools.pairwise(edges) for part in reader.take(ids[a:b])]
    parts: list[Part] = []
    for part in told + reader.finish(stop):
        if isinstance(part, Says) and parts and isinstance(parts[-1], Says):
            parts[-1] = Says(parts[-1].text + part.text)
        else:
            parts.append(part)
    return parts


def test_thinking_text_and_a_call_are_three_blocks_one_after_another():
    ids = [
        *TOKENIZER.encode("hm"),
        SPECIAL[THINK_END],
        *TOKENIZER.encode("So: "),
        *call("sum", {"a": [1, 2]}),
    ]
    assert read(ids, BlockReader(TOKENIZER, opening="thinking")) == [
        Opens("thinking"), Says("hm"), Shuts("thinking", "hm"),
        Opens("text"), Says("So: "), Shuts("text", "So: "),
        Opens("tool_use", "sum"), Says('{"a":[1,2]}'), Shuts("tool_use", '{"a":[1,2]}', {"a": [1, 2]}),
    ]  # fmt: skip


@given(
    st.text(alphabet='ab"\\{}é', min_size=1, max_size=8),
    st.recursive(
        st.integers(-9, 9) | st.text(alphabet='{}"\\é', max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    ),
)
def test_pieces_of_a_call_join_to_the_json_of_its_input(name: str, value: object):
    given = {"value": value}
    parts = read(call(name, given), BlockReader(TOKENIZER))
    assert parts[0] == Opens("tool_use", name)
    assert isinstance(parts[1], Says) and json.loads(parts[1].text) == given
    assert isinstance(parts[2], Shuts) and parts[2].input == given


@given(st.integers(0, 60))
def test_a_call_cut_anywhere_has_an_object_for_input_and_says_nothing_beyond_it(cut: int):
    ids = call("sum", {"a": "one", "b": {"c": [1, 2, 3]}})[:-1][:cut]
    parts = read(ids, BlockReader(TOKENIZER))
    for part in parts:
        if isinstance(part, Shuts):
            assert part.kind == "tool_use" and isinstance(part.input, dict)
        if isinstance(part, Says):
            assert '{"a":"one","b":{"c":[1,2,3]}}'.startswith(part.text)
    assert not any(isinstance(part, Opens) and part.kind == "text" for part in parts)


def test_text_is_held_back_while_it_may_become_a_stop_text():
    reader = BlockReader(TOKENIZER, ["STOP"])
    told = "".join(
        part.text
        for token in TOKENIZER.encode("go STO")
        for part in reader.take([token])
        if isinstance(part, Says)
    )
    assert told == "go "
    told += "".join(part.text for part in reader.take(TOKENIZER.encode("X")) if isinstance(part, Says))
    assert told == "go STOX"


def test_what_follows_a_stop_text_is_never_told():
    ids = TOKENIZER.encode("go STOP")
    assert read(ids, BlockReader(TOKENIZER, ["STOP"]), "STOP") == [
        Opens("text"),
        Says("go "),
        Shuts("text", "go "),
    ]


def test_no_stop_text_holds_a_call_back():
    reader = BlockReader(TOKENIZER, ["name", '"a"', "}"])
    told = [part.text for part in reader.take(call("sum", {"a": 1})[:-1]) if isinstance(part, Says)]
    assert "".join(told) == '{"a":1}'


def test_numbers_that_json_has_not_reach_no_client():
    for number in ("NaN", "Infinity", "1e999"):
        text = '{"name":"sum","input":{"a":' + number + "}}"
        ids = [SPECIAL[TOOL_USE], *TOKENIZER.encode(text), SPECIAL[TOOL_USE_END]]
        assert [part.input for part in read(ids, BlockReader(TOKENIZER)) if isinstance(part, Shuts)] == [{}]


def test_half_a_character_waits_for_its_other_half():
    reader = BlockReader(TOKENIZER)
    first, second = TOKENIZER.encode("é")
    assert reader.take([first]) == []
    assert reader.take([second]) == [Opens("text"), Says("é")]


def test_raw_text_has_no_blocks_and_no_special_tokens():
    ids = [SPECIAL[THINK], *TOKENIZER.encode("a"), SPECIAL[TOOL_USE], *TOKENIZER.encode("b")]
    assert read(ids, BlockReader(TOKENIZER, raw=True)) == [Opens("text"), Says("ab"), Shuts("text", "ab")]


@given(st.data())
def test_a_reply_is_the_same_however_its_tokens_are_cut(data: st.DataObject):
    ordinary = st.sampled_from(TOKENIZER.encode('ab STOPé{"}:,'))
    piece = st.lists(ordinary | st.sampled_from(sorted(SPECIAL.values())), max_size=12)
    known = st.builds(
        call, st.sampled_from(["sum", "é"]), st.dictionaries(st.text("aé}", max_size=2), st.none())
    )
    ids = [id for some in data.draw(st.lists(piece | known, max_size=4)) for id in some]
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
    stops, raw = data.draw(st.sampled_from([[], ["STOP"], ["b S", "é"]])), data.draw(st.booleans())
    one, cut = BlockReader(TOKENIZER, stops, raw=raw), BlockReader(TOKENIZER, stops, raw=raw)
    assert read(ids, cut, cuts=cuts) == read(ids, one)
    assert (cut.thought, cut.calls, cut.mode) == (one.thought, one.calls, one.mode)


def test_thinking_is_counted_with_what_ends_it():
    reader = BlockReader(TOKENIZER, opening="thinking")
    reader.take([*TOKENIZER.encode("hm"), SPECIAL[THINK_END], *TOKENIZER.encode("So")])
    assert reader.thought == 3


def test_an_empty_reply_has_no_block():
    assert read([SPECIAL[THINK], SPECIAL[THINK_END]], BlockReader(TOKENIZER)) == []
