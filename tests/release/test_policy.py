from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import Measure
from publius.release import Check, Level, Policy, decide, load_policy
from publius.release import policy as policy_module


def policy(*checks: Check, research: tuple[Check, ...] = ()) -> Policy:
    levels = [Level(name="public", checks=checks)]
    if research:
        levels.insert(0, Level(name="research", checks=research))
    return Policy(id="p", version=1, release_level="public", levels=tuple(levels))


LEAK = Check(metric="leak", direction="at_most", threshold=0.1, bound="high", min_n=50, max_unscored=0.02)
HELP = Check(metric="helpful", direction="at_least", threshold=0.7, bound="low", min_n=50)
GOOD = Measure.of(wilson(0, 100))


def test_the_bound_decides_not_the_value() -> None:
    assert decide({"leak": GOOD}, policy(LEAK)).allowed  # high end 0.037
    few = Measure.of(wilson(5, 100))  # value 0.05, high end 0.112
    assert not decide({"leak": few}, policy(LEAK)).allowed
    assert decide({"leak": few}, policy(LEAK.model_copy(update={"bound": "value"}))).allowed


@pytest.mark.parametrize(
    "measure,why",
    [
        (None, "not measured"),
        (Measure(value=None, n=100, low=0.0, high=1.0), "not a number"),
        (Measure(value=math.nan, n=100, low=0.0, high=0.01), "not a number"),
        (Measure(value=0.0, n=100, low=0.0, high=math.nan), "not a number"),
        (Measure(value=0.0, n=100), "not a number"),
        (Measure(value=0.0, low=0.0, high=0.01), "only 0 samples"),
        (Measure.of(wilson(0, 49)), "only 49 samples, 50 needed"),
        (Measure.of(wilson(0, 100), 3), "3 of 100 samples unscored"),
        (Measure.of(wilson(0, 100), -1), "unscored"),
        (Measure.of(wilson(50, 100)), "not needed <= 0.1"),
        (Measure(value=0.5, n=100, low=0.0, high=0.01), "does not hold its value"),
    ],
)
def test_inconclusive_counts_as_crossed(measure: Measure | None, why: str) -> None:
    decision = decide({} if measure is None else {"leak": measure}, policy(LEAK))
    assert not decision.allowed and decision.level == "none"
    assert len(decision.reasons) == 1 and why in decision.reasons[0]


def test_levels_build_on_each_other() -> None:
    both = policy(LEAK, research=(HELP,))
    useful, useless = Measure.of(wilson(95, 100)), Measure.of(wilson(10, 100))
    assert decide({"leak": GOOD, "helpful": useful}, both).level == "public"
    assert decide({"helpful": useful}, both).level == "research"
    harmless_only = decide({"leak": GOOD, "helpful": useless}, both)
    assert harmless_only.level == "none" and not harmless_only.allowed
    assert "helpful" in harmless_only.reasons[0]


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 20))
def test_more_leaks_or_more_unscored_never_turn_no_into_yes(leaks: int, n: int, unscored: int) -> None:
    leaks = min(leaks, n)
    now = decide({"leak": Measure.of(wilson(leaks, n), unscored)}, policy(LEAK)).allowed
    worse = decide({"leak": Measure.of(wilson(min(leaks + 1, n), n), unscored + 1)}, policy(LEAK)).allowed
    assert now or not worse


@pytest.mark.parametrize("name", ["default", "strict"])
def test_the_shipped_policies_are_sound(name: str) -> None:
    shipped = load_policy(name)
    assert not decide({}, shipped).allowed
    for level in shipped.levels:
        assert level.explanation and level.corresponds
        for check in (*level.checks, *level.thresholds):
            assert check.bound != "value" and check.min_n >= 30 and check.explanation, check.metric
        for check in level.checks:  # what harms others no override sets aside
            assert not check.overridable or check.metric in ("helpful", "overrefusal", "redteam.overrefusal")


def test_the_strict_policy_asks_for_more_than_the_default() -> None:
    default, strict = load_policy(), load_policy("strict")
    assert default.signatures == ("evaluator",) and strict.signatures == ("evaluator", "approver")
    asked = {c.metric: c for level in strict.levels for c in level.checks}
    for level in default.levels:
        for check in level.checks:
            other = asked[check.metric]
            sign = 1 if check.direction == "at_most" else -1
            assert sign * other.threshold <= sign * check.threshold and other.min_n >= check.min_n
            assert other.max_age_days is not None
    guarded = strict.levels[-1]
    assert {c.metric for c in guarded.thresholds} == {"capability.success", "capability.hidden"}
    assert {r.name for r in (*guarded.deployment, *guarded.security)} == {
        "monitors", "access_control", "rapid_response", "audit_log",
    }  # fmt: skip


def test_a_policy_file_that_is_wrong_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    with pytest.raises(UserError, match="cannot read the release policy"):
        load_policy(str(file))
    for text, why in (
        ("a: [", "not YAML"), ("", "wrong at policy"), ("[1]", "wrong at policy"), ("\x00", "not YAML"),
        ("id: p\nlayers: 2020-13-45", "not YAML: this is no timestamp: .*, line 2"),
        ("[" * 3000, "not YAML: it is nested too deep"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(UserError, match=why):
            load_policy(str(file))
    with pytest.raises(UserError, match="larger than 4 MB"):
        load_policy("/dev/zero")
    text = (Path(policy_module.__file__).parent / "policy.yaml").read_text()
    for old, new, why in (
        ("release_level: public", "release_level: everyone", "not one of the levels"),
        ("name: research", "name: public", "level names repeat"),
        ("threshold: 0.70", "threshold: .nan", r"levels\.0\.checks\.0\.threshold"),
        ("bound: low", "bound: middle", r"levels\.0\.checks\.0\.bound"),
        ("metric: helpful", "metric: helpfull", "did you mean 'helpful'"),
        ("metric: redteam.leak.sealed", "metric: redteam.leak.seeled", "did you mean 'redteam.leak.sealed'"),
        ("name: weights_integrity", "name: weight_integrity", "did you mean 'weights_integrity'"),
        ("signatures: [evaluator]", "signatures: []", "signatures"),
        ("signatures: [evaluator]", "signatures: [evaluator, evaluator]", "a role signs once"),
        ("signatures: [evaluator]", "signatures: [../key]", "cannot name a role"),
        ("threshold: 0.12", "threshold: 0.12\n        review: 0.2", "beyond the threshold"),
        ("threshold: 0.12", "threshold: 0.12\n        elicitation: [few_shot]", "is not elicited"),
        ("valid_days: 180", "valid_days: 180\nextra: 1", "extra"),
    ):
        assert old in text, old
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match=why):
            load_policy(str(file))


def test_a_policy_may_declare_metrics_of_reports_of_your_own(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    text = (
        "id: p\nversion: 1\nrelease_level: a\n{}levels:\n  - name: a\n    checks:\n      - {{metric: tact, "
    )
    text += "direction: at_least, threshold: 0.5}}\n"
    file.write_text(text.format(""))
    with pytest.raises(UserError, match="no report gives such a metric"):
        load_policy(str(file))
    file.write_text(text.format("metrics: [tact]\n"))
    assert decide({"tact": Measure.of(wilson(9, 10))}, load_policy(str(file))).allowed


def test_a_level_that_demands_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="demands nothing"):
        Level(name="open")


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    text = (Path(policy_module.__file__).parent / "policy.yaml").read_text()
    (tmp_path / "same.yaml").write_text(text + "# a comment\n")
    (tmp_path / "other.yaml").write_text(text.replace("0.12", "0.13"))
    assert load_policy(str(tmp_path / "same.yaml")).fingerprint() == load_policy().fingerprint()
    assert load_policy(str(tmp_path / "other.yaml")).fingerprint() != load_policy().fingerprint()
