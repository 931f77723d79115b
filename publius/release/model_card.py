"""The model card: rendered from the very evidence the gate decided on, never written by hand."""

from __future__ import annotations

from collections.abc import Mapping

from publius.evals import Measure
from publius.model.config import ModelConfig
from publius.release.policy import Decision, Policy

__all__ = ["render_card"]


def render_card(
    *,
    name: str,
    fingerprint: str,
    config: ModelConfig,
    decision: Decision,
    policy: Policy,
    metrics: Mapping[str, Measure],
    issued: str,
    expires: str,
) -> str:
    """Markdown with a Hugging Face front matter: shape, decision, checks, and all numbers with intervals."""
    verdict = f"allowed at level **{decision.level}**" if decision.allowed else "**not allowed**"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [publius]",
        "---",
        "",
        f"# {name}",
        "",
        f"A decoder-only transformer: {config.parameters():,} parameters, {config.layers} layers of width "
        f"{config.hidden_size}, vocabulary {config.vocab_size:,}, context {config.max_position:,} tokens.",
        "",
        f"Fingerprint `{fingerprint}`.",
        "",
        "## Release decision",
        "",
        f"Release {verdict} by policy `{policy.id}` version {policy.version}; it needs level "
        f"**{policy.release_level}**. Decided {issued}, valid until {expires}.",
        "",
    ]
    if decision.reasons:
        lines += ["Why not:", "", *(f"- {reason}" for reason in decision.reasons), ""]
    lines += _checks(decision)
    lines += [
        "",
        "## Measurements",
        "",
        "Rates with their sample size and 95% interval, on held-out items.",
        "",
    ]
    lines += ["| metric | measured |", "|---|---|"]
    lines += [f"| {metric} | {_shown(measure)} |" for metric, measure in sorted(metrics.items())]
    lines += [
        "",
        "## Limits",
        "",
        "These numbers hold for the tasks, attack styles and items they were measured on, and for this "
        "fingerprint only. An attack family nobody thought of is in none of them.",
        "",
    ]
    return "\n".join(lines)


def _checks(decision: Decision) -> list[str]:
    """The table of checks."""
    lines = ["| level | check | needed | measured | holds | what it is for |", "|---|---|---|---|---|---|"]
    for result in decision.checks:
        check = result.check
        sign = "≤" if check.direction == "at_most" else "≥"
        bound = "" if check.bound == "value" else f" ({check.bound} end)"
        lines.append(
            f"| {result.level} | {check.metric}{bound} | {sign} {check.threshold:g} "
            f"| {_shown(result.measure)} | {'yes' if result.passed else 'no'} | {check.explanation} |"
        )
    return lines


def _shown(measure: Measure | None) -> str:
    if measure is None or measure.value is None:
        return "not measured"
    text = f"{measure.value:.3f}"
    if measure.n is not None and measure.low is not None and measure.high is not None:
        text += f" [{measure.low:.3f}, {measure.high:.3f}], n = {measure.n}"
    return text + (f", {measure.unscored} unscored" if measure.unscored else "")
