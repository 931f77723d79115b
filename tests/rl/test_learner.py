"""What an update does with gradients that are not finite: nothing, and not in silence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from publius.core.errors import UserError
from publius.pipeline.run import testing_run
from publius.rl import learner
from publius.rl.ppo import PPOConfig, ppo
from tests.rl import tiny

SMALL = PPOConfig(
    steps=5, batch=4, epochs=2, max_tokens=6, eval_prompts=4, save_every=1, critic_warmup=0, critic="zero",
    dtype="float32", threads=1, device="cpu",
)  # fmt: skip


def breaks(monkeypatch: pytest.MonkeyPatch, *passes: int) -> None:
    """The policy's loss is infinite in these passes, counted from 1."""
    plain, calls = learner.policy_loss, [0]

    def loss(*given: Any, **more: Any) -> Any:
        calls[0] += 1
        found = plain(*given, **more)
        return found._replace(loss=found.loss * math.inf) if calls[0] in passes else found

    monkeypatch.setattr(learner, "policy_loss", loss)


def test_a_lost_update_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, 3, 5, 6, 8)
    run = testing_run(tmp_path)
    policy = tiny.talker_checkpoint(tmp_path / "p")
    made = ppo(
        run, SMALL, policy=policy, reward=tiny.reward_checkpoint(tmp_path / "r"),
        prompts=[tiny.prompts(tmp_path / "q")],
    )  # fmt: skip
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("lost_updates", 0) for line in lines] == [0, 1, 2, 1, 0]
    before, after = policy.load().state_dict(), made.load().state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_a_policy_that_never_learns_is_an_error_and_so_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "policy": tiny.talker_checkpoint(tmp_path / "p"),
        "reward": tiny.reward_checkpoint(tmp_path / "r"),
        "prompts": [tiny.prompts(tmp_path / "q")],
    }
    breaks(monkeypatch, *range(3, 99))
    with pytest.raises(UserError, match="3 steps in a row could not be learnt from: the gradient of policy"):
        ppo(testing_run(tmp_path / "run"), SMALL, **given)
    with pytest.raises(UserError, match="3 steps in a row") as error:
        ppo(testing_run(tmp_path / "run"), SMALL, **given)  # two were lost before the state it goes on from
    assert "step 3" in error.value.where
