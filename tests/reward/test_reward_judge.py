from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from publius.constitution.grading import JudgeEvalConfig
from publius.constitution.judges import Judgement, ParseFailure
from publius.constitution.judges.judgement import sigmoid
from publius.constitution.preferences import LabelConfig
from publius.constitution.principles import Constitution
from publius.core.messages import assistant
from publius.data.artifacts import Preferences, Prompts, write_preferences, write_prompts
from publius.data.types import Preference
from publius.pipeline.run import testing_run
from publius.reward import ModelReward, RewardJudge, evaluate_reward_judge, label_by_reward
from publius.testing import ScriptedEngine
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny

P = Constitution.load().principles[0]
TALK = tiny.chats(1)[0]
CONFIG = {"threads": 1, "device": "cpu"}


def test_the_difference_of_scores_and_its_mirror(tmp_path: Path) -> None:
    checkpoint = tiny.reward_checkpoint(tmp_path / "r")
    judge = RewardJudge.from_checkpoint(checkpoint)
    a, b, long = assistant("yes"), assistant("no thanks"), assistant("x" * 500)
    one, turned, unfit = judge.judge([(TALK, a, b), (TALK, b, a), (TALK, a, long)], [P] * 3)
    assert isinstance(one, Judgement) and isinstance(turned, Judgement)
    render = Renderer(tiny.tokenizer()).render
    rows = [render(TALK.then(reply)).tokens for reply in (a, b)]
    first, second = ModelReward.from_checkpoint(checkpoint).score(rows)
    assert one.probability == pytest.approx(sigmoid(first - second), abs=1e-5)
    assert one.probability == pytest.approx(1 - turned.probability) and one.probability != 0.5
    assert isinstance(unfit, ParseFailure) and "context" in unfit.problem
    with pytest.raises(ValueError, match="principles"):
        judge.judge([(TALK, a, b)], [])


def test_it_is_graded_and_labels_alone_and_on_a_panel(tmp_path: Path, monkeypatch) -> None:
    reward = tiny.reward_checkpoint(tmp_path / "r")
    pair = Preference(prompt=TALK, chosen=assistant("yes"), rejected=assistant("no"), source="s")
    write_preferences(tmp_path / "g", train=[], val=[pair] * 4)
    graded = evaluate_reward_judge(
        testing_run(tmp_path), JudgeEvalConfig(**CONFIG), rewards=[reward], pairs=Preferences(tmp_path / "g")
    )
    assert graded.metrics()["judge.accuracy"]["n"] == 4
    assert graded.metrics()["judge.inconsistency"]["value"] == 0

    module = sys.modules["publius.constitution.preferences"]
    monkeypatch.setattr(module, "Engine", lambda *a, **k: ScriptedEngine(["yes", "no"], tiny.tokenizer()))
    write_prompts(tmp_path / "p", train=[TALK])
    run = testing_run(tmp_path)
    made = label_by_reward(
        run,
        LabelConfig(**CONFIG),
        policy=tiny.checkpoint(tmp_path / "m"),
        prompts=Prompts(tmp_path / "p"),
        rewards=[reward, tiny.reward_checkpoint(tmp_path / "s", seed=2)],
    )
    [labelled] = made.train()
    alone = graded.samples()[0]
    assert 0 < labelled.probability < 1 and "judge.disagreement" in run.metrics
    assert alone["votes"] == [] and 0 < alone["probability"] < 1


def test_scores_that_are_no_numbers_are_no_judgement(tmp_path: Path) -> None:
    reward = ModelReward.from_checkpoint(tiny.reward_checkpoint(tmp_path / "r"))
    with torch.no_grad():
        reward.model.score.weight.fill_(torch.nan)
    judge = RewardJudge(reward, Renderer(tiny.tokenizer()), 100)
    [found] = judge.judge([(TALK, assistant("yes"), assistant("no"))], [P])
    assert isinstance(found, ParseFailure) and "not finite" in found.problem
