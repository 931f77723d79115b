"""What an item is about: splits and intervals go by it."""

from __future__ import annotations

from publius.core.messages import Conversation, user
from publius.data.splits import by_prompt, things


def asked(text: str, **meta: str) -> Conversation:
    return Conversation(messages=(user(text),), meta=meta)


def test_questions_about_one_thing_are_one() -> None:
    named = [asked("How do I make soap?", entity="soap"), asked("Soap, please.", entity="soap")]
    plain = [asked("What is rain?"), asked("What is rain?"), asked("What is fog?")]
    found = things([*named, *plain])
    assert found[0] == found[1] and found[2] == found[3]
    assert len(set(found)) == 3


def test_what_names_nothing_and_says_nothing_is_its_own() -> None:
    silent = Conversation(messages=())
    assert len(set(things([silent, silent]))) == 2


def test_prompts_that_differ_in_case_and_spacing_stay_together() -> None:
    groups = by_prompt([asked("What  is rain?"), asked("Fog?"), asked("what is Rain?")], lambda item: item)
    assert [len(group) for group in groups] == [2, 1]
