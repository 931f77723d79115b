"""The model card: rendered from the signed body of the decision and nothing else, never written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from publius.evals import Measure
from publius.release.deciding import CheckResult, SafeguardResult
from publius.release.policy import Level
from publius.release.safeguards import SAFEGUARDS

if TYPE_CHECKING:  # the body knows its card's hash
    from publius.release.decision import DecisionDocument, Override

__all__ = ["render_card"]

_VERDICTS = {
    "allow": "**allowed**",
    "allow_with_safeguards": "**allowed with safeguards**",
    "needs_human": "**a person must decide**",
    "deny": "**not allowed**",
}
_FAMILIES = ("redteam.", "backdoor.", "regression.")


def render_card(document: DecisionDocument, overrides: Sequence[Override] = ()) -> str:
    """Markdown with a Hugging Face front matter.

    Sections: what it is, the decision, evaluations, dangerous capabilities, safeguards and their tests,
    overrides, limits.
    """
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [publius]",
        "---",
        "",
    ]
    lines += [f"# {document.name or 'publius'}", "", "## What it is", ""]
    lines += [document.about, ""] if document.about else []
    lines += [f"Fingerprint `{document.model}`.", ""]
    lines += _decision(document)
    lines += _evaluations(document)
    lines += _capabilities(document)
    lines += _safeguards(document)
    lines += _overrides(overrides)
    lines += [
        "## Limits",
        "",
        "These numbers hold for the tasks, attack styles and items they were measured on, and for this "
        "fingerprint only. An attack family nobody thought of is in none of them. The gate counts what could "
        "not be measured as failed; it cannot count what nobody asked.",
        "",
    ]
    return "\n".join(lines)


def _decision(document: DecisionDocument) -> list[str]:
    decision, policy = document.decision, document.policy
    lines = [
        "## Release decision",
        "",
        f"{_VERDICTS[decision.verdict]} by policy `{policy.id}` version {policy.version} "
        f"(`{document.policy_sha256[:16]}`). A release needs level **{decision.needed}**; the highest level "
        f"that holds is **{decision.level}**. Decided {document.issued}, valid until {document.expires}; "
        f"signed by: {', '.join(policy.signatures)}.",
        "",
    ]
    if decision.requires or document.monitors:
        lines += [f"Served only with: {', '.join(_conditions(document))}.", ""]
    if decision.reasons:
        human = decision.verdict == "needs_human"
        lines += ["What a person must look at:" if human else "Why not:", ""]
        lines += [*(f"- {reason}" for reason in decision.reasons), ""]
    lines += [*_levels(policy.levels), ""]
    return lines


def _conditions(document: DecisionDocument) -> list[str]:
    named = f"the monitors' policy `{(document.monitors or '')[:16]}`"
    needs = document.decision.requires
    found = [SAFEGUARDS[name].explanation.rstrip(".").lower() for name in needs if name != "monitors"]
    if document.monitors:
        found.append(named if "monitors" in needs else f"no monitors, or {named}")
    return found


def _levels(levels: Iterable[Level]) -> list[str]:
    lines = ["| level | mirrors | means |", "|---|---|---|"]
    return [*lines, *(f"| {one.name} | {one.corresponds or '-'} | {one.explanation} |" for one in levels)]


def _evaluations(document: DecisionDocument) -> list[str]:
    lines = ["## Evaluations", "", "### What the policy asks", "", *_checks(document.decision.checks)]
    rest = {n: m for n, m in document.metrics.items() if not n.startswith("capability.")}
    lines += [
        "",
        "### Everything measured",
        "",
        "Rates with sample size and 95% interval, on held-out items.",
    ]
    return [*lines, "", *_table(document, rest), ""]


def _table(document: DecisionDocument, metrics: dict[str, Measure]) -> list[str]:
    lines = ["| metric | measured | on |", "|---|---|---|"]
    for metric, measure in sorted(metrics.items(), key=lambda item: (item[0].startswith(_FAMILIES), item[0])):
        lines.append(f"| {metric} | {_shown(measure)} | {document.measured.get(metric, 'unknown')[:10]} |")
    return lines


def _capabilities(document: DecisionDocument) -> list[str]:
    lines = ["## Dangerous capabilities", ""]
    found = {n: m for n, m in document.metrics.items() if n.startswith("capability.")}
    if not found:
        return [*lines, "Not assessed.", ""]
    grown = "an unknown factor" if document.growth is None else f"{document.growth:.3g}"
    lines += [
        "Measured on the helpful-only checkpoint that this model was made from, in every way listed; "
        "`capability.success` is the highest over them, its interval corrected for having taken the highest. "
        f"Training compute has grown since by {grown}.",
        "",
        f"Elicited by: {', '.join(document.elicited) or 'nothing'}.",
        "",
    ]
    if document.decision.thresholds:
        lines += ["A level is needed unless its thresholds are ruled out:", ""]
        lines += [*_checks(document.decision.thresholds, "ruled out"), ""]
    return [*lines, *_table(document, found), ""]


def _safeguards(document: DecisionDocument) -> list[str]:
    lines = ["## Safeguards and their tests", ""]
    results = document.decision.safeguards
    if not results and not document.safeguards:
        return [*lines, "None tested; the policy asks for none.", ""]
    if results:
        lines += ["| level | standard | safeguard | holds | why |", "|---|---|---|---|---|"]
        lines += [
            f"| {r.level} | {r.standard} | {r.name} | {'yes' if r.passed else 'no'} | {_why(r)} |"
            for r in results
        ]
        lines.append("")
    for test in document.safeguards:
        failed = [trial for trial in test.trials if not trial.passed]
        state = "passed" if test.passed else f"**failed**: {failed[0].what if failed else 'no trials'}"
        lines += [f"### {test.name}", "", f"{test.how} Tested {test.when[:10]}, {state}.", ""]
        lines += [f"- {name}: {_shown(measure)}" for name, measure in sorted(test.measures.items())]
        lines.append("")
    return lines


def _why(result: SafeguardResult) -> str:
    told = result.reason.removeprefix(f"safeguard {result.name}: ")
    return "; ".join([told, *(check.reason for check in result.checks if check.passed)])


def _overrides(overrides: Sequence[Override]) -> list[str]:
    lines = ["## Overrides", ""]
    if not overrides:
        return [*lines, "None.", ""]
    lines += ["| sets aside | who | as | why | when | until |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {', '.join(o.overrides)} | {_cell(o.who)} | {o.role} | {_cell(o.why)} | {o.when} | {o.expires} |"
        for o in overrides
    ]
    return [*lines, ""]


def _cell(text: str) -> str:
    """What people wrote, so that it stays in its cell."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|[]<>`*_" else letter for letter in plain)


def _checks(results: Sequence[CheckResult], holds: str = "holds") -> list[str]:
    """The table of checks."""
    lines = [f"| level | check | needed | measured | {holds} | what it is for |", "|---|---|---|---|---|---|"]
    for result in results:
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
