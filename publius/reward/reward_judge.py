"""A preference model as a judge, alone or on a panel with others.

The judge's interface is `constitution`'s; this leaf lies here, because reward comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from publius.constitution.grading import (
    JudgeEvalConfig,
    JudgeReport,
    grade_judge,
    record_remote,
    write_judge_report,
)
from publius.constitution.judges import JudgeConfig, Judgement, Pair, ParseFailure, Ruling, seated
from publius.constitution.judges.bench import check_seats
from publius.constitution.judges.judgement import sigmoid
from publius.constitution.preferences import LabelConfig, pose, write_labels
from publius.constitution.principles import Principle
from publius.core.device import pick_device, set_threads
from publius.data.artifacts import Preferences, Prompts
from publius.model.checkpoint import Checkpoint, RewardCheckpoint
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.reward.reward_fn import ModelReward
from publius.tokenizer.renderer import Renderer

__all__ = ["RewardJudge", "evaluate_reward_judge", "label_by_reward"]


class RewardJudge:
    """P(a better) is the logistic function of the score difference (Bradley and Terry 1952).

    There is one order, and no principle is read: a preference model has its values in its weights. A pair
    with a side longer than `limit` tokens, or whose scores are no numbers, is a `ParseFailure`.
    """

    def __init__(self, reward: ModelReward, renderer: Renderer, limit: int) -> None:
        self._reward, self._renderer, self._limit = reward, renderer, limit

    @classmethod
    def from_checkpoint(
        cls, checkpoint: RewardCheckpoint, *, device: str = "cpu", max_batch: int = 64
    ) -> RewardJudge:
        """The judge of a trained preference model."""
        tokenizer = checkpoint.tokenizer()
        reward = ModelReward(
            checkpoint.load(device=device),
            pad_id=tokenizer.pad_id,
            end_id=tokenizer.end_id,
            batch=max_batch,
        )
        return cls(reward, Renderer(tokenizer), checkpoint.config().max_position)

    def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Ruling]:
        """One verdict per pair, in order; of `principles` only the ids are kept."""
        if len(pairs) != len(principles):
            raise ValueError(f"{len(pairs)} pairs but {len(principles)} principles")
        rows = [
            self._renderer.render(conversation.then(reply)).tokens
            for conversation, a, b in pairs
            for reply in (a, b)
        ]
        fits = [max(len(rows[2 * i]), len(rows[2 * i + 1])) <= self._limit for i in range(len(pairs))]
        scores = iter(self._reward.score([row for i, row in enumerate(rows) if fits[i // 2]]))
        verdicts: list[Ruling] = []
        for fit, principle in zip(fits, principles, strict=True):
            if not fit:
                verdicts.append(ParseFailure("the pair does not fit the model's context", principle.id))
                continue
            difference = next(scores) - next(scores)
            if not math.isfinite(difference):
                verdicts.append(ParseFailure("the model's scores are not finite", principle.id))
                continue
            p = sigmoid(difference)
            verdicts.append(Judgement(p, True, p, p, principle.id))
        return verdicts


@stage(version=1)
def evaluate_reward_judge(
    run: Run,
    config: JudgeEvalConfig,
    *,
    rewards: list[RewardCheckpoint],
    pairs: Preferences,
    panel: list[Checkpoint] | None = None,
) -> JudgeReport:
    """As `evaluate_judge`, with preference models on the panel, or alone."""
    set_threads(config.threads)
    with seated(config, panel or [], _seats(config, rewards)) as bench:
        graded = grade_judge(
            bench,
            config.constitution,
            pairs.val()[: config.max_pairs],
            interval=config.interval,
            seed=config.seed,
        )
        record_remote(run, bench.stats())
    return write_judge_report(run, *graded)


@stage(version=1)
def label_by_reward(
    run: Run,
    config: LabelConfig,
    *,
    policy: Checkpoint,
    prompts: Prompts,
    rewards: list[RewardCheckpoint],
    panel: list[Checkpoint] | None = None,
    policies: list[Checkpoint] | None = None,
) -> Preferences:
    """As `label`, with preference models on the panel, or alone."""
    set_threads(config.threads)
    check_seats(config, [*(panel or []), *rewards])
    posed = pose(run, config, policy=policy, prompts=prompts, policies=policies)
    with seated(config, panel or [], _seats(config, rewards)) as bench:
        verdicts = bench.judge.judge(posed.pairs, posed.principles)
        record_remote(run, bench.stats())
    return write_labels(run, config, posed, verdicts)


def _seats(config: JudgeConfig, rewards: Sequence[RewardCheckpoint]) -> list[RewardJudge]:
    device = str(pick_device(config.device))
    return [RewardJudge.from_checkpoint(r, device=device, max_batch=config.max_batch) for r in rewards]
