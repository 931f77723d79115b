"""The starter recipe on a few files a user might bring."""

from __future__ import annotations

import json
import random
from pathlib import Path

from publius.pipeline import run_recipe, show_run
from publius.recipes.starter import starter

_TEXT = "the river runs past a town and people have bread with honey that they bake in the morning of spring"
_WORDS = _TEXT.split(" ")


def _sentence(rng: random.Random, words: int = 12) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words)).capitalize() + "."


def _lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _bring_files(folder: Path) -> None:
    rng = random.Random(0)
    documents = [{"text": " ".join(_sentence(rng) for _ in range(12))} for _ in range(60)]
    _lines(folder / "pretrain/books.jsonl", documents[:50])
    _lines(folder / "pretrain/val.jsonl", documents[50:])
    _lines(
        folder / "sft/chats.jsonl",
        [{"instruction": _sentence(rng), "output": _sentence(rng)} for _ in range(40)],
    )
    pairs = [
        {
            "prompt": [{"role": "user", "content": _sentence(rng)}],
            "chosen": _sentence(rng, 6),
            "rejected": _sentence(rng),
        }
        for _ in range(40)
    ]
    _lines(folder / "preference/pairs.jsonl", pairs[:30])
    _lines(folder / "preference/held.jsonl", pairs[30:])
    for name in ("asked", "bad", "good"):
        _lines(folder / f"safety/{name}.jsonl", [{"prompt": _sentence(rng)} for _ in range(12)])


def test_starter_runs_on_user_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    _bring_files(tmp_path / "data")
    recipe = starter(
        data=str(tmp_path / "data"), pairs="preference/pairs*", held_out_pairs="preference/held*",
        prompts="safety/asked*", harmful="safety/bad*", harmless="safety/good*",
    )  # fmt: skip
    shape = json.dumps(
        {"vocab_size": 400, "hidden_size": 32, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 32}
        | {"intermediate_size": 64, "max_position": 1024}
    )
    for key, value in {
        "refined.repetition": "false", "refined.dedup": "false", "tokenizer.vocab_size": "400",
        "haiku.model": shape, "opus.model": shape, "haiku.tokens": "8192", "opus.tokens": "8192",
        "sft.tokens": "4096", "test_sft.max_tokens": "8",
    }.items():  # fmt: skip
        recipe.override(key, value)
    run_recipe(recipe, "starter", tmp_path, until="test_sft")
    metrics = show_run("starter", tmp_path).metrics
    assert metrics["sft.refusal"]["n"] == 12
    assert 0 < metrics["pretrain.bpb"]["value"] < 8
    run_recipe(recipe, "starter", tmp_path, until="human_labels")
    assert show_run("starter", tmp_path).metrics["human_labels.val_pairs"]["value"] == 10
