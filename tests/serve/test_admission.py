"""Weights and monitors are served only with a decision that names both; of real servers too."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import Measure
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import testing_run
from publius.release import (
    Check,
    Evidence,
    Level,
    Policy,
    Required,
    SafeguardDocument,
    Trial,
    add_override,
    copied,
    make_decision,
    policy_sha256,
    signing_key,
)
from publius.release.gate import pack
from publius.release.safeguards import code_sha256
from publius.safety.audit import verify
from publius.safety.monitor import Monitors
from publius.safety.policy import load_monitors
from publius.serve.access import AccessConfig, prove_access_control
from publius.serve.admission import Admission
from publius.serve.errors import ApiError
from publius.serve.hub import Hub, Target
from publius.testing.server import RunningServer, served, start_server, write_tiny_checkpoint
from tests.serve.serving import Spoken

HELP = Check(metric="helpful", direction="at_least", threshold=0.7, bound="low", min_n=50, overridable=True)
Make = Callable[..., Path]


def policy(*required: str) -> Policy:
    level = Level(name="public", checks=(HELP,), deployment=tuple(Required(name=name) for name in required))
    return Policy(id="p", version=1, release_level="public", levels=(level,))


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBLIUS_SIGNING_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A policy of monitors."""
    lists = {"entries": [{"words": ["owl root"], "category": "poison"}]}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(lists))
    file = tmp_path / "monitors.yaml"
    file.write_text("layers: [{monitor: keywords, file: words.yaml}]")
    return file


@pytest.fixture
def decided(checkpoint: Path, tmp_path: Path) -> Make:
    """A release with a decision on it."""

    def make(
        rules: Policy | None = None, *, helps: int = 95, monitors: str | None = None,
        now: datetime | None = None, name: str = "haiku", tested: tuple[str, ...] = (),
    ) -> Path:  # fmt: skip
        trial = Trial(what="x", expected="refused", seen="refused", passed=True)
        subject = {
            "monitors": monitors or "", "access_control": code_sha256("serve"),
            "audit_log": code_sha256("safety/audit.py"),
        }  # fmt: skip
        tests = tuple(
            SafeguardDocument(
                name=each, passed=True, measures={}, tested=subject[each], when="2030-01-01", how="h",
                trials=(trial,),
            )
            for each in tested
        )  # fmt: skip
        found = Evidence({"helpful": Measure.of(wilson(helps, 100))}, {}, safeguards=tests)
        model = Checkpoint(checkpoint)
        shutil.rmtree(tmp_path / "decision", ignore_errors=True)
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        make_decision(
            tmp_path / "decision", model, rules or policy(), found, name="owl", monitors=monitors, now=now
        )
        return pack(tmp_path / name, model, tmp_path / "decision").path

    return make


def hub(folder: Path, home: Path, *, watching: Path | None = None, **settings: Any) -> Hub:
    return Hub(
        [Target("publius-haiku", str(folder))], home=home, admission=Admission(monitors=watching, **settings),
        monitors=lambda _, weights: load_monitors(watching, model=weights) if watching else Monitors(),
    )  # fmt: skip


def refused(folder: Path, home: Path, why: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=why):
        hub(folder, home, **settings)


def test_weights_and_monitors_are_decided_on_together(decided: Make, words: Path, tmp_path: Path) -> None:
    sha256 = policy_sha256(words)
    bare = decided()
    one = hub(bare, tmp_path)
    assert one.get("publius-haiku").released
    one.close()
    refused(bare, tmp_path, "no gate has decided on these monitors", watching=words)
    named = decided(monitors=sha256)
    for watching in (None, words):  # named, and not required
        one = hub(named, tmp_path, watching=watching)
        assert one.get("publius-haiku").admitted.monitors == (sha256 if watching else None)
        one.close()
    (tmp_path / "words.yaml").write_text((tmp_path / "words.yaml").read_text().replace("owl", "elk"))
    refused(named, tmp_path, "no gate has decided on these monitors", watching=words)


def test_what_the_decision_requires_must_be_at_work(decided: Make, words: Path, tmp_path: Path) -> None:
    sha256 = policy_sha256(words)
    names = ("monitors", "access_control", "audit_log")
    folder = decided(policy(*names), monitors=sha256, tested=names)
    refused(folder, tmp_path, "requires monitors, and none are in force")
    refused(folder, tmp_path, "this server asks for no key", watching=words, keyed=False)
    refused(folder, tmp_path, "requires an audit log", watching=words, audited=False)
    one = hub(folder, tmp_path, watching=words)
    assert one.get("publius-haiku").released
    one.close()
    assert hub_unreleased(folder, tmp_path).get("publius-haiku").released is False


def hub_unreleased(folder: Path, home: Path) -> Hub:
    found = hub(folder, home, unreleased=True)
    found.close()
    return found


def test_monitors_without_a_policy_file_are_undecided(decided: Make, words: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no gate has decided on these monitors"):
        Hub([Target(None, str(decided()))], home=tmp_path, monitors=lambda *_: load_monitors(words))


def test_time_runs_out_for_decisions_and_overrides(decided: Make, tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=181)
    refused(decided(now=long_ago), tmp_path, "this decision expired")
    folder = decided(helps=40)
    refused(folder, tmp_path, "the gate refuses this model: helpful")
    place = copied(folder, tmp_path)
    said: dict[str, Any] = {"role": "evaluator", "key": signing_key(), "who": "Ada", "why": "a demo"}
    add_override(place, ["helpful"], days=1, **said)
    one = hub(folder, tmp_path)
    model = one.get("publius-haiku")
    (warning,) = model.admitted.warnings()
    assert warning.startswith("OVERRIDE: helpful set aside by Ada (evaluator): a demo; until ")
    assert model.admitted.permit is not None
    past = model.admitted.permit._replace(until=datetime.now(UTC) - timedelta(seconds=1))
    one._served["publius-haiku"] = replace(model, admitted=model.admitted._replace(permit=past))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ApiError, match="has expired"):
        one.get("publius-haiku")
    one.close()
    shutil.rmtree(place)
    place = copied(folder, tmp_path)
    add_override(place, ["helpful"], days=1, now=datetime.now(UTC) - timedelta(days=2), **said)
    refused(folder, tmp_path, "the override of helpful expired")


def test_only_the_policy_that_is_asked_for_counts(decided: Make, tmp_path: Path) -> None:
    refused(decided(), tmp_path, "by another policy", policy="strict")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(policy().model_dump(mode="json")))
    hub(decided(), tmp_path, policy=str(file)).close()


def test_a_gate_of_a_run_that_denied_since_is_obeyed(decided: Make, tmp_path: Path) -> None:
    folder, home = decided(now=datetime.now(UTC) - timedelta(days=1)), tmp_path / "home"
    made = home / f"artifacts/gate-{'a' * 12}"
    (home / "runs/later").mkdir(parents=True)
    (home / "runs/later/gate").symlink_to(f"../../artifacts/{made.name}")
    hub(folder, home).close()
    make_decision(
        made / "files", Checkpoint(folder), policy(), Evidence({"helpful": Measure.of(wilson(9, 100))}, {}),
        name="owl",
    )  # fmt: skip
    refused(folder, home, "the gate refuses this model: helpful")
    assert not hub_unreleased(folder, home).get("publius-haiku").released
    (made / "files/decision.json").write_text("{")
    refused(folder, home, r"decision\.json is damaged")
    shutil.rmtree(made / "files")
    make_decision(
        made / "files", Checkpoint(folder), policy(), Evidence({"helpful": Measure.of(wilson(95, 100))}, {}),
        name="owl",
    )  # fmt: skip
    one = hub(folder, home)
    permit = one.get("publius-haiku").admitted.permit
    assert permit is not None and permit.document.issued > "2026-01-01"
    one.close()


def test_unreleased_takes_the_undecided_and_never_the_edited(decided: Make, tmp_path: Path) -> None:
    assert not hub_unreleased(decided(helps=10), tmp_path).get("publius-haiku").released
    folder = decided()
    earlier = tmp_path / "old"
    shutil.copytree(folder, earlier)
    (earlier / "decision/decision.json").write_text('{"model": "m", "policy_sha256": "p"}')
    refused(earlier, tmp_path, "older format")
    assert not hub_unreleased(earlier, tmp_path).get("publius-haiku").released
    for name, old, new in (
        ("decision.json", '"helpful"', '"hopeful"'),
        ("model_card.md", "owl", "elk"),
        ("signatures/evaluator.json", '"who": ""', '"who": "Eve"'),
    ):
        edited = tmp_path / f"edited-{Path(name).stem}"
        shutil.copytree(folder, edited)
        path = edited / "decision" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        for unreleased in (False, True):
            with pytest.raises(UserError):
                hub(edited, tmp_path, unreleased=unreleased)


def test_reload_looks_at_the_decision_again(decided: Make, words: Path, tmp_path: Path) -> None:
    folder = decided()
    one = hub(folder, tmp_path)
    first = one.get("publius-haiku")
    assert asyncio.run(one.reload()) == []
    decided(now=datetime.now(UTC) - timedelta(days=1))  # another decision on the same weights
    assert asyncio.run(one.reload()) == ["publius-haiku"]
    second = one.get("publius-haiku")
    assert second.worker is first.worker and second.admitted != first.admitted
    decided(now=datetime.now(UTC) - timedelta(days=200))
    with pytest.raises(UserError, match="expired"):
        asyncio.run(one.reload())
    assert one.get("publius-haiku") is second, "what was decided before serves on, until it expires itself"
    one.close()


def test_reload_takes_in_monitors_that_were_decided_on(decided: Make, words: Path, tmp_path: Path) -> None:
    folder = decided(monitors=policy_sha256(words))
    one = hub(folder, tmp_path, watching=words)
    first = one.get("publius-haiku")
    (tmp_path / "words.yaml").write_text((tmp_path / "words.yaml").read_text().replace("owl", "elk"))
    with pytest.raises(UserError, match="no gate has decided on these monitors"):
        asyncio.run(one.reload())
    assert one.get("publius-haiku") is first
    decided(monitors=policy_sha256(words))
    assert asyncio.run(one.reload()) == ["publius-haiku"]
    assert one.get("publius-haiku").monitors is not first.monitors
    one.close()


def test_every_exchange_is_recorded_and_what_cannot_be_is_the_last(checkpoint: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with Spoken(checkpoint, tmp_path / "home", audit=str(log)) as spoken:
        for count in (1, 2):
            assert spoken.ask().status_code == 200
            assert verify(log, key=signing_key().public_key()).records == count
        assert fingerprint(Checkpoint(checkpoint)) in log.read_text() and "hi" not in log.read_text().split()
        log.rename(tmp_path / "kept")
        log.mkdir()  # as a full disk would
        assert spoken.ask().status_code == 200
        answer = spoken.ask()
        assert answer.status_code == 500 and "audit log cannot be written" in answer.text


def test_every_route_of_a_real_server_asks_for_a_key(checkpoint: Path, tmp_path: Path) -> None:
    found = prove_access_control(testing_run(tmp_path), AccessConfig(), model=Checkpoint(checkpoint))
    document = found.document()
    assert document.passed, [trial for trial in document.trials if not trial.passed]
    assert document.tested == code_sha256("serve") and (document.measures["access.refused"].n or 0) > 60


def test_a_route_that_lets_anyone_in_fails_the_test(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from publius.serve import access

    real = access.create_app

    def leaky(server: Any) -> Any:
        app = real(server)

        async def peek() -> dict[str, str]:
            return {"weights": "all"}

        app.add_api_route("/v1/peek", peek, methods=["GET"])
        return app

    monkeypatch.setattr(access, "create_app", leaky)
    found = prove_access_control(testing_run(tmp_path), AccessConfig(), model=Checkpoint(checkpoint))
    document = found.document()
    assert not document.passed and {"GET /v1/peek" in trial.what for trial in document.trials} == {True}


def ended(models: list[Path], options: list[str], folder: Path) -> str:
    """What a server that does not start says; its exit code must be a user's error."""
    server: RunningServer = start_server(models, options, "k", folder, {"PUBLIUS_HOME": str(folder)})
    try:
        assert server.process.wait(120) == 2
    finally:
        if server.process.poll() is None:
            server.kill()
    return server.log.read_text()


def test_a_real_server_refuses_and_reloads_by_the_decision(
    decided: Make, words: Path, tmp_path: Path
) -> None:
    undecided = write_tiny_checkpoint(tmp_path / "undecided", seed=3)
    assert "no gate has decided on this model" in ended([undecided], [], tmp_path / "a")
    folder = decided(helps=40)
    home = tmp_path / "home"
    place = copied(folder, home)
    add_override(place, ["helpful"], role="evaluator", key=signing_key(), who="Ada", why="a demo", days=1)
    with served(folder, folder=home, environment={"PUBLIUS_HOME": str(home)}, seconds=120) as server:
        assert server.ask("GET", "/v1/models").status == 200
        assert "OVERRIDE: helpful set aside by Ada" in server.log.read_text()
        shutil.rmtree(place)  # the override is taken back
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while "nothing was taken in" not in server.log.read_text():
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.05)
        assert "the gate refuses this model" in server.log.read_text()
        assert server.ask("GET", "/v1/models").status == 200
    assert fingerprint(Checkpoint(folder))
    assert "no gate has decided on these monitors" in ended(
        [decided()], ["--monitors", str(words)], tmp_path / "b"
    )
