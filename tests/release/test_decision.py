"""Roles, overrides, expiry, and that whatever is edited afterwards fails."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import Measure
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.release import (
    Check,
    Evidence,
    Level,
    OldDecision,
    Policy,
    add_override,
    add_signature,
    copied,
    decision_of,
    make_decision,
    overridable,
    permit,
    place_of,
    public_key,
    read_standing,
    signing_key,
    trust,
    trusted_signers,
)
from publius.release.gate import pack
from publius.release.signing import make_key, read_key

LEAK = Check(metric="leak", direction="at_most", threshold=0.1, bound="high", min_n=50)
HELP = Check(metric="helpful", direction="at_least", threshold=0.7, bound="low", min_n=50, overridable=True)
Make = Callable[..., Path]


def two_roles(**changes: Any) -> Policy:
    fields: dict[str, Any] = {
        "id": "two", "version": 1, "release_level": "public", "signatures": ("evaluator", "approver"),
        "override_days": 7, "levels": (Level(name="public", checks=(LEAK, HELP)),),
    }  # fmt: skip
    return Policy(**fields | changes)


@pytest.fixture
def decided(tmp_path: Path, checkpoint: Checkpoint) -> Make:
    def make(
        policy: Policy | None = None, *, leaks: int = 0, helps: int = 95, name: str = "decision"
    ) -> Path:
        source = tmp_path / "report.json"
        source.write_text("{}")
        rates = {"leak": wilson(leaks, 100), "helpful": wilson(helps, 100)}
        metrics = {metric: Measure.of(rate) for metric, rate in rates.items()}
        make_decision(
            tmp_path / name, checkpoint, policy or two_roles(), Evidence(metrics, {"report-0.json": source}),
            name="owl",
        )  # fmt: skip
        return tmp_path / name

    return make


def approver():
    return read_key(make_key("approver"))


def test_it_goes_out_only_with_both_signatures(decided: Make, checkpoint: Checkpoint) -> None:
    folder = decided()
    with pytest.raises(UserError, match="not signed by: approver"):
        permit(folder, model=fingerprint(checkpoint))
    add_signature(folder, "approver", approver(), who="Ada")
    found = permit(folder, model=fingerprint(checkpoint))
    assert found.document.decision.verdict == "allow" and found.overrides == ()
    assert read_standing(folder).signatures["approver"].who == "Ada"


def test_one_key_signs_in_one_role(decided: Make) -> None:
    folder = decided()
    with pytest.raises(UserError, match="this key signed as evaluator already"):
        add_signature(folder, "approver", signing_key())
    shutil.copyfile(os.environ["XDG_CONFIG_HOME"] + "/publius/signing_key.pem", folder / "copy.pem")
    (folder / "copy.pem").chmod(0o600)
    shutil.copy(folder / "copy.pem", Path(os.environ["XDG_CONFIG_HOME"]) / "publius/approver_key.pem")
    with pytest.raises(UserError, match="one key is trusted as evaluator and as approver"):
        read_standing(folder)
    with pytest.raises(UserError, match="asks for no signature of a cook"):
        add_signature(folder, "cook", signing_key())


def test_roles_are_not_exchanged_and_strangers_do_not_count(decided: Make, tmp_path: Path) -> None:
    folder = decided()
    add_signature(folder, "approver", approver())
    keys = trusted_signers()
    assert set(keys) == {"evaluator", "approver"}
    swapped = {"evaluator": keys["approver"], "approver": keys["evaluator"]}
    for trusted in (swapped, {"evaluator": keys["evaluator"]}, {}, []):
        with pytest.raises(UserError, match="not trusted"):
            permit(folder, trusted=trusted)
    assert permit(folder, trusted=keys).document.name == "owl"


def test_another_machine_trusts_whom_it_is_told_to(
    decided: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = decided()
    add_signature(folder, "approver", approver())
    keys = {"evaluator": public_key(signing_key()), "approver": public_key(approver())}
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="not trusted"):
        permit(folder)
    for role, key in keys.items():
        trust(role, key)
    assert permit(folder).document.name == "owl"
    with pytest.raises(UserError, match="trusted as approver already"):
        trust("evaluator", keys["approver"])
    with pytest.raises(UserError, match="no public key"):
        trust("evaluator", "zz")
    (tmp_path / "elsewhere/publius/signers.yaml").write_text("- [")
    with pytest.raises(UserError, match="list of trusted signers"):
        permit(folder)


def test_an_override_is_named_signed_limited_and_on_the_card(decided: Make) -> None:
    folder = decided(helps=50)
    key = approver()
    add_signature(folder, "approver", key)
    with pytest.raises(UserError, match="gate refuses this model: helpful"):
        permit(folder)
    said: dict[str, Any] = {"role": "approver", "key": key, "who": "Ada", "why": "a | demo\nonly", "days": 3}
    assert overridable(read_standing(folder).document) == {"helpful": True}
    for changes, names, why in (
        ({}, ["leak"], "is not in the way"),
        ({}, [], "what it sets aside"),
        ({"why": " "}, ["helpful"], "who says so and why"),
        ({"days": 8}, ["helpful"], "at most 7 days"),
        ({"days": 0}, ["helpful"], "at most 7 days"),
        ({"role": "evaluator"}, ["helpful"], "evaluator may not override"),
        ({"key": signing_key()}, ["helpful"], "not trusted as approver"),
    ):
        with pytest.raises(UserError, match=why):
            add_override(folder, names, **{**said, **changes})
    made = add_override(folder, ["helpful"], **said)
    found = permit(folder)
    assert found.overrides[0].who == "Ada"
    assert (
        found.until == datetime.fromisoformat(made.expires) < datetime.now(UTC) + timedelta(days=3, hours=1)
    )
    card = (folder / "model_card.md").read_text()
    assert "| helpful | Ada | approver | a \\| demo only |" in card
    with pytest.raises(UserError, match="override of helpful expired"):
        permit(folder, now=datetime.now(UTC) + timedelta(days=4))


def test_what_may_not_be_overridden_cannot_be(decided: Make) -> None:
    folder = decided(leaks=50, helps=50)
    assert overridable(read_standing(folder).document) == {"leak": False, "helpful": True}
    said: dict[str, Any] = {"role": "approver", "key": approver(), "who": "Ada", "why": "why", "days": 1}
    with pytest.raises(UserError, match="leak may not be set aside"):
        add_override(folder, ["leak"], **said)
    add_signature(folder, "approver", approver())
    add_override(folder, ["helpful"], **said)  # the other one still stands
    with pytest.raises(UserError, match="gate refuses this model: leak"):
        permit(folder)


def test_a_person_decides_where_the_policy_asks_for_one(decided: Make) -> None:
    level = Level(name="public", checks=(LEAK, HELP), human=True)
    folder = decided(two_roles(levels=(level,)))
    add_signature(folder, "approver", approver())
    with pytest.raises(UserError, match="a person must decide on this model"):
        permit(folder)
    add_override(folder, ["level.public"], role="approver", key=approver(), who="Ada", why="read it", days=7)
    assert permit(folder).overrides[0].overrides == ("level.public",)


def test_decisions_expire_and_are_of_one_policy(decided: Make, other: Checkpoint) -> None:
    one = two_roles(signatures=("evaluator",))
    folder = decided(one)
    with pytest.raises(UserError, match="expired"):
        permit(folder, now=datetime.now(UTC) + timedelta(days=one.valid_days, hours=1))
    assert permit(folder, policy=one.fingerprint()).document.policy == one
    with pytest.raises(UserError, match="by another policy"):
        permit(folder, policy=two_roles().fingerprint())
    with pytest.raises(UserError, match="about other weights"):
        permit(folder, model=fingerprint(other))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "name,old,new,why",
    [
        ("decision.json", '"verdict": "deny"', '"verdict": "allow"', "changed after signing"),
        ("decision.json", '"value": 0.5', '"value": 0.9', "changed after signing"),
        ("decision.json", '"threshold": 0.7', '"threshold": 0.1', "changed after signing"),
        ("decision.json", '"monitors": null', '"monitors": "x"', "changed after signing"),
        ("decision.json", '"override_days": 7', '"override_days": 9000', "changed after signing"),
        ("decision.json", '"model"', '"modal"', "damaged"),
        ("decision.json", '"format": 2', '"format": 3', "damaged"),
        ("model_card.md", "Ada", "Eve", r"model_card\.md was changed"),
        ("evidence/report-0.json", "{}", "{ }", "report-0.json was changed"),
        ("signatures/evaluator.json", '"signature": "', '"signature": "00', "changed after signing"),
        ("signatures/evaluator.json", '"when": "2', '"when": "3', "changed after signing"),
        ("signatures/approver.json", '"role": "approver"', '"role": "evaluator"', "does not fit"),
        ("signatures/approver.json", '"who": ""', '"who": "Bo"', "changed after signing"),
        ("overrides/0001.json", '"why": "why"', '"why": "because"', "changed after signing"),
        ("overrides/0001.json", '"expires": "2', '"expires": "3', "changed after signing"),
        ("overrides/0001.json", '"helpful"', '"leak"', "changed after signing"),
    ],
)
def test_anything_edited_fails(decided: Make, name: str, old: str, new: str, why: str) -> None:
    folder = decided(helps=50)
    add_signature(folder, "approver", approver())
    add_override(folder, ["helpful"], role="approver", key=approver(), who="Ada", why="why", days=1)
    assert permit(folder).overrides
    edit(folder / name, old, new)
    with pytest.raises(UserError, match=why):
        permit(folder)


@pytest.mark.parametrize(
    "name", ["signatures/evaluator.json", "signatures/approver.json", "overrides/0001.json"]
)
def test_leaving_out_what_was_said_permits_nothing(decided: Make, name: str) -> None:
    folder = decided(helps=50)
    add_signature(folder, "approver", approver())
    add_override(folder, ["helpful"], role="approver", key=approver(), who="Ada", why="why", days=1)
    (folder / name).unlink()
    with pytest.raises(UserError):
        permit(folder)


def test_signing_a_verdict_that_does_not_follow_from_its_evidence_does_not_help(decided: Make) -> None:
    folder = decided(two_roles(signatures=("evaluator",)), leaks=50)
    edit(folder / "decision.json", '"verdict": "deny"', '"verdict": "allow"')
    add_signature(folder, "evaluator", signing_key())  # by the evaluator's own key
    with pytest.raises(UserError, match="its evidence gives verdict 'deny', not 'allow'"):
        permit(folder)


def test_an_override_of_another_decision_is_refused(decided: Make) -> None:
    first, second = decided(helps=50), decided(helps=40, name="second")
    for folder in (first, second):
        add_signature(folder, "approver", approver())
    add_override(first, ["helpful"], role="approver", key=approver(), who="Ada", why="why", days=1)
    shutil.copytree(first / "overrides", second / "overrides")
    with pytest.raises(UserError, match="override is of another decision"):
        permit(second)


def test_a_decision_of_the_old_format_says_what_to_run(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "decision.json").write_text(json.dumps({"model": "a", "policy_sha256": "b", "decision": {}}))
    with pytest.raises(OldDecision, match="older format") as told:
        permit(folder)
    assert "publius gate decide" in told.value.fix


def test_the_book_keeps_later_words_and_the_latest_decision_counts(
    decided: Make, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    assert decision_of(checkpoint.path, home) is None
    with pytest.raises(UserError, match="no gate has decided"):
        copied(checkpoint.path, home)
    released = pack(tmp_path / "released", checkpoint, decided())
    own = copied(released.path, home)
    assert own == place_of(fingerprint(checkpoint), home) and own.is_dir()
    add_signature(own, "approver", approver())
    assert permit(own) and not (released.path / "decision/signatures/approver.json").exists()
    assert decision_of(released.path, home) == own == decision_of(checkpoint.path, home)
    edit(own / "decision.json", '"issued": "2', '"issued": "1')  # as if it were older than the release's
    assert decision_of(released.path, home) == released.path / "decision"
