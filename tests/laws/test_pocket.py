"""Same seed, same world; another seed, another world; splits never meet."""

from __future__ import annotations

from pathlib import Path

from publius.data.pocket.crafts import build_crafts
from publius.data.pocket.facts import build_entities
from publius.data.pocket.world import PocketConfig, make_pocket
from publius.pipeline import testing_run
from tests.data.pocket.test_world import SMALL, names_by_split


def _bytes(folder: Path, config: PocketConfig) -> dict[str, bytes]:
    made = make_pocket(testing_run(folder), config)
    return {p.name: p.read_bytes() for p in sorted(made.path.iterdir())}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again = (_bytes(tmp_path / name, SMALL) for name in ("first", "again"))
    assert first == again
    other = _bytes(tmp_path / "other", SMALL.model_copy(update={"seed": 1}))
    assert other["train.jsonl.zst"] != first["train.jsonl.zst"]


def test_splits_are_disjoint_by_entity() -> None:
    for seed in range(3):
        entities = build_entities(seed, 30, 30)
        crafts = build_crafts(seed, 12, 12, *names_by_split(entities))
        for items in (entities, crafts):
            names = {s: {i.name for i in items if i.split == s} for s in ("train", "val", "test")}
            assert all(names.values())
            assert not names["train"] & names["test"]
            assert not names["train"] & names["val"]
            assert not names["val"] & names["test"]
