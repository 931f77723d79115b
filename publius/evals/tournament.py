"""A tournament: every model answers the same prompts, a judge compares every two answers, Elo sums it up.

Strengths are those of Bradley and Terry (1952) on the judge's probabilities, shown on the Elo scale (400
points are odds of ten to one) as Bai et al. (2022, section 4.4) show theirs, with the first model at 0. The
interval is a bootstrap over prompts: each is one draw of what could have been asked.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from publius.constitution.grading import record_remote
from publius.constitution.judges import JudgeConfig, Judgement, Pair, seated
from publius.constitution.judges.bench import check_seats
from publius.core.device import set_threads
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, text_of
from publius.core.stats import Estimate, wilson
from publius.data.artifacts import Prompts
from publius.evals.pairs import drawn_replies
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.inference import Sampling
from publius.model.checkpoint import Checkpoint
from publius.pipeline import Run, stage

__all__ = ["Game", "TournamentConfig", "bradley_terry", "elo", "tournament"]

_SCALE = 400 / math.log(10)


class TournamentConfig(JudgeConfig):
    """Who plays, on what, and before which principles."""

    prefix: str = "elo"
    names: tuple[str, ...] = Field(min_length=2)
    """Of the models, in their order; strengths are relative to the first."""
    categories: tuple[str, ...] = ()
    """Judge by principles of these categories only; empty is all."""
    max_prompts: int | None = Field(default=None, ge=1)
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    draws: int = Field(default=400, ge=20)

    @model_validator(mode="after")
    def _makes_sense(self) -> TournamentConfig:
        if len(set(self.names)) < len(self.names):
            raise ValueError("two models have the same name")
        known = {principle.category for principle in self.constitution.principles}
        if unknown := set(self.categories) - known:
            raise ValueError(f"no principle has the category {', '.join(sorted(unknown))}: there are {known}")
        return self


class Game(NamedTuple):
    """Models `first` and `second` on one prompt; `won` is the judge's probability for the first."""

    prompt: int
    first: int
    second: int
    won: float


def bradley_terry(games: Sequence[Game], players: int) -> list[float]:
    """Strengths in nats, the first at 0: Newton's method on the likelihood of the soft outcomes.

    Half a win and half a loss of every pair (a weak prior) keep strengths finite where one always wins.
    """
    wins = np.full((players, players), 0.5)
    np.fill_diagonal(wins, 0.0)
    for game in games:
        wins[game.first, game.second] += game.won
        wins[game.second, game.first] += 1 - game.won
    played = wins + wins.T
    strengths = np.zeros(players)
    for _ in range(100):
        expected = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
        gradient = (wins - played * expected).sum(1)
        weight = played * expected * (1 - expected)
        curvature = np.diag(weight.sum(1)) - weight
        step = np.zeros(players)
        step[1:] = np.linalg.solve(curvature[1:, 1:], gradient[1:])
        strengths += step.clip(-2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return [float(value) for value in strengths - strengths[0]]


def elo(games: Sequence[Game], players: int, *, draws: int = 400, seed: int = 0) -> list[Estimate]:
    """Each player's Elo with its bootstrap interval over prompts; n is the number of prompts."""
    by_prompt = [list(group) for _, group in itertools.groupby(sorted(games), key=lambda game: game.prompt)]
    rng = random.Random(seed)
    found = [_SCALE * strength for strength in bradley_terry(games, players)]
    drawn = np.array(
        [bradley_terry([g for _ in by_prompt for g in rng.choice(by_prompt)], players) for _ in range(draws)]
    )
    low, high = np.quantile(drawn * _SCALE, (0.025, 0.975), axis=0)
    return [
        Estimate(value, len(by_prompt), float(a), float(b))
        for value, a, b in zip(found, low, high, strict=True)
    ]


@stage(version=1)
def tournament(
    run: Run,
    config: TournamentConfig,
    *,
    models: list[Checkpoint],
    prompts: Prompts,
    judge: Checkpoint | None = None,
) -> Report:
    """Every two of `models` on every held-out prompt (all prompts where none is held out), before the judge:
    `judge`, or remote models of the config, or all of them together.

    Metrics: `PREFIX.NAME` (Elo, bootstrap interval), `PREFIX.win.NAME` (share of games won),
    `PREFIX.inconsistency`, `PREFIX.failures` and `PREFIX.identical` (pairs not judged).

    Raises:
        UserError: when names and models differ in number, there is no prompt, or the judge judged no game.
    """
    if len(models) != len(config.names):
        raise UserError(
            f"{len(config.names)} names for {len(models)} models", where="tournament.names", fix="name each"
        )
    judges = [judge] if judge else []
    check_seats(config, judges)
    set_threads(config.threads)
    asked = (prompts.val() or prompts.train())[: config.max_prompts]
    if not asked:
        raise UserError("there is no prompt to play on", where="tournament.prompts", fix="give some")
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
    with run.progress("tournament", len(models) + 1) as bar:
        answers: list[list[Message]] = []
        for name, model in zip(config.names, models, strict=True):
            answers.append(
                drawn_replies(model, asked, sampling, max_batch=config.max_batch, device=config.device)
            )
            bar.advance(1, name)
        games = _play(run, config, judges, asked, answers)
        bar.advance(1, "judged")
    metrics: dict[str, Measure] = {}
    strengths = elo(games, len(models), draws=config.draws, seed=config.seed)
    for index, (name, strength) in enumerate(zip(config.names, strengths, strict=True)):
        metrics[f"{config.prefix}.{name}"] = Measure.of(strength)
        won = [g.won if g.first == index else 1 - g.won for g in games if index in (g.first, g.second)]
        metrics[f"{config.prefix}.win.{name}"] = Measure.of(wilson(sum(w > 0.5 for w in won), len(won)))
    for key, measure in metrics.items():
        run.metric(key, measure.estimate())
    document = ReportDocument(model=None, prefix=config.prefix, metrics=metrics)
    write_report(run.output, document)
    return Report(run.output)


def _play(
    run: Run,
    config: TournamentConfig,
    judges: Sequence[Checkpoint],
    asked: Sequence[Conversation],
    answers: Sequence[Sequence[Message]],
) -> list[Game]:
    """All games that have an outcome. Two answers of the same words are a draw, unasked."""
    constitution = config.constitution
    if config.categories:
        kept = tuple(p for p in constitution.principles if p.category in config.categories)
        constitution = constitution.model_copy(update={"principles": kept})
    rng = random.Random(config.seed)
    games: list[Game] = []
    pairs: list[Pair] = []
    places: list[tuple[int, int, int]] = []
    for index, prompt in enumerate(asked):
        for first, second in itertools.combinations(range(len(answers)), 2):
            a, b = answers[first][index], answers[second][index]
            if text_of(a).strip() == text_of(b).strip():
                games.append(Game(index, first, second, 0.5))
            else:
                pairs.append((prompt, a, b))
                places.append((index, first, second))
    identical, total = len(games), len(games) + len(pairs)
    drawn = [constitution.sample(rng) for _ in asked]  # all games on a prompt go by one principle
    with seated(config, judges) as bench:
        verdicts = bench.judge.judge(pairs, [drawn[prompt] for prompt, _, _ in places])
        record_remote(run, bench.stats())
    read = [verdict for verdict in verdicts if isinstance(verdict, Judgement)]
    if pairs and not read:
        raise UserError(
            "the judge judged no game", where=f"tournament: {len(pairs)} asked", fix="use a larger judge"
        )
    games += [
        Game(*place, verdict.probability)
        for place, verdict in zip(places, verdicts, strict=True)
        if isinstance(verdict, Judgement)
    ]
    run.metric(f"{config.prefix}.identical", wilson(identical, total))
    run.metric(f"{config.prefix}.failures", wilson(len(pairs) - len(read), len(pairs)))
    run.metric(f"{config.prefix}.inconsistency", wilson(sum(not v.consistent for v in read), len(read)))
    return games
