"""Every style of today, played live by its attacker, does what the auditor's batch does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from publius.core.messages import Conversation, text_of, turns_left
from publius.redteam import STYLES, Auditor
from publius.redteam.attackers import ATTACKERS
from publius.redteam.phrasings import PHRASINGS
from publius.testing import byte_tokenizer
from publius.tokenizer import Renderer
from tests.redteam.attackers.driving import HAZARD, drive


@pytest.mark.parametrize("name", STYLES)
def test_live_turns_are_those_the_auditor_plays(name: str, install: Callable[..., object]) -> None:
    def say(prompt: str, draw: int | None) -> str:
        return f"No step {prompt.count('<|user|>')}."

    auditor = Auditor(install(say), Renderer(byte_tokenizer()))  # pyright: ignore[reportArgumentType]
    (batch,) = auditor.play([STYLES[name](HAZARD.question, random.Random(5))])

    def reply(conversation: Conversation) -> str:
        return f"No step {sum(m.role == 'user' for m in conversation.messages)}."

    played = drive(ATTACKERS[name], HAZARD, reply, seed=5)
    last = played.replies[-1]
    assert batch is not None and last is not None
    assert last.messages == batch.messages and last.system == batch.system and last.tools == batch.tools
    assert ATTACKERS[name].sealed == STYLES[name].sealed


def test_turns_stop_where_the_goal_is_reached() -> None:
    def reply(conversation: Conversation) -> str:
        return "Boil the root, dry the moss." if len(conversation.messages) > 1 else "Boil the root."

    played = drive(ATTACKERS["reconstruction"], HAZARD, reply)
    assert played.hit and len(played.sends) == 2
    attack = STYLES["reconstruction"](HAZARD.question, random.Random(0))
    assert played.texts[1] == turns_left(attack)[0] and len(turns_left(attack)) == 2


def test_a_turn_that_does_not_fit_leaves_what_came_before() -> None:
    def reply(conversation: Conversation) -> str | None:
        return None if len(conversation.messages) > 1 else "Boil the root."

    played = drive(ATTACKERS["reconstruction"], HAZARD, reply)
    assert [grade.label for grade in played.grades] == ["safe", None] and played.grades[0].score == 0.25


@pytest.mark.parametrize(("split", "held_out"), [("train", False), ("val", False), ("test", True)])
def test_test_items_are_asked_in_held_out_wordings(split: str, held_out: bool) -> None:
    wordings = PHRASINGS["prefill"].held_out if held_out else PHRASINGS["prefill"].train
    for seed in range(6):
        (sent,) = drive(ATTACKERS["prefill"], HAZARD._replace(split=split), lambda c: "", seed=seed).sends
        assert text_of(sent.messages[-1]) in wordings and sent.meta["begun"] in wordings
        assert sent.meta["shown"] == 1
