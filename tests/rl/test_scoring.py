"""Composed rewards in PPO: each part logged, and rewards that are not finite never learnt from."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.data.artifacts import Prompts, write_prompts
from publius.pipeline import load_recipe
from publius.pipeline.run import testing_run
from publius.reward.compose import ModelPart, RewardSpec, Sources, compose
from publius.reward.guard import RewardError
from publius.reward.math_reward import MathPart
from publius.reward.reward_fn import ModelReward, Reward, Trajectory, VerifierReward
from publius.rl.ppo import PPOConfig, ppo
from publius.rl.rollout import take
from publius.rl.scoring import Scoring
from publius.rl.trainer import Trainer
from publius.tokenizer.renderer import Renderer
from tests.reward.episodes import episode
from tests.rl import tiny
from tests.rl.test_ppo import SMALL, log_lines


def spec(*parts: dict, **given) -> RewardSpec:
    return RewardSpec.model_validate({"parts": parts, **given})


def given(folder: Path) -> dict:
    return {
        "policy": tiny.talker_checkpoint(folder / "p"),
        "reward": tiny.reward_checkpoint(folder / "r"),
        "prompts": [tiny.prompts(folder / "q")],
    }


def answered(folder: Path) -> Prompts:
    every = [Conversation(messages=(user(f"q{i}"),), meta={"answer": "aa"}) for i in range(16)]
    write_prompts(folder, train=every[:12], val=every[12:])
    return Prompts(folder)


COMPOSED = spec(
    {"kind": "model", "weight": 0.5},
    {"kind": "math", "weight": 2},
    {"kind": "length", "soft": 1, "hard": 4},
    {"kind": "repetition", "weight": 0, "n": 1},
    {"kind": "format", "ended": True},
    {"kind": "judge", "shots": 0, "min_mass": 0.0, "weight": 0.1},
    {"kind": "comparison", "shots": 0, "min_mass": 0.0, "weight": 0.2},
)


def test_every_part_is_logged_and_measured(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"reward": COMPOSED})
    inputs = given(tmp_path) | {"prompts": [answered(tmp_path / "a")]}
    judge = tiny.checkpoint(tmp_path / "j", seed=4, max_position=4096)
    run = testing_run(tmp_path)
    ppo(run, config, judge=judge, **inputs)
    names = ["model", "math", "length", "repetition", "format", "judge", "comparison"]
    for line in log_lines(run):
        parts = {name: line[f"part.{name}"] for name in names}
        weights = dict(zip(names, (0.5, 2, 1, 0, 1, 0.1, 0.2), strict=True))
        assert line["reward"] == pytest.approx(sum(weights[n] * parts[n] for n in names))
        assert line["part.judge.failed"] == 0 and -1 <= line["part.length"] <= 0
        assert line["part.format"] == line["part.format.ended"] == pytest.approx(line["eos_rate"])
        assert "skipped" not in line
    for name in names:
        assert math.isfinite(run.metrics[f"ppo.part.{name}.before"]["value"])
        assert math.isfinite(run.metrics[f"ppo.part.{name}.after"]["value"])
    assert run.metrics["ppo.skipped"]["value"] == 0 and run.metrics["ppo.skipped"]["n"] == 12
    assert run.metrics["ppo.unscored"]["value"] == 0 and run.metrics["ppo.unscored"]["n"] == 4


def test_the_default_logs_as_it_did(tmp_path: Path) -> None:
    run = testing_run(tmp_path)
    ppo(run, SMALL, **given(tmp_path))
    assert not [key for line in log_lines(run) for key in line if key.startswith("part")]
    assert not [name for name in run.metrics if name.startswith("ppo.part")]


def test_without_a_reward_model(tmp_path: Path) -> None:
    inputs = given(tmp_path) | {"reward": None}
    alone = spec({"kind": "length", "soft": 1, "hard": 4})
    with pytest.raises(UserError, match="the critic is to start from the reward model"):
        ppo(testing_run(tmp_path / "a"), SMALL.model_copy(update={"reward": alone}), **inputs)
    with pytest.raises(UserError, match="has a part 'model' and there is no model"):
        ppo(testing_run(tmp_path / "b"), SMALL, **inputs)
    run = testing_run(tmp_path / "c")
    ppo(run, SMALL.model_copy(update={"reward": alone, "critic": "zero"}), **inputs)
    assert run.metrics["ppo.gain"]["n"] == 4
    grouped = {"reward": alone, "estimator": "grpo", "group": 2, "batch": 2}
    ppo(testing_run(tmp_path / "d"), SMALL.model_copy(update=grouped), **inputs)


def test_prompts_without_answers_are_an_error_and_keep_what_was_done(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"reward": RewardSpec(parts=(ModelPart(), MathPart()))})
    with pytest.raises(RewardError, match=r"has no meta\['answer'\]") as error:
        ppo(testing_run(tmp_path), config, **given(tmp_path))
    assert error.value.where == "the held-out prompts, part math"


# Rewards that are not finite.


def sick(monkeypatch: pytest.MonkeyPatch, calls: range, rows: slice, value: float = math.nan) -> None:
    """From its n-th call on, as long as in `calls`, the model gives some replies no number."""
    real, seen = ModelReward.score, iter(range(1000))

    def score(self: ModelReward, texts) -> list[float]:
        found = real(self, texts)
        if next(seen) in calls:
            found[rows] = [value] * len(found[rows])
        return found

    monkeypatch.setattr(ModelReward, "score", score)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_error_says_where_and_keeps_the_steps_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """And when mended, the run goes on from there and ends as if nothing had been."""
    config, inputs = SMALL.model_copy(update={"save_every": 100}), given(tmp_path)
    whole_run = testing_run(tmp_path / "whole")
    whole = ppo(whole_run, config, **inputs)
    sick(monkeypatch, range(3, 4), slice(1, 2), value)  # call 0 measures; 1, 2, 3 are steps 0, 1, 2
    with pytest.raises(RewardError, match=f"the reward of a reply to prompt 1 is {value}") as error:
        ppo(testing_run(tmp_path / "broken"), config, **inputs)
    assert error.value.where == "step 2, part model"
    monkeypatch.undo()
    run = testing_run(tmp_path / "broken")
    assert run.has_state
    steps: list[int] = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda s, p, n: (steps.append(n), step(s, p, n))[1])
    resumed = ppo(run, config, **inputs)
    assert steps == [2]
    one, two = load_file(whole.path / "model.safetensors"), load_file(resumed.path / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.metrics == whole_run.metrics
    assert [line["step"] for line in log_lines(run)] == [0, 1, 2]


def test_an_error_at_the_last_measurement_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, inputs = SMALL.model_copy(update={"save_every": 100}), given(tmp_path)
    sick(monkeypatch, range(4, 5), slice(0, 1))
    with pytest.raises(RewardError) as error:
        ppo(testing_run(tmp_path / "broken"), config, **inputs)
    assert error.value.where == "the held-out prompts, part model"
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("a step was done twice"))
    ppo(testing_run(tmp_path / "broken"), config, **inputs)


def test_skip_leaves_the_episode_out_of_everything_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.model_copy(update={"reward": RewardSpec(on_nan="skip")})
    sick(monkeypatch, range(1, 3), slice(0, 1))
    run = testing_run(tmp_path)
    made = ppo(run, config, **given(tmp_path))
    lines = log_lines(run)
    assert [line.get("skipped") for line in lines] == [1, 1, None]
    assert all(math.isfinite(line["reward"]) for line in lines)
    assert run.metrics["ppo.skipped"]["value"] == pytest.approx(2 / 12)
    assert all(torch.isfinite(w).all() for w in made.load().state_dict().values())


def test_a_skipped_episode_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is the one that would have been without it, not one in which it was worth 0."""
    spoilt = "NaN"

    def score(trajectories: list[Trajectory]) -> list[Reward]:
        values = [float(t.length) for t in trajectories]
        if spoilt:
            values[0] = math.nan
        return [Reward(v, {"x": v}) for v in values]

    config = SMALL.model_copy(
        update={"estimator": "rloo", "group": 2, "warmup": 0, "reward": RewardSpec(on_nan="skip")}
    )
    learner = Trainer(config, tiny.talker(), None, tiny.talker(), Renderer(tiny.tokenizer()), score)
    report = learner.step(tiny.chats(4), 0)
    assert report.skipped == 1 and report.parts["x"] == pytest.approx(report.length)
    assert learner.scoring.state() == {"episodes": 8, "skipped": 1}


def test_a_prompt_without_a_reward_is_not_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.model_copy(update={"reward": RewardSpec(on_nan="skip")})
    sick(monkeypatch, range(0, 1), slice(1, 2))  # the first measurement
    run = testing_run(tmp_path)
    ppo(run, config, **given(tmp_path))
    assert run.metrics["ppo.gain"]["n"] == run.metrics["ppo.reward.before"]["n"] == 3
    assert run.metrics["ppo.reward.after"]["n"] == 4
    assert run.metrics["ppo.unscored"]["value"] == 0.25


def test_the_second_model_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(trajectories: list[Trajectory]) -> list[Reward]:
        return [Reward(math.nan if i == 0 else 2.0, {}) for i in range(len(trajectories))]

    fine = VerifierReward(lambda meta, text: float(len(text)))
    for on_nan in ("skip", "error"):
        config = SMALL.model_copy(
            update={"estimator": "rloo", "group": 2, "reward": RewardSpec(on_nan=on_nan)}
        )
        learner = Trainer(
            config, tiny.talker(), None, tiny.talker(), Renderer(tiny.tokenizer()), fine, check=check
        )
        if on_nan == "skip":
            assert learner.step(tiny.chats(4), 0).check_reward == 2.0
            continue
        before = [w.clone() for w in learner.policy.parameters()]
        with pytest.raises(RewardError) as error:
            learner.step(tiny.chats(4), 0)
        assert "step 0, check" in error.value.where
        assert all(torch.equal(a, b) for a, b in zip(before, learner.policy.parameters(), strict=True))


def test_scoring_tells_where_and_counts() -> None:
    episodes = [episode("a", prompt=i) for i in range(3)]
    bad = Scoring(lambda ts: [Reward(math.nan, {"x": math.nan})] * len(ts), "error")
    with pytest.raises(RewardError) as error:
        bad(episodes, "step 4")
    assert error.value.where == "step 4, part x" and bad.episodes == 0

    def raises(ts):
        raise RewardError("no", where="part y", fix="mend")

    with pytest.raises(RewardError) as error:
        Scoring(raises, "skip")(episodes, "step 5")
    assert error.value.where == "step 5, part y"
    good = Scoring(lambda ts: [Reward(1.0, {})] * len(ts), "error")
    assert good(episodes, "step 6").skipped == 0 and good.episodes == 0
    good.count(3, 0)
    other = Scoring(raises, "skip")
    other.restore(json.loads(json.dumps(good.state())))
    assert other.state() == {"episodes": 3, "skipped": 0}


# By config.


def test_a_recipe_and_set_compose_it() -> None:
    recipe = load_recipe(
        "smoke",
        {
            "rlcai.reward.parts": '[{"kind": "model"}, {"kind": "length", "soft": 40, "hard": 60},'
            ' {"kind": "judge", "principles": 2, "style": "chat", "weight": 0.5}]',
            "rlcai.reward.on_nan": "skip",
        },
    )
    config = recipe.nodes["rlcai"].config
    assert isinstance(config, PPOConfig) and config.reward.on_nan == "skip"
    assert [part.kind for part in config.reward.parts] == ["model", "length", "judge"]
    assert "judge" in recipe.nodes["rlcai"].inputs
    for bad, says in (
        ('[{"kind": "lenght"}]', "does not match any of the expected tags"),
        ('[{"kind": "length", "soft": 4, "hard": 4}]', "must be below hard"),
        ('[{"kind": "length", "soft": 4, "had": 5}]', "hard"),
    ):
        with pytest.raises(UserError, match=says):
            recipe.override("rlcai.reward.parts", bad)


def test_a_verifier_is_learnt(tmp_path: Path) -> None:
    """PPO raises what a composed reward pays for, and the part's own mean shows it."""
    parts = RewardSpec.model_validate({"parts": [{"kind": "length", "soft": 1, "hard": 12, "weight": 3}]})
    config = SMALL.model_copy(
        update={
            "reward": parts, "estimator": "grpo", "group": 4, "batch": 8, "learning_rate": 5e-3,
            "minibatches": 1, "beta": 0.0, "warmup": 0, "kl_budget": None, "max_tokens": 12,
            "missing_end_penalty": 0.0,
        }
    )  # fmt: skip
    renderer = Renderer(tiny.tokenizer())
    score = compose(parts, Sources(renderer.tokenizer), ExitStack())
    learner = Trainer(config, tiny.talker(0.1), None, tiny.talker(0.1), renderer, score)
    found = [learner.step(take(tiny.chats(16), i, 8, 0), i).parts["length"] for i in range(10)]
    assert sum(found[-3:]) / 3 > sum(found[:3]) / 3 + 0.15
