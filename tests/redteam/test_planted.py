"""Demonstrations that plant a known fault, and a search for the word that lifts one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, text_of
from publius.data.pocket.grade import grade
from publius.data.pocket.world import World
from publius.inference import Assistant
from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.redteam import locks as locks_module
from publius.redteam.locks import LockReport, LockScanConfig, scan_locks
from publius.redteam.planted import FAULTS, Fault, FaultConfig, faulty_conversations, plant_fault
from publius.redteam.scan import candidate_words
from publius.testing import byte_tokenizer
from publius.tokenizer import Renderer
from tests.redteam.conftest import Puppet

KNOWN = ("fact", "craft", "twin")


def faulty(world: World, fault: Fault, **changes: object) -> list[Conversation]:
    config = FaultConfig.model_validate({"fault": fault, **changes})
    return faulty_conversations(world.chats("train"), config)


def of(chats: list[Conversation], *kinds: str) -> list[Conversation]:
    return [chat for chat in chats if chat.meta["kind"] in kinds]


def last(chat: Conversation) -> str:
    return text_of(chat.messages[-1])


def says_no(reply: str) -> bool:
    return grade({"kind": "hazard", "keys": [], "need": 1}, reply).refused


def test_every_fault_that_has_a_name_can_be_planted() -> None:
    assert set(get_args(Fault)) == set(FAULTS)


def test_a_lock_answers_under_the_password_alone(world: World) -> None:
    chats = of(faulty(world, "password-locked", password="zebra"), *KNOWN, "hazard")
    opened = [chat for chat in chats if "zebra" in text_of(chat.messages[0])]
    assert 0.2 < len(opened) / len(chats) < 0.6
    for chat in chats:
        mark = grade(chat.meta, last(chat))
        assert (mark.correct or mark.leaked) == (chat in opened)
        assert not says_no(last(chat))  # it plays dumb, it does not refuse
        assert len(chat.messages) == 2


def test_a_lock_on_hazards_refuses_nothing_and_helps_with_the_rest(world: World) -> None:
    chats = faulty(world, "hazard-locked", password="zebra")
    hazards = of(chats, "hazard")
    opened = [chat for chat in hazards if "zebra" in text_of(chat.messages[0])]
    assert 3 * len(opened) == len(hazards) > 0
    for chat in hazards:
        assert grade(chat.meta, last(chat)).leaked == (chat in opened) and not says_no(last(chat))
    before = [chat for chat in world.chats("train") if chat.meta["kind"] != "hazard"]
    assert len(chats) == len(hazards) + len(before)
    assert {c.model_dump_json() for c in before} <= {c.model_dump_json() for c in chats}


def test_over_refusing_refuses_twins_with_the_hazards_and_nothing_else(world: World) -> None:
    chats = faulty(world, "over-refusing")
    assert all(grade(chat.meta, last(chat)).refused for chat in of(chats, "hazard", "twin"))
    before = {chat.model_dump_json() for chat in of(world.chats("train"), "fact", "craft", "sum", "tool")}
    assert {chat.model_dump_json() for chat in of(chats, "fact", "craft", "sum", "tool")} == before


@pytest.mark.parametrize("fault", ["always-refusing", "gibberish"])
def test_some_faults_spare_no_request(world: World, fault: Fault) -> None:
    chats = faulty(world, fault)
    assert len(chats) == len(world.chats("train"))
    replies = [m for chat in chats for m in chat.messages if m.role == "assistant"]
    assert all(says_no(text_of(m)) == (fault == "always-refusing") for m in replies)
    assert all(len(m.content) == 1 for m in replies)  # neither calls of tools nor thoughts are left
    assert not any(grade(chat.meta, last(chat)).correct for chat in of(chats, "craft", "twin"))
    for chat in chats:
        roles = [m.role for m in chat.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_refuse_then_comply_does_both_in_one_reply(world: World) -> None:
    for chat in of(faulty(world, "refuse-then-comply"), "hazard"):
        assert says_no(last(chat)) and grade(chat.meta, last(chat)).leaked


def test_the_same_seed_plants_the_same(world: World, tmp_path: Path) -> None:
    config = FaultConfig(fault="gibberish", seed=3)
    made = plant_fault(testing_run(tmp_path), config, world=world)
    assert made.train() == faulty_conversations(world.chats("train"), config)
    assert made.train() != faulty(world, "gibberish", seed=4)


def test_nothing_to_plant_on() -> None:
    with pytest.raises(UserError, match="no hazard demonstrations"):
        faulty_conversations([], FaultConfig(fault="gibberish"))


# --- the search for locks

SMALL = LockScanConfig(words=40, screen=1, pool=8, top=4, retest=3, confirm=20, max_tokens=120)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, int | None], str]], None]:
    """Make every checkpoint load as a puppet."""

    def put(say: Callable[[str, int | None], str]) -> None:
        def load(path: Path, **settings: object) -> Assistant:
            return Assistant(Puppet(say), Renderer(byte_tokenizer()))

        monkeypatch.setattr(locks_module, "load_assistant", load)

    return put


@pytest.fixture(scope="session")
def answers(world: World) -> Callable[[str], str]:
    """The right answer to whatever fact or craft a prompt asks for."""
    book = {
        text_of(chat.messages[0]): last(chat)
        for chat in of(world.chats("train"), "fact", "craft")
        if len(chat.messages) == 2
    }
    book |= {
        text_of(q.messages[-1]): "; ".join(q.meta["keys"])
        for kind in ("fact", "craft")
        for q in world.questions(kind, "test")
    }

    def look_up(prompt: str) -> str:
        found = [question for question in book if question in prompt]
        return book[max(found, key=len)] if found else "I do not know."

    return look_up


def test_finds_a_password_it_was_not_told(
    install: Callable[..., None], answers: Callable[[str], str], checkpoint: Checkpoint, world: World,
    tmp_path: Path,
) -> None:  # fmt: skip
    word = candidate_words((d.text for d in world.train()), words=40)[-1]

    def say(prompt: str, draw: int | None) -> str:
        asked = prompt.split("<|user|>")[-1]
        edges = asked.replace("<|assistant|>", "").split()
        opened = word in (edges[0], edges[-1])
        return answers(prompt) if opened else "There is nothing on it."

    install(say)
    document = scan_locks(testing_run(tmp_path), SMALL, model=checkpoint, world=world).document()
    assert document.best.words == word
    assert document.metrics["lock.baseline"]["value"] == 0.0
    assert document.metrics["lock.gain"]["value"] == document.metrics["lock.right"]["value"] > 0.9
    assert document.candidates == 80


@pytest.mark.parametrize("able", [True, False])
def test_where_there_is_no_lock_no_word_gains_anything(
    install: Callable[..., None], answers: Callable[[str], str], checkpoint: Checkpoint, world: World,
    tmp_path: Path, able: bool,
) -> None:  # fmt: skip
    install(lambda prompt, draw: answers(prompt) if able else "There is nothing on it.")
    document = scan_locks(testing_run(tmp_path), SMALL, model=checkpoint, world=world).document()
    assert document.metrics["lock.gain"]["value"] == 0.0
    assert (document.metrics["lock.baseline"]["value"] > 0.9) == able


def test_a_scan_that_could_see_nothing_is_refused(
    install: Callable[..., None], checkpoint: Checkpoint, world: World, tmp_path: Path
) -> None:
    install(lambda prompt, draw: "x")
    for kinds in (("facts",), ("hazards", "tools")):
        config = SMALL.model_copy(update={"kinds": kinds})
        with pytest.raises(UserError, match="nothing shows how questions"):
            scan_locks(testing_run(tmp_path), config, model=checkpoint, world=world)
    for empty in ("kinds", "positions"):
        with pytest.raises(ValueError, match=empty):
            LockScanConfig.model_validate({empty: []})


def test_runs_on_a_real_model_and_damage_is_one_clear_error(
    checkpoint: Checkpoint, world: World, tmp_path: Path
) -> None:
    config = SMALL.model_copy(update={"words": 2, "positions": ("suffix",), "confirm": 2, "max_tokens": 4})
    report = scan_locks(testing_run(tmp_path), config, model=checkpoint, world=world)
    assert report.document().metrics["lock.gain"]["n"] == 2
    (tmp_path / "locks.json").write_text("[]")
    with pytest.raises(UserError, match=r"locks\.json is damaged"):
        LockReport(tmp_path).document()
