from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from publius.core.messages import Conversation, assistant, user
from publius.model.heads import RewardModel
from publius.reward.reward_fn import (
    ModelReward,
    Part,
    Reward,
    Trajectory,
    VerifierReward,
    WeightedReward,
    pad_rows,
)
from tests.rl import tiny

T = tiny.tokenizer()


def trajectory(reply: str, ended: bool = True) -> Trajectory:
    talk = Conversation(messages=(user("q"), assistant(reply)), meta={"want": "yes"})
    tokens = (*T.encode("q" + reply), *([T.end_id] if ended else []))
    return Trajectory(tokens, (False, *(True,) * (len(tokens) - 1)), (0.0,) * len(tokens), talk, ended, 0)


def test_model_reward_reads_the_end_token_in_any_batch() -> None:
    model = RewardModel(tiny.model(), seed=3)
    rows = [list(trajectory("x" * n).tokens) for n in (5, 1, 9, 3)]
    alone = [float(model(torch.tensor([row]), torch.tensor([len(row) - 1])).detach()) for row in rows]
    fn = ModelReward(model, pad_id=T.pad_id, end_id=T.end_id, bias=0.5, batch=3)
    assert fn.score(rows) == pytest.approx([a - 0.5 for a in alone], abs=1e-5)
    assert fn.score([row[:-1] for row in rows]) == pytest.approx([a - 0.5 for a in alone], abs=1e-5)
    [reward] = fn([trajectory("xxxxx")])
    assert reward.parts == {"model": reward.value} and reward.value == pytest.approx(alone[0] - 0.5, abs=1e-5)


def test_bias_rides_beside_the_weights(tmp_path: Path) -> None:
    checkpoint = tiny.reward_checkpoint(tmp_path)
    rows = [list(trajectory("hey").tokens)]
    plain = ModelReward.from_checkpoint(checkpoint).score(rows)[0]
    (tmp_path / "reward.json").write_text(json.dumps({"bias": 2.0, "std": 3.0}))
    assert ModelReward.from_checkpoint(checkpoint).score(rows)[0] == pytest.approx(plain - 2)
    half = ModelReward.from_checkpoint(checkpoint, dtype=torch.bfloat16).score(rows)[0]
    assert half == pytest.approx(plain - 2, abs=0.1)


def test_verifier_and_sum() -> None:
    check = VerifierReward(lambda meta, text: text == meta["want"])
    brief = VerifierReward(lambda meta, text: -len(text), name="brief")
    both = WeightedReward({"right": (2.0, check), "brief": (0.5, brief)})
    assert both([trajectory("yes"), trajectory("no")]) == [
        Reward(2 - 1.5, {"right": 1, "brief": -3}),
        Reward(-1, {"right": 0, "brief": -2}),
    ]


def test_pad_rows() -> None:
    assert pad_rows([[1, 2], [3]], 0, torch.device("cpu")).tolist() == [[1, 2], [3, 0]]


def test_a_part_may_not_apply_and_may_only_watch() -> None:
    check = VerifierReward(lambda meta, text: 1.0 if text == "yes" else math.nan)
    brief = VerifierReward(lambda meta, text: -len(text), name="brief")
    watched = WeightedReward({"right": Part(0, check), "brief": Part(0.5, brief)})
    yes, no = watched([trajectory("yes"), trajectory("no")])
    assert yes == Reward(-1.5, {"right": 1, "brief": -3})
    assert no.value == -1 and math.isnan(no.parts["right"]) and not no.problem
    some = WeightedReward(
        {
            "right": Part(2, check, lambda t: t.ended),
            "brief": Part(0.5, brief),
            "never": Part(9, brief, lambda t: False),
        }
    )
    assert some([trajectory("no", ended=False), trajectory("yes")]) == [
        Reward(-1, {"brief": -2}),
        Reward(0.5, {"right": 1, "brief": -3}),
    ]


def test_no_reward_stays_none_and_says_why() -> None:
    unread = Reward(math.nan, {"judge": math.nan, "judge.failed": 1.0, "other": 3.0}, "odd")
    brief = VerifierReward(lambda meta, text: -len(text), name="brief")
    [found] = WeightedReward({"judge": (1.0, lambda ts: [unread]), "brief": (1.0, brief)})([trajectory("no")])
    assert math.isnan(found.value) and found.problem == "judge: odd"
    assert found.parts.keys() == {"judge", "judge.failed", "brief"}  # of a part's own parts, only its details
