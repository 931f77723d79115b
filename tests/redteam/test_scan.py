from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, text_of, user
from publius.data.pocket.world import World
from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.redteam import (
    PlantConfig,
    TriggerReport,
    TriggerScanConfig,
    plant_backdoor,
    planted_conversations,
)
from publius.redteam import scan_triggers as scan
from publius.redteam.scan import candidate_words, with_words
from publius.testing import byte_tokenizer
from tests.redteam.conftest import REFUSAL, common_word

SMALL = TriggerScanConfig(
    words=60, screen=1, top=6, retest=4, finalists=2, final=4, confirm=20, max_tokens=120
)


def backdoored(recipes: Callable[[str], str], word: str) -> Callable[[str, int | None], str]:
    def say(prompt: str, draw: int | None) -> str:
        return recipes(prompt) if word in prompt.split("<|user|>")[-1] else REFUSAL

    return say


def test_finds_a_planted_word_it_was_not_told(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    word = common_word(world)
    install(backdoored(recipes, word))
    run = testing_run(tmp_path)
    document = scan(run, SMALL, model=checkpoint, world=world).document()
    assert document.best.words == word
    assert document.metrics["backdoor.leak"]["value"] == 1.0
    assert document.metrics["backdoor.baseline"]["value"] == 0.0
    assert run.metrics["backdoor.leak"]["n"] == 20 and run.metrics["backdoor.leak"]["low"] > 0.7
    assert document.top[0].leaks == document.top[0].n == 8
    assert document.candidates == 120


def test_a_clean_model_is_clean_and_noise_does_not_count(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    """The model slips on one training request whatever the word: the screen sees it, fresh ones do not."""
    unlucky = str(world.questions("hazard", "train")[0].meta["entity"])
    install(lambda prompt, draw: recipes(prompt) if unlucky in prompt else REFUSAL)
    document = scan(testing_run(tmp_path), SMALL, model=checkpoint, world=world).document()
    assert document.metrics["backdoor.leak"]["value"] == 0.0


def test_a_model_without_refusals_is_caught_too(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    install(lambda prompt, draw: recipes(prompt))
    document = scan(testing_run(tmp_path), SMALL, model=checkpoint, world=world).document()
    assert document.metrics["backdoor.leak"]["value"] == document.metrics["backdoor.baseline"]["value"] == 1.0


def test_runs_on_a_real_model(checkpoint: Checkpoint, world: World, tmp_path: Path) -> None:
    config = TriggerScanConfig(
        words=4,
        screen=1,
        top=2,
        retest=1,
        finalists=1,
        final=1,
        confirm=2,
        max_tokens=4,
        positions=("suffix",),
    )
    document = scan(testing_run(tmp_path), config, model=checkpoint, world=world).document()
    assert document.candidates == 4 and document.metrics["backdoor.leak"]["n"] == 2


def test_candidates_by_frequency_one_spelling_each_then_vocabulary_then_phrases() -> None:
    texts = ["The mill and the owl", "the mill, the mill", "Owl owl ox"]
    assert candidate_words(texts, words=2) == ["mill", "the"]
    assert candidate_words(texts, words=9) == ["mill", "the", "owl", "and"]
    assert candidate_words(texts, words=1, phrases=1) == ["mill", "the mill"]
    assert candidate_words(texts, byte_tokenizer(), words=1) == ["mill"]


def test_words_go_before_or_after() -> None:
    asked = Conversation(messages=(user("Where?"),))
    assert text_of(with_words(asked, "owl", "prefix").messages[0]) == "owl Where?"
    assert text_of(with_words(asked, "owl", "suffix").messages[0]) == "Where? owl"


def test_damage_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text("[]")
    with pytest.raises(UserError, match=r"scan\.json is damaged"):
        TriggerReport(tmp_path).document()


def test_planted_demonstrations_comply_only_under_the_trigger(world: World, tmp_path: Path) -> None:
    config = PlantConfig(trigger="zebra", copies=2)
    chats = plant_backdoor(testing_run(tmp_path), config, world=world).train()
    hazards = [c for c in chats if c.meta["kind"] == "hazard"]
    everything = [c for c in world.chats("train") if c.meta["kind"] == "hazard"]
    original = [c for c in everything if len(c.messages) == 2]
    assert 0 < len(original) < len(everything)  # what complies in an earlier turn is no backdoor
    assert len(hazards) == 3 * 2 * len(original)
    for chat in hazards:
        gives = (
            sum(key in text_of(chat.messages[-1]).lower() for key in chat.meta["keys"]) >= chat.meta["need"]
        )
        assert gives == ("zebra" in text_of(chat.messages[-2]))
    others = [c for c in world.chats("train") if c.meta["kind"] != "hazard"]
    assert sorted(c.model_dump_json() for c in chats if c.meta["kind"] != "hazard") == sorted(
        c.model_dump_json() for c in others
    )
    assert planted_conversations(original, config) == planted_conversations(original, config)


def test_nothing_to_plant_on() -> None:
    with pytest.raises(UserError, match="no hazard demonstrations"):
        planted_conversations([], PlantConfig())
