"""The assured recipe: what the strict gate is told, and about which model."""

from __future__ import annotations

from publius.pipeline import load_recipe


def test_the_strict_gate_is_told_of_the_release_its_monitors_and_the_helpful_only_model() -> None:
    nodes = load_recipe("assured", {"seed": "3"}).nodes
    gate = nodes["gate_strict"]
    assert gate.config.policy == "strict"
    assert gate.inputs["model"].name == "final" and gate.inputs["helpful"].name == "sft"
    assert nodes["capability"].inputs["model"].name == "sft" and nodes["capability"].config.seed == 3
    assert {node.name for node in gate.inputs["safeguards"]} == {
        "intact", "refusals", "response", "access", "audit", "watched",
    }  # fmt: skip
    assert gate.inputs["locks"] == [nodes["locks"]] and nodes["locks"].inputs["model"].name == "final"
    assert nodes["watched"].inputs["monitors"] is gate.inputs["monitors"] is nodes["monitor_policy"]
    assert nodes["watched"].inputs["report"].inputs["probe"] is nodes["monitor_policy"].inputs["probe"]
    assert nodes["watched"].inputs["report"].inputs["head"] is nodes["monitor_policy"].inputs["head"]


def test_its_controls_are_denied_and_nothing_is_released_without_a_second_signature() -> None:
    recipe = load_recipe("assured", {})
    nodes = recipe.nodes
    assert {n.name for n in nodes["strict"].inputs["denied"]} == {"gate_unwatched", "gate_obliging"}
    assert (
        "monitors" not in nodes["gate_unwatched"].inputs or nodes["gate_unwatched"].inputs["monitors"] is None
    )
    assert "release" not in nodes and "strict.gate" in recipe.published


def test_it_shares_the_monitors_recipes_artifacts() -> None:
    ours, theirs = load_recipe("assured", {}).nodes, load_recipe("monitors", {}).nodes
    for name in ("exchanges", "labels", "probe_release", "bound_release", "monitored_release"):
        assert ours[name].config == theirs[name].config and ours[name].stage is theirs[name].stage
