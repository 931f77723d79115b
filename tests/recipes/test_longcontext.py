"""The wiring of the long-context recipe: sixteen times, and nothing measured that is not there."""

from __future__ import annotations

from pathlib import Path

from publius.pipeline import load_recipe, plan_recipe


def test_every_length_fits_the_model_it_is_asked_of(tmp_path: Path) -> None:
    recipe = load_recipe("longcontext", {"seed": "3"})
    start, base, long = (recipe.nodes[name].config for name in ("start", "base", "long"))
    short = start.model.max_position
    assert long.length == 16 * short and base.sequence_length == short and start.sequence_length <= short
    assert recipe.nodes["needle_long"].config.lengths[-1] == long.length
    assert recipe.nodes["needle_far"].config.lengths == (long.length,)
    assert recipe.nodes["needle_far"].config.seed != recipe.nodes["needle_long"].config.seed
    assert recipe.nodes["needle_base"].config.lengths[-1] == short
    assert len(recipe.nodes["needle_long"].config.depths) >= 5
    assert {recipe.nodes[name].config.seed for name in ("world", "start", "base", "long")} == {3}
    rows = {row.stage: row for row in plan_recipe(recipe, tmp_path)}
    assert rows["long"].predicted["tokens"] == sum(phase.tokens for phase in long.phases)
