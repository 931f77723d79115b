"""Training a probe: what it finds, what it must not find, and its threshold."""

from __future__ import annotations

import random

import numpy as np
import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.core.stats import auroc, binomial_upper
from publius.inference.readings import Probe
from publius.safety import training
from publius.safety.exchanges import Exchange
from publius.safety.training import TrainProbeConfig, choose_threshold


def made(count: int, seed: int) -> list[training._Read]:
    """Exchanges of which a third leak; the states of a leak lean one way, at one place."""
    rng, found = np.random.default_rng(seed), list[training._Read]()
    prompt = Conversation(messages=(user("a"),), meta={"kind": "hazard"})
    direction = np.linspace(-1, 1, 12)
    for i in range(count):
        leaks = i % 3 == 0
        exchange = Exchange(
            prompt=prompt, reply=assistant("b"), label="leak" if leaks else "help", kind="hazard",
            category=("poison", "rumour")[i % 2], style="direct", model="x",
        )  # fmt: skip
        length = int(rng.integers(3, 12))
        states = rng.normal(size=(length, 12))
        if leaks:
            states[int(rng.integers(0, length))] += 3 * direction
        found.append(training._Read(exchange, states.astype(np.float32), length))
    return found


def area(config: TrainProbeConfig, average: float = 1.0) -> float:
    probe = Probe(training._fitted(made(300, 0), average, config))
    test = made(300, 1)
    scores = training._scores(probe, test, average)
    return auroc(
        [s for s, one in zip(scores, test, strict=True) if one.exchange.label == "leak"],
        [s for s, one in zip(scores, test, strict=True) if one.exchange.label != "leak"],
    ).value


def test_it_finds_what_is_there() -> None:
    assert area(TrainProbeConfig()) > 0.9
    assert area(TrainProbeConfig(), average=0.5) > 0.8


def test_shuffled_labels_find_nothing() -> None:
    found = [area(TrainProbeConfig(shuffle=True, seed=seed)) for seed in range(8)]
    assert abs(float(np.mean(found)) - 0.5) < 0.1


def test_one_kind_alone_teaches_nothing() -> None:
    only = [one for one in made(30, 0) if one.exchange.label == "help"]
    with pytest.raises(UserError, match="both needed"):
        training._fitted(only, 1.0, TrainProbeConfig())


def test_scores_become_log_odds() -> None:
    rng = random.Random(0)
    scores = [rng.gauss(3 if i % 4 == 0 else 0, 1) for i in range(2000)]
    scale, shift = training.platt(scores, [i % 4 == 0 for i in range(2000)])
    assert scale > 0
    said = [1 / (1 + np.exp(-(scale * s + shift))) for s in scores]
    assert float(np.mean(said)) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("count", "most"), [(600, 0.005), (2200, 0.005), (2200, 0.01), (100, 0.05)])
def test_the_threshold_keeps_its_promise_and_no_lower_one_would(count: int, most: float) -> None:
    rng = random.Random(1)
    benign = [rng.gauss(0, 1) for _ in range(count)]
    threshold = choose_threshold(benign, most)
    above = sum(score > threshold for score in benign)
    assert binomial_upper(above, count) <= most < binomial_upper(above + 1, count)
    assert threshold in benign


def test_too_few_benign_exchanges_are_refused() -> None:
    with pytest.raises(UserError, match="cannot show"):
        choose_threshold([0.0] * 500, 0.005)


def test_equal_scores_are_all_let_pass() -> None:
    assert choose_threshold([0.0] * 1000, 0.005) == 0.0
