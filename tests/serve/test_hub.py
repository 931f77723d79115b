"""Which models are served."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.safety.monitor import Monitors
from publius.serve.admission import Admission, Admitted
from publius.serve.errors import ApiError
from publius.serve.hub import Hub, Target
from publius.testing.server import write_tiny_checkpoint


def test_targets_may_bring_an_id(tmp_path: Path):
    assert Target.parse("run/opus") == Target(None, "run/opus")
    assert Target.parse("mine=run/opus") == Target("mine", "run/opus")
    (tmp_path / "a=b").mkdir()
    assert Target.parse(str(tmp_path / "a=b")) == Target(None, str(tmp_path / "a=b"))


def test_ids_are_tiers_and_two_of_one_are_refused(checkpoint: Path, tmp_path: Path):
    opus = tmp_path / "opus"
    shutil.copytree(checkpoint, opus)
    hub = Hub(
        [Target(None, str(checkpoint)), Target(None, str(opus))],
        unreleased=True,
        aliases={"big": "publius-opus"},
    )
    assert [model.id for model in hub.models()] == ["publius-haiku", "publius-opus"]
    assert hub.get("big") is hub.get("publius-opus")
    hub.close()
    with pytest.raises(UserError, match="two models are called 'publius-haiku'"):
        Hub([Target(None, str(checkpoint))] * 2, unreleased=True)
    with pytest.raises(UserError, match="which is not served"):
        Hub([Target(None, str(checkpoint))], unreleased=True, aliases={"a": "b"})
    with pytest.raises(ApiError, match="model: b"):
        hub.get("b")


def test_without_a_decision_a_model_is_not_served(checkpoint: Path):
    with pytest.raises(UserError, match="no gate has decided"):
        Hub([Target(None, str(checkpoint))])


def test_a_decision_that_is_not_whole_is_refused_even_unreleased(checkpoint: Path, tmp_path: Path):
    copy = tmp_path / "haiku"
    shutil.copytree(checkpoint, copy)
    (copy / "decision").mkdir()
    with pytest.raises(UserError, match=r"decision\.json"):
        Hub([Target(None, str(copy))], unreleased=True)


def test_other_weights_in_the_same_place_are_taken_in_and_bad_ones_leave_the_old_serving(tmp_path: Path):
    folder = write_tiny_checkpoint(tmp_path / "haiku")
    hub = Hub([Target(None, str(folder))], unreleased=True)
    old = hub.get("publius-haiku")
    assert asyncio.run(hub.reload()) == []
    shutil.rmtree(folder)
    write_tiny_checkpoint(folder, seed=1)
    assert asyncio.run(hub.reload()) == ["publius-haiku"]
    new = hub.get("publius-haiku")
    assert new is not old and new.fingerprint != old.fingerprint
    shutil.rmtree(folder)
    write_tiny_checkpoint(folder, seed=2)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError):
        asyncio.run(hub.reload())
    assert hub.get("publius-haiku") is new
    hub.close()


def test_weights_that_come_to_lie_there_while_monitors_load_are_not_served(tmp_path: Path):
    folder = write_tiny_checkpoint(tmp_path / "haiku")
    write_tiny_checkpoint(tmp_path / "other", seed=1)
    coming = False

    def watching(_: str, weights: str) -> Monitors:
        if coming:  # what a deploy script does in the seconds that monitors take to load
            shutil.copytree(tmp_path / "other", folder, dirs_exist_ok=True)
        return Monitors()

    hub = Hub([Target(None, str(folder))], unreleased=True, monitors=watching)
    old = hub.get("publius-haiku")
    coming = True
    with pytest.raises(UserError, match="these are other weights by now"):
        shutil.copytree(write_tiny_checkpoint(tmp_path / "next", seed=2), folder, dirs_exist_ok=True)
        asyncio.run(hub.reload())
    assert hub.get("publius-haiku") is old
    assert asyncio.run(hub.reload()) == ["publius-haiku"]  # it is those that lie there
    assert hub.get("publius-haiku").fingerprint == fingerprint(Checkpoint(tmp_path / "other"))
    hub.close()
    write_tiny_checkpoint(folder)
    with pytest.raises(UserError, match="these are other weights by now"):
        Hub([Target(None, str(folder))], unreleased=True, monitors=watching)


def test_a_decision_on_what_lay_there_a_moment_ago_is_not_one_on_these(tmp_path: Path):
    class Late(Admission):
        """A gate that is asked while the folder is written over."""

        def admit(self, checkpoint: Path, home: Path) -> Admitted:
            write_tiny_checkpoint(checkpoint, seed=1)
            return super().admit(checkpoint, home)

    folder = write_tiny_checkpoint(tmp_path / "haiku")
    with pytest.raises(UserError, match="these are other weights by now"):
        Hub([Target(None, str(folder))], admission=Late(unreleased=True))


def test_two_calls_at_once_load_a_new_release_once_and_a_bad_target_keeps_no_other_back(tmp_path: Path):
    one, two = (write_tiny_checkpoint(tmp_path / name) for name in ("one", "two"))
    hub = Hub([Target("one", str(one)), Target("two", str(two))], unreleased=True)

    async def both() -> list[list[str]]:
        return await asyncio.gather(hub.reload(), hub.reload())

    shutil.rmtree(two)
    write_tiny_checkpoint(two, seed=1)
    assert sorted(asyncio.run(both())) == [[], ["two"]]
    before = hub.get("two")
    shutil.rmtree(one)
    shutil.rmtree(two)
    write_tiny_checkpoint(two, seed=2)
    with pytest.raises(UserError, match="one"):
        asyncio.run(hub.reload())
    assert hub.get("two") is not before and hub.get("one").id == "one"
    hub.close()
