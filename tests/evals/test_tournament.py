import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.data.artifacts import Prompts, write_prompts
from publius.evals.tournament import Game, TournamentConfig, bradley_terry, elo, tournament
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import testing_run
from publius.testing import byte_tokenizer, tiny_model

CONFIG = {"device": "cpu", "threads": 1, "draws": 20, "shots": 0, "max_tokens": 6}


def played(strengths, prompts, rng):
    """Every two players on every prompt, with outcomes drawn from the model."""
    return [
        Game(prompt, i, j, float(rng.random() < 1 / (1 + math.exp(strengths[j] - strengths[i]))))
        for prompt in range(prompts)
        for i in range(len(strengths))
        for j in range(i + 1, len(strengths))
    ]


def likelihood(games, strengths):
    total = 0.0
    for game in games:
        p = 1 / (1 + math.exp(strengths[game.second] - strengths[game.first]))
        total += game.won * math.log(p) + (1 - game.won) * math.log(1 - p)
    for i in range(len(strengths)):
        for j in range(i + 1, len(strengths)):
            p = 1 / (1 + math.exp(strengths[j] - strengths[i]))
            total += 0.5 * math.log(p) + 0.5 * math.log(1 - p)
    return total


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 12))
def test_strengths_are_where_the_likelihood_is_highest(seed, players, prompts):
    rng = random.Random(seed)
    games = [Game(p, i, j, rng.random()) for p in range(prompts) for i in range(players) for j in range(i)]
    found = bradley_terry(games, players)
    assert found[0] == 0.0
    best = likelihood(games, found)
    for index in range(1, players):
        for step in (-1e-3, 1e-3):
            moved = [s + step * (i == index) for i, s in enumerate(found)]
            assert likelihood(games, moved) <= best + 1e-9


def test_elo_finds_the_strengths_the_games_were_drawn_from():
    truth = [0.0, 1.0, -0.7]
    found = elo(played(truth, 600, random.Random(3)), 3, draws=100)
    for estimate, strength in zip(found, truth, strict=True):
        assert estimate.n == 600
        assert estimate.low - 1e-9 <= 400 / math.log(10) * strength <= estimate.high + 1e-9
    assert found[1].high - found[1].low < 120


def test_one_who_always_wins_is_finitely_strong():
    strong, weak = bradley_terry([Game(p, 1, 0, 1.0) for p in range(50)], 2)[::-1]
    assert 3 < strong - weak < 10


def checkpoint(tmp_path, name, seed):
    folder = tmp_path / name / "files"
    save_checkpoint(folder, tiny_model(seed), byte_tokenizer())
    return Checkpoint(folder)


def prompts(tmp_path, count):
    folder = tmp_path / f"prompts{count}"
    folder.mkdir()
    write_prompts(folder, train=[Conversation(messages=(user(f"Say {i}."),)) for i in range(count)])
    return Prompts(folder)


@pytest.fixture
def models(tmp_path):
    return [checkpoint(tmp_path, name, seed) for name, seed in (("a", 0), ("b", 1), ("c", 0))]


def test_the_same_model_twice_is_as_strong(tmp_path, models):
    run = testing_run(tmp_path / "run")
    config = TournamentConfig(names=("a", "b", "again"), min_mass=0.0, **CONFIG)
    report = tournament(run, config, models=models, judge=models[1], prompts=prompts(tmp_path, 6))
    metrics = report.metrics()
    assert metrics["elo.a"].value == 0.0 and metrics["elo.a"].n == 6
    assert metrics["elo.again"].value == pytest.approx(0.0, abs=1e-3)
    assert metrics["elo.b"].low <= metrics["elo.b"].value <= metrics["elo.b"].high
    assert run.metrics["elo.identical"]["value"] >= 1 / 3 and run.metrics["elo.failures"]["value"] == 0.0


def test_bad_input(tmp_path, models):
    run = testing_run(tmp_path / "run")
    with pytest.raises(UserError, match="2 names for 3 models"):
        two = TournamentConfig(names=("a", "b"), **CONFIG)
        tournament(run, two, models=models, judge=models[0], prompts=prompts(tmp_path, 1))
    three = TournamentConfig(names=("a", "b", "c"), min_mass=1.0, **CONFIG)
    with pytest.raises(UserError, match="no prompt"):
        tournament(run, three, models=models, judge=models[0], prompts=prompts(tmp_path, 0))
    with pytest.raises(UserError, match="judged no game"):
        tournament(run, three, models=models, judge=models[0], prompts=prompts(tmp_path, 2))
    with pytest.raises(ValidationError, match="same name"):
        TournamentConfig(names=("a", "a"))
    with pytest.raises(ValidationError, match="no principle has the category"):
        TournamentConfig(names=("a", "b"), categories=("astrology",))
