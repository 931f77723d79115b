from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, text_of, user
from publius.data.artifacts import Preferences, write_preferences
from publius.data.types import Preference
from publius.pipeline.run import testing_run
from publius.reward.reward_fn import ModelReward, reward_facts
from publius.reward.reward_model import (
    RewardConfig,
    _divide,
    expected_calibration_error,
    preference_loss,
    reward_report,
    train_reward,
)
from publius.tokenizer.renderer import Renderer
from publius.training.loop import LoopConfig
from publius.training.optimizer import OptimizerConfig
from tests.rl import tiny

LOOP = LoopConfig(optimizer=OptimizerConfig(muon_lr=0.02, adamw_lr=0.01), dtype="float32", device="cpu")


def pair(
    chosen: str, rejected: str, probability: float = 1.0, source: str = "s", ask: str = "q"
) -> Preference:
    return Preference(
        prompt=Conversation(messages=(user(ask),)),
        chosen=assistant(chosen),
        rejected=assistant(rejected),
        probability=probability,
        source=source,
    )


def test_the_loss_is_cross_entropy_on_a_probability() -> None:
    scores = torch.tensor([1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    found = preference_loss(scores, torch.tensor([1.0, 0.3]), torch.tensor([1.0, 2.0]))
    sigmoid = [1 / (1 + math.exp(-d)) for d in (0.5, -2.0)]
    expected = -math.log(sigmoid[0]) - 2 * (0.3 * math.log(sigmoid[1]) + 0.7 * math.log(1 - sigmoid[1]))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_swapping_sides_and_label_is_the_same_loss() -> None:
    one = preference_loss(torch.tensor([1.0, -0.4]), torch.tensor([0.2]), torch.ones(1))
    two = preference_loss(torch.tensor([-0.4, 1.0]), torch.tensor([0.8]), torch.ones(1))
    assert float(one) == pytest.approx(float(two))


def test_report_by_hand() -> None:
    items = [
        pair("good", "bad!", source="a"),
        pair("I am sorry", "ok", source="a"),
        pair("long answer", "no", 0.2, "b"),
        pair("even", "odd", 0.5, "b"),
        pair("right", "wrong", 0.9, "b"),
    ]
    found = reward_report(items, [1.0, -1.0, -2.0, 3.0, 0.5])
    assert found["reward.accuracy"].value == pytest.approx(3 / 4)
    assert found["reward.accuracy.a"].value == 0.5
    assert found["reward.accuracy.b"].value == 1.0
    assert (found["reward.accuracy.length_matched"].value, found["reward.accuracy.length_matched"].n) == (
        1.0,
        2,
    )
    # lengths differ in the 2nd (longer wins) and 3rd (the shorter is better by the label)
    assert (found["reward.baseline.shorter"].value, found["reward.baseline.shorter"].n) == (0.5, 2)
    assert (found["reward.baseline.sorry"].value, found["reward.baseline.sorry"].n) == (1.0, 1)
    losses = [
        -p * math.log(1 / (1 + math.exp(-d))) - (1 - p) * math.log(1 / (1 + math.exp(d)))
        for p, d in [(1, 1), (1, -1), (0.2, -2), (0.5, 3), (0.9, 0.5)]
    ]
    assert found["reward.loss"] == pytest.approx(sum(losses) / 5)


def test_calibration_error() -> None:
    logit = math.log(3)  # sure to 0.75
    assert expected_calibration_error([logit] * 4, [1, 1, 1, 0]) == pytest.approx(0)
    assert expected_calibration_error([-logit] * 4, [0, 0, 0, 1]) == pytest.approx(0)
    assert expected_calibration_error([logit] * 4, [1, 1, 1, 1]) == pytest.approx(0.25)
    assert expected_calibration_error([50.0], [0.0]) == pytest.approx(1)


def data(folder: Path, count: int = 120, held_out: int = 30) -> Preferences:
    """The better reply says `please`, on either side of the pair, with soft labels; plus one far too long."""
    rng = random.Random(0)

    def one(number: int) -> Preference:
        ask = f"q{number}"
        good, bad = "please " + rng.choice("abc"), "give " + rng.choice("abc")
        flip = rng.random() < 0.5
        return pair(bad, good, 0.05, ask=ask) if flip else pair(good, bad, 0.95, ask=ask)

    write_preferences(
        folder, train=[*map(one, range(count)), pair("x" * 400, "y")], val=[*map(one, range(held_out))]
    )
    return Preferences(folder)


def test_training_learns_and_centres(tmp_path: Path) -> None:
    base = tiny.checkpoint(tmp_path / "base")
    preferences = data(tmp_path / "d")
    run = testing_run(tmp_path)
    made = train_reward(run, RewardConfig(epochs=3, pairs=8, loop=LOOP), base=base, preferences=[preferences])
    assert run.metrics["reward.accuracy"]["value"] >= 0.9
    assert run.metrics["reward.accuracy"]["n"] == 30
    assert run.metrics["reward.pairs"]["value"] == 120
    assert run.metrics["reward.dropped"]["value"] == pytest.approx(1 / 121)
    assert reward_facts(made).std > 0
    assert set(json.loads((made.path / "reward.json").read_text())) == {"bias", "std"}
    renderer = Renderer(base.tokenizer())
    rows = [
        renderer.render(p.prompt.then(reply)).tokens
        for p in preferences.train()[:-1]  # the last was dropped as too long
        for reply in (p.chosen, p.rejected)
    ]
    scores = ModelReward.from_checkpoint(made).score(rows)
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("half", [0, 1, None])
def test_all_pairs_of_a_prompt_are_on_one_side(tmp_path: Path, half: int | None) -> None:
    base = tiny.checkpoint(tmp_path / "base")
    many = [pair(f"please {i}", f"give {i}", 1.0, ask=f"q{i % 40}") for i in range(120)]
    write_preferences(tmp_path / "d", train=many)
    seen: dict[str, set[str]] = {"train": set(), "held": set()}

    def watched(train: list[Any], held_out: list[Any], config: RewardConfig) -> Any:
        parts = _divide(train, held_out, config)
        for name, part in zip(seen, parts, strict=True):
            seen[name] |= {text_of(one.item.prompt.messages[0]) for one in part}
            assert len(part) == 3 * len(seen[name])
        return parts

    run = testing_run(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("publius.reward.reward_model._divide", watched)
        train_reward(
            run, RewardConfig(epochs=0.1, pairs=8, half=half, loop=LOOP), base=base,
            preferences=[Preferences(tmp_path / "d")],
        )  # fmt: skip
    assert len(seen["held"]) == 4 and len(seen["train"]) == (36 if half is None else 18)
    assert not seen["held"] & seen["train"]


def test_accumulation_is_no_further_epoch(tmp_path: Path) -> None:
    base, preferences, tokens = tiny.checkpoint(tmp_path / "base"), [data(tmp_path / "d", 32, 8)], list[int]()
    for accumulation in (1, 4):
        run = testing_run(tmp_path / str(accumulation))
        loop = LOOP.model_copy(update={"accumulation": accumulation})
        train_reward(run, RewardConfig(epochs=1, pairs=8, loop=loop), base=base, preferences=preferences)
        tokens.append(run.tokens)
    assert tokens[0] == tokens[1] > 0


def test_halves_are_disjoint_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, preferences = tiny.checkpoint(tmp_path / "base"), [data(tmp_path / "d", 20, 0)]
    seen: list[set[str]] = []
    monkeypatch.setattr(
        "publius.reward.reward_model.ShuffledBatches",
        lambda items, build, **k: (
            seen.append({text_of(p.item.prompt.messages[0]) for p in items}) or _Once(items, build)
        ),
    )
    monkeypatch.setattr("publius.reward.reward_model.train_loop", lambda *a, **k: _Result())
    for half in (0, 1):
        run = testing_run(tmp_path)
        train_reward(run, RewardConfig(half=half, loop=LOOP), base=base, preferences=preferences)
        assert run.metrics["reward.pairs"]["value"] == 9
        assert (
            run.metrics["reward.accuracy"]["n"] == 2
        )  # a tenth is held out when there is no validation split
    assert len(seen[0]) == len(seen[1]) == 9
    assert not seen[0] & seen[1]


def test_sources_are_merged_at_their_weights(tmp_path: Path) -> None:
    """Helpfulness by people and harmlessness by a judge that contradict each other: the heavier wins."""
    base = tiny.checkpoint(tmp_path / "base")
    better, worse = "yes yes", "no no no"
    people = [pair(better, worse, source="human", ask=f"q{i}") for i in range(40)]
    judged = [pair(worse, better, source="ai", ask=f"q{i}") for i in range(40)]
    write_preferences(tmp_path / "people", train=people[8:], val=people[:8])
    write_preferences(tmp_path / "judged", train=judged[8:], val=judged[:8])
    parts = [Preferences(tmp_path / "people"), Preferences(tmp_path / "judged")]
    found = []
    for heavy in ("human", "ai"):
        run = testing_run(tmp_path / heavy)
        weights = {"human": 0.1, "ai": 0.1} | {heavy: 1.0}
        config = RewardConfig(epochs=2, pairs=8, source_weights=weights, loop=LOOP)
        train_reward(run, config, base=base, preferences=parts)
        found.append([run.metrics[f"reward.accuracy.{name}"]["value"] for name in ("human", "ai")])
    assert found == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("weights", [{"humans": 0.5}, {"": 1.0}])
def test_a_weight_for_no_source_is_refused(tmp_path: Path, weights: dict[str, float]) -> None:
    base, parts = tiny.checkpoint(tmp_path / "base"), [data(tmp_path / "d", 20, 0)]
    with pytest.raises(UserError, match=r"no preference pair has the source[\s\S]*use the names") as error:
        config = RewardConfig(source_weights=weights, loop=LOOP)
        train_reward(testing_run(tmp_path), config, base=base, preferences=parts)
    assert error.value.where == "train_reward: source_weights"


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_would_teach_the_opposite_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match=r"source_weights\.human"):
        RewardConfig(source_weights={"human": weight})


class _Result:
    loss = 0.0


class _Once:
    def __init__(self, items, build) -> None:
        build(items)


def test_no_pairs_is_a_user_error(tmp_path: Path) -> None:
    write_preferences(tmp_path / "d", train=[pair("x" * 400, "y")], val=[])
    with pytest.raises(UserError, match="too few preference pairs"):
        train_reward(
            testing_run(tmp_path),
            RewardConfig(loop=LOOP),
            base=tiny.checkpoint(tmp_path / "b"),
            preferences=[Preferences(tmp_path / "d")],
        )
