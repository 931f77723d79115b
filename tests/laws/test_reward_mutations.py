"""Each way in which a reward is known to go silently wrong is put in on purpose, and a test must notice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from publius.constitution.consistency import engine as asking
from publius.constitution.consistency import question
from publius.core.sandbox import run as sandbox
from publius.reward import (
    answers,
    code_reward,
    comparison_reward,
    format_reward,
    guard,
    judging,
    reward_fn,
    reward_model,
)
from publius.reward.judge_reward import JudgeReward
from publius.reward.math_reward import MathReward
from publius.reward.reward_fn import ModelReward
from publius.reward.shaping import LengthReward
from publius.rl import batch
from publius.rl.ppo import _keeping
from publius.rl.scoring import Scoring
from publius.rl.trainer import Trainer
from tests.constitution.consistency import test_engine as test_consistency
from tests.core.sandbox import test_run as test_sandbox
from tests.landlock import CONTAINED
from tests.laws import test_reward as laws
from tests.laws.mutating import Mutation, check_caught
from tests.reward import (
    test_answers,
    test_code_reward,
    test_comparison_reward,
    test_format_reward,
    test_guard,
    test_judge_reward,
    test_math_reward,
    test_reward_fn,
    test_reward_model,
)
from tests.rl import test_batch, test_ppo, test_scoring


def better(name: str) -> Callable[[], object]:
    return functools.partial(laws.check_better, name)


def order(name: str) -> Callable[[], object]:
    return lambda: laws.check_order(laws.FUNCTIONS[name]())


SHUFFLED = [
    Mutation(
        "the labels of the pairs are shuffled",
        reward_model._batch,
        "torch.tensor([p.item.probability for p in pairs])",
        "torch.tensor([p.item.probability for p in pairs[1:] + pairs[:1]])",
        test_reward_model.test_training_learns_and_centres,
    ),
    Mutation(
        "the sides of the pairs are shuffled",
        reward_model._batch,
        "rows = [p.chosen for p in pairs] + [p.rejected for p in pairs]",
        "rows = [(p.rejected, p.chosen)[i % 2] for i, p in enumerate(pairs)]"
        " + [(p.chosen, p.rejected)[i % 2] for i, p in enumerate(pairs)]",
        test_reward_model.test_training_learns_and_centres,
    ),
]
INVERTED = [
    Mutation(
        "the worse of two replies wins",
        comparison_reward.ComparisonReward._questions,
        "(before, said[-1], other)",
        "(before, other, said[-1])",
        test_comparison_reward.test_better_than_the_start,
    ),
    Mutation(
        "the preference model learns to like the worse",
        reward_model.preference_loss,
        "chosen_B - rejected_B",
        "rejected_B - chosen_B",
        test_reward_model.test_training_learns_and_centres,
    ),
    Mutation(
        "the preference model's score is turned round",
        ModelReward.score,
        "value - self._bias",
        "self._bias - value",
        test_reward_fn.test_model_reward_reads_the_end_token_in_any_batch,
    ),
    Mutation(
        "PPO is paid for the opposite",
        Trainer._shape,
        "scores = torch.tensor(_penalised",
        "scores = -torch.tensor(_penalised",
        test_ppo.test_ppo_learns_an_easy_reward,
    ),
    Mutation(
        "a part is taken off the sum",
        reward_fn._add,
        "total.value + weight",
        "total.value - weight",
        better("math"),
    ),
    Mutation(
        "length pays",
        LengthReward._score,
        "return Reward(-over,",
        "return Reward(over,",
        better("length"),
    ),
    Mutation(
        "the judge's no is a yes",
        asking.EngineConsistencyJudge._reading,
        "Consistency(yes - no",
        "Consistency(no - yes",
        test_consistency.test_readings_are_those_of_a_plain_forward,
    ),
    Mutation(
        "the worse answer of an example is shown as the better",
        question.examples,
        "shot.answer == name",
        "shot.answer != name",
        test_consistency.test_examples_come_from_the_comparisons,
    ),
]
CONSTANT = [
    Mutation(
        "the preference model's score is always the same",
        ModelReward.score,
        "scores[i] = value - self._bias",
        "scores[i] = -self._bias",
        test_reward_fn.test_model_reward_reads_the_end_token_in_any_batch,
    ),
    Mutation(
        "the judge's word does not count",
        judging.average,
        "value = sum(counted) / len(counted)",
        "value = 0.5",
        better("judge"),
    ),
]
ORDER = [
    Mutation(
        "verdicts are dealt to other replies",
        comparison_reward.ComparisonReward.__call__,
        "heard[question.episode]",
        "heard[-1 - question.episode]",
        test_comparison_reward.test_better_than_the_start,
    ),
    Mutation(
        "scores come back in order of length",
        ModelReward.score,
        "for i, value in zip(part, found.tolist(), strict=True)",
        "for i, value in zip(range(start, start + len(part)), found.tolist(), strict=True)",
        order("model"),
    ),
    Mutation(
        "rows are sorted and their scores are not",
        batch.collate,
        "[float(scores[i]) for i in order]",
        "[float(score) for score in scores]",
        test_batch.test_collate_against_a_plain_forward,
    ),
    Mutation(
        "a part that does not apply to all shifts its rewards",
        reward_fn.WeightedReward.__call__,
        "for i, reward in zip(places, found, strict=True)",
        "for i, reward in enumerate(found)",
        test_reward_fn.test_a_part_may_not_apply_and_may_only_watch,
    ),
    Mutation(
        "those after a skipped one get its neighbour's reward",
        guard.sift,
        "[rewards[i] for i in kept]",
        "list(rewards)[: len(kept)]",
        test_guard.test_skip_leaves_out_and_counts,
    ),
    Mutation(
        "readings are dealt to other replies",
        JudgeReward.__call__,
        "readings[i * k : (i + 1) * k]",
        "readings[i : i + k]",
        order("judge"),
    ),
    Mutation(
        "outcomes are dealt to other replies",
        code_reward.CodeReward.__call__,
        "outcomes = iter(",
        "outcomes = reversed(",
        laws.test_programs_too,
    ),
]
NAN = [
    Mutation(
        "a reward that is not finite goes on",
        guard.sift,
        "if math.isfinite(reward.value):",
        "if True:",
        functools.partial(test_guard.test_error_names_prompt_part_and_step, float("nan")),
    ),
    Mutation(
        "a reward that is not finite is left out without a word",
        guard.sift,
        'elif on_nan == "error":',
        "elif False:",
        functools.partial(test_guard.test_error_names_prompt_part_and_step, float("inf")),
    ),
    Mutation(
        "a skipped episode is not counted",
        guard.sift,
        "len(rewards) - len(kept)",
        "0",
        test_guard.test_skip_leaves_out_and_counts,
    ),
    Mutation(
        "an episode without a reward is worth 0",
        Scoring.__call__,
        "return sift(trajectories, self._fn(trajectories), self._on_nan, where)",
        "return Sifted(list(trajectories), [r if r.value == r.value else r._replace(value=0.0)"
        " for r in self._fn(trajectories)], 0)",
        test_scoring.test_a_skipped_episode_teaches_nothing,
    ),
    Mutation(
        "the steps before an error are lost",
        _keeping,
        "run.save(lambda folder: trainer.save(folder, trainer.steps))",
        "pass",
        test_scoring.test_an_error_at_the_last_measurement_costs_no_step,
    ),
]
JUDGE = [
    Mutation(
        "a judge that cannot be read says 0",
        judging.average,
        "return Reward(math.nan, {name: math.nan, **details}, _why(failures[0]))",
        "return Reward(0.0, {name: 0.0, **details})",
        test_judge_reward.test_or_it_is_left_out,
    ),
    Mutation(
        "a failure is passed over where it should be an error",
        judging.average,
        'rules.on_failure == "error"',
        "False",
        test_judge_reward.test_a_failure_is_an_error,
    ),
    Mutation(
        "a failure costs nothing",
        judging.average,
        "counted += [rules.penalty] * len(failures)",
        "counted += []",
        test_judge_reward.test_or_it_costs_what_the_config_says,
    ),
    Mutation(
        "failures are not counted",
        judging.average,
        "len(failures) / (len(values) + len(failures))",
        "0.0",
        test_judge_reward.test_or_it_is_left_out,
    ),
    Mutation(
        "a judge that means neither answer is believed",
        asking.EngineConsistencyJudge._reading,
        "if mass < self._config.min_mass:",
        "if False:",
        test_consistency.test_failures_are_told_apart_from_readings,
    ),
    Mutation(
        "the reason is lost in the sum",
        reward_fn._add,
        'f"{name}: {reward.problem}" if reward.problem else ""',
        '""',
        test_reward_fn.test_no_reward_stays_none_and_says_why,
    ),
]
ACCEPTING = [
    Mutation(
        "every answer is right",
        MathReward._score,
        "right = given is not None and any(",
        "right = True or any(",
        test_math_reward.test_right_and_wrong,
    ),
    Mutation(
        "any number is the same number",
        answers.same_answer,
        "abs(value - theirs[0]) <= near",
        "abs(value - theirs[0]) >= 0",
        functools.partial(test_answers.test_same_answer, "13", "12", False),
    ),
    Mutation(
        "every format is kept",
        format_reward.follows,
        "return False\n        guide.take",
        "pass\n        guide.take",
        test_format_reward.test_regex_is_of_the_whole_text,
    ),
    Mutation(
        "one thing asked is enough",
        format_reward.FormatReward._score,
        "all(found.values())",
        "any([True, *found.values()])",
        test_format_reward.test_all_that_is_asked_must_hold,
    ),
    Mutation(
        "a program that ends has passed",
        code_reward._passes,
        "return outcome.finished  #",
        "return True  #",
        functools.partial(test_code_reward.test_right_and_wrong, test_code_reward.ASSERTS),
    ),
    Mutation(
        "what is printed is not looked at",
        code_reward._passes,
        "_lines(outcome.output) == _lines(test.wanted)",
        "True",
        test_code_reward.test_programs_that_read_and_print,
    ),
    Mutation(
        "leaving before the tests is passing them",
        sandbox.Outcome.finished.fget,  # pyright: ignore[reportArgumentType, reportFunctionMemberAccess]
        'self.ending == "finished"',
        'self.ending in ("finished", "exited")',
        functools.partial(test_code_reward.test_hacks_earn_nothing, "leave", test_code_reward.ASSERTS),
    ),
    Mutation(
        "an ending is believed without its mark",
        sandbox._Watch._ending,
        'secrets.compare_digest(told, ending.encode() + b"\\n" + self._mark)',
        "told.startswith(ending.encode())",
        test_sandbox.test_an_ending_cannot_be_forged_blindly,
    ),
]
MUTATIONS = [*SHUFFLED, *INVERTED, *CONSTANT, *ORDER, *NAN, *JUDGE, *ACCEPTING]


def _param(mutation: Mutation) -> Any:
    """Mutants of what runs programs are run where programs are."""
    runs = mutation.function.__module__.startswith(("publius.core.sandbox", "publius.reward.code_reward"))
    return pytest.param(mutation, id=mutation.name, marks=CONTAINED if runs else ())


@pytest.mark.parametrize("mutation", [_param(mutation) for mutation in MUTATIONS])
def test_a_mutant_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_caught(mutation, monkeypatch, tmp_path)
