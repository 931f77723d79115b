"""The one-dial recipe: what a tier and an amount of text derive, and a tiny run of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import load_recipe, run_recipe, show_run
from publius.training.scaling import pretrain_config

_TEXT = "the river runs past a town where people bake bread with honey in the morning of spring"
_WORDS = _TEXT.split(" ")


def test_the_dial_is_that_of_the_python_api() -> None:
    given = {"data": "text", "tier": "sonnet", "scale": "one_gpu", "tokens": "3B"}
    recipe = load_recipe("base", given)
    assert recipe.nodes["sonnet"].config == pretrain_config("sonnet", "one_gpu", 3e9, 65_536)
    assert recipe.nodes["tokenizer"].config.vocab_size == 65_536
    longer = load_recipe("base", given | {"tokens": "30B"}).nodes["sonnet"].config
    assert longer.batch_tokens * longer.accumulation > recipe.nodes["sonnet"].config.batch_tokens


@pytest.mark.parametrize("wrong", [{"tier": "sonet"}, {"scale": "huge"}, {"tokens": "many"}])
def test_a_wrong_dial_is_one_error(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError):
        load_recipe("base", {"data": "text", **wrong})


def test_it_trains(tmp_path: Path) -> None:
    rng = random.Random(0)
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(80):
        said = (" ".join(rng.choice(_WORDS) for _ in range(12)).capitalize() + "." for _ in range(12))
        (folder / f"{i}.txt").write_text(" ".join(said), "utf-8")
    recipe = load_recipe(
        "base",
        {"data": str(folder), "scale": "pocket", "tokens": "8k", "vocab_size": "320"}
        | {
            "text.val_fraction": "0.2",
            "refined.repetition": "false",
            "refined.dedup": "false",
            "haiku.steps": "4",
        },
    )
    run_recipe(recipe, "mine", tmp_path)
    metrics = show_run("mine", tmp_path).metrics
    assert 0 < metrics["pretrain.bpb"]["value"] < 8
    assert metrics["baseline.gzip_bpb"]["value"] > 0
