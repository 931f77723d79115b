"""The monitors recipe: whose states, whose replies, and its controls."""

from __future__ import annotations

from publius.pipeline import load_recipe


def test_each_model_gets_a_probe_on_its_own_states_and_is_measured_with_it() -> None:
    nodes = load_recipe("monitors", {"seed": "3"}).nodes
    assert [node.name for node in nodes["exchanges"].inputs["models"]] == ["sft", "final"]
    for name, model in (("helpful", "sft"), ("release", "final")):
        probe, report = nodes[f"probe_{name}"], nodes[f"monitored_{name}"]
        assert probe.inputs["model"].name == report.inputs["model"].name == model
        assert report.inputs["probe"] is probe and report.config.seed == 3
        head = nodes[f"bound_{name}"]
        assert head.inputs["head"] is nodes[f"head_{name}"]
        assert head.inputs["probe"] is probe and report.inputs["head"] is head
        learned_from, measured_with = nodes["exchanges"].inputs["others"], report.inputs["others"]
        assert not set(map(id, learned_from)) & set(map(id, measured_with)), "no world is both"
        assert report.inputs["learned"] == learned_from, "nor are its names"
        assert len({node.config.seed for node in (*learned_from, *measured_with)}) == 1 + len(measured_with)
    assert nodes["probe_shuffled"].config.shuffle and not nodes["probe_helpful"].config.shuffle
    assert nodes["probe_absent"].config.without == ("rumour", "address")
    assert "release" not in nodes  # nothing new is released by measuring


def test_what_it_measures_is_shown() -> None:
    shown = load_recipe("monitors", {}).published
    for name in ("helpful", "release"):
        assert {f"{name}.monitor.success.with", f"{name}.monitor.false_positives"} <= set(shown)
    assert {f"whitebox.success.with.{name}" for name in ("plain", "random", "probe", "both")} <= set(shown)
    assert "shuffled.probe.auroc" in shown and "absent.probe.stopped.address" in shown
