"""Tokens are told with their text, and no sooner."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from publius.core.messages import Conversation, user
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.safety.monitor import ALLOW, Verdict
from publius.serve.blocks import BlockReader, Part, Says
from publius.serve.exchange import Ask, Piece
from publius.serve.turn import Turn
from publius.testing.fakes import byte_tokenizer
from publius.tokenizer.special import THINK_END, TOOL_USE, TOOL_USE_END

TOKENIZER = byte_tokenizer()
SPECIAL = TOKENIZER.special
THOUGHT = [*TOKENIZER.encode("hm é"), SPECIAL[THINK_END]]
TEXT = TOKENIZER.encode("So: naïve 😀 STOPS")
CALL = [SPECIAL[TOOL_USE], *TOKENIZER.encode('{"name":"sum","input":{"a":"é"}}'), SPECIAL[TOOL_USE_END]]


class Speaking:
    """A turn whose reply is known, told in pieces and let go in others."""

    def __init__(self, ids: list[int], stops: tuple[str, ...] = ()) -> None:
        ask = Ask("m", Conversation(messages=(user("q"),)), 99, tell_drawn=True)
        nobody: Any = None
        self.turn = Turn(nobody, ask, nobody, "r", 0.0, 1, 0, bytes(32))
        self.turn.model = _Named()  # pyright: ignore[reportAttributeAccessIssue]
        self.ids = ids
        self.turn.request = Request(
            [1], Sampling(), tokens=ids, logprobs=[-float(i) for i in range(len(ids))]
        )
        self.reader = BlockReader(TOKENIZER, stops, opening="thinking")
        self.shown: list[tuple[str, list[int]]] = []
        """Of each block, its text that has left and its tokens that were told."""

    def take(self, count: int) -> list[Part]:
        """So many tokens more."""
        return self.turn.take(self.reader, self.ids[self.turn.read : self.turn.read + count])

    def leave(self, part: Part) -> None:
        """A part goes out."""
        event = self.turn.event(part)
        if isinstance(event, Piece):
            while len(self.shown) <= event.index:
                self.shown.append(("", []))
            text, told = self.shown[event.index]
            self.shown[event.index] = text + event.text, [*told, *(one.id for one in event.drawn)]


class _Named:
    id = "m"


def letters(tokens: list[int]) -> str:
    """What tokens say by themselves, half characters left out."""
    return b"".join(TOKENIZER.id_bytes(token) for token in tokens).decode("utf-8", "ignore")


@given(st.data())
def test_log_probabilities_leave_with_their_text(data: st.DataObject) -> None:
    """However tokens come together and wherever text is held back: at no time more tokens than text, of the
    block they are of; and all of them once all has left."""
    speaking = Speaking([*THOUGHT, *TEXT, *CALL, *TOKENIZER.encode("Done"), TOKENIZER.end_id])
    cuts = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    waiting: list[Part] = []
    for count in [*cuts, len(speaking.ids)]:
        waiting += speaking.take(count)
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            speaking.leave(waiting.pop(0))
        if waiting and isinstance(part := waiting[0], Says) and len(part.text) > 1:
            speaking.leave(Says(part.text[:1]))
            waiting[0] = Says(part.text[1:])
        assert all(text.startswith(letters(told)) for text, told in speaking.shown)
    for part in [*waiting, *speaking.reader.finish(None)]:
        speaking.leave(part)
    blocks = [(text, [id for id in told if id not in TOKENIZER.special_ids]) for text, told in speaking.shown]
    done = TOKENIZER.encode("Done")
    thought = ("hm é", THOUGHT[:-1])
    assert blocks == [thought, ("So: naïve 😀 STOPS", TEXT), ('{"a":"é"}', []), ("Done", done)]
    rest = speaking.turn.ended("end_turn", ALLOW).drawn
    told = [id for _, ids in speaking.shown for id in ids] + [one.id for one in rest]
    assert told == [*THOUGHT, *TEXT, SPECIAL[TOOL_USE_END], *done, TOKENIZER.end_id]


def test_what_a_stop_text_takes_back_is_not_told() -> None:
    speaking = Speaking([*THOUGHT, *TOKENIZER.encode("a STOP")], stops=("STOP",))
    for part in itertools.chain(speaking.take(99), speaking.reader.finish("STOP")):
        speaking.leave(part)
    assert speaking.shown[1] == ("a ", TOKENIZER.encode("a "))
    assert not speaking.turn.ended("stop_sequence", ALLOW).drawn


def test_a_refusal_tells_none_of_what_was_held_back() -> None:
    speaking = Speaking([*THOUGHT, *TEXT])
    waiting = speaking.take(99)
    while not isinstance(waiting[0], Says):
        speaking.leave(waiting.pop(0))
    speaking.leave(Says("hm"))
    assert speaking.shown == [("hm", TOKENIZER.encode("hm"))]
    assert not speaking.turn.ended("refusal", Verdict("block", "harm")).drawn
