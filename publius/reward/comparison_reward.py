"""A judge as reward, by comparison: is the reply better than what the policy said before it was trained?

A judge of pairs knows how to choose, and may not know how to say how good one reply is. So each reply is put
beside one fixed reply of the start to the same prompt, and the reward is how likely the judge prefers it. Any
`Judge` of pairs will do: an engine, remote models, panels. The mean is a win rate against the start, 1/2
before training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

from publius.constitution.judges import Judge, JudgeConfig, Judgement, Pair, Ruling, clamped
from publius.constitution.judges.judgement import logit
from publius.constitution.principles import Principle, Use
from publius.constitution.raw_text import visible
from publius.core.messages import Message, assistant, text_of
from publius.inference.engine import Engine
from publius.inference.guide import thinking_open
from publius.inference.sampling import Sampling
from publius.reward.guard import RewardError
from publius.reward.judging import JudgingRules, average, draw_principles
from publius.reward.reward_fn import Reward, Trajectory
from publius.reward.shaping import last_reply
from publius.tokenizer.renderer import Renderer

__all__ = ["ComparisonPart", "ComparisonReward", "Rival", "StartReplies"]


class ComparisonPart(JudgingRules, JudgeConfig):
    """The part `comparison` of a reward: p(better than the start's reply), by its prompt's principles."""

    kind: Literal["comparison"] = "comparison"
    name: str = "comparison"
    asks: ClassVar[Use | None] = "comparison"


class Rival(Protocol):
    """What replies are compared with."""

    def replies(self, trajectories: Sequence[Trajectory]) -> list[Message]:
        """One reply to the prompt of each episode, in order; the same one each time it is asked."""
        ...


class StartReplies:
    """Replies of the policy as it was: one for each prompt, drawn once, a function of prompt and seed.

    Args:
        engine: over the reference; its weights must not change.
    """

    def __init__(self, engine: Engine, renderer: Renderer, *, max_tokens: int, seed: int = 0) -> None:
        self._engine, self._renderer = engine, renderer
        self._max_tokens, self._seed = max_tokens, seed
        self._known: dict[tuple[int, ...], str] = {}

    def replies(self, trajectories: Sequence[Trajectory]) -> list[Message]:
        """As `Rival`. A reply that was begun by a prefill begins with it here, too."""
        prompts = [t.tokens[: len(t.tokens) - len(last_reply(t))] for t in trajectories]
        fresh = list(dict.fromkeys(p for p in prompts if p not in self._known))
        limit = self._engine.model.config.max_position
        sampling = [
            Sampling(
                max_tokens=max(1, min(self._max_tokens, limit - len(prompt))),
                temperature=1.0,
                stop_ids=tuple(sorted(self._renderer.stop_ids)),
                seed=self._seed_of(prompt),
            )
            for prompt in fresh
        ]
        for prompt, done in zip(fresh, self._engine.generate(fresh, sampling), strict=True):
            self._known[prompt] = self._said(prompt, done.tokens)
        return [
            assistant(self._begun(t) + self._known[prompt])
            for t, prompt in zip(trajectories, prompts, strict=True)
        ]

    def _seed_of(self, prompt: Sequence[int]) -> int:
        said = f"{self._seed}:{','.join(map(str, prompt))}"
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:6])

    def _begun(self, trajectory: Trajectory) -> str:
        """The prefill: what the last message says before what the policy wrote."""
        reply = last_reply(trajectory)
        own = self._said(trajectory.tokens[: len(trajectory.tokens) - len(reply)], reply)
        return text_of(trajectory.conversation.messages[-1]).removesuffix(own)

    def _said(self, prompt: Sequence[int], reply: Sequence[int]) -> str:
        """The visible text of a reply; a prompt may have begun its thinking."""
        open_ = thinking_open(prompt, self._renderer.tokenizer)
        goes_on = self._renderer.goes_on(prompt)
        return text_of(self._renderer.parse(list(reply), thinking_open=open_, goes_on=goes_on).blocks)


class _Asked(NamedTuple):
    """A question to the judge: of which episode, what, and by which principle."""

    episode: int
    pair: Pair
    principle: Principle


class ComparisonReward:
    """How likely `judge` prefers each last reply to the rival's, averaged over its prompt's principles.

    Equal words are a draw, 1/2, and not asked about. `comparison.failed` is the share of principles under
    which there was no verdict.

    Raises:
        RewardError: for a verdict that failed, with `on_failure="error"`.
    """

    def __init__(self, judge: Judge, rival: Rival, part: ComparisonPart) -> None:
        self._judge, self._rival, self._part = judge, rival, part

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        asked: list[_Asked] = []
        for i, other in enumerate(self._rival.replies(trajectories) if trajectories else []):
            asked += self._questions(i, trajectories[i], other)
        verdicts = self._judge.judge([a.pair for a in asked], [a.principle for a in asked]) if asked else []
        if len(verdicts) != len(asked):
            raise RewardError(
                f"a judge gave {len(verdicts)} verdicts on {len(asked)} pairs",
                where=f"part {self._part.name}",
                fix="give one verdict for each pair, in order",
            )
        heard: list[list[Ruling]] = [[] for _ in trajectories]
        for question, verdict in zip(asked, verdicts, strict=True):
            heard[question.episode].append(clamped(verdict, self._part.interval))
        return [self._score(t, heard[i]) for i, t in enumerate(trajectories)]

    def _questions(self, episode: int, trajectory: Trajectory, other: Message) -> list[_Asked]:
        part, said = self._part, trajectory.conversation.messages
        if visible(said[-1]).strip() == visible(other).strip():
            return []
        before = trajectory.conversation.model_copy(update={"messages": said[:-1]})
        drawn = draw_principles(part.constitution, before, part.principles, part.seed, part.asks)
        return [_Asked(episode, (before, said[-1], other), principle) for principle in drawn]

    def _score(self, trajectory: Trajectory, verdicts: Sequence[Ruling]) -> Reward:
        part = self._part
        values = [self._value(v.probability) for v in verdicts if isinstance(v, Judgement)]
        failures = [v for v in verdicts if not isinstance(v, Judgement)]
        return average(
            part, part.name, trajectory.prompt, values if verdicts else [self._value(0.5)], failures
        )

    def _value(self, probability: float) -> float:
        return probability if self._part.form == "probability" else logit(probability)
