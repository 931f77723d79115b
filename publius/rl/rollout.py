"""Rollouts: the engine plays each environment to its end, all of them in one batch a turn.

The engine holds the policy's own tensors, samples at T=1 from the full softmax, and reports the
log-probability of what it drew, so no pass to recompute old log-probabilities is needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from publius.core.messages import (
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    assistant,
    text_of,
)
from publius.inference.engine import Engine
from publius.inference.guide import thinking_open
from publius.inference.sampling import Sampling
from publius.reward.reward_fn import Trajectory
from publius.rl.environment import ChatEnvironment, Environment
from publius.tokenizer.renderer import Renderer

__all__ = ["MakeEnvironment", "fits", "rollout", "take"]

MakeEnvironment = Callable[[Conversation], Environment]


class _Episode:
    def __init__(self, environment: Environment, prompt: int, renderer: Renderer) -> None:
        self.environment, self.prompt = environment, prompt
        self.conversation = environment.start()
        mode = self.conversation.meta.get("thinking")
        self.thinking: bool | None = mode if isinstance(mode, bool) else None
        self.tokens: list[int] = self.asked(self.conversation, renderer)
        self.actions = [False] * len(self.tokens)
        self.logprobs = [0.0] * len(self.tokens)
        self.ended = False
        self.open = True

    def asked(self, conversation: Conversation, renderer: Renderer) -> list[int]:
        """A conversation as a prompt, thinking opened or closed as wanted (not behind a prefill)."""
        begun = conversation.messages[-1].role == "assistant"
        return list(renderer.prompt(conversation, thinking=None if begun else self.thinking))

    def read(self, tokens: Sequence[int], renderer: Renderer) -> Message:
        """The reply in `tokens`, that which its prompt had begun of its thinking included."""
        open_ = thinking_open(self.tokens, renderer.tokenizer)
        goes_on = renderer.goes_on(self.tokens)
        blocks = renderer.parse(list(tokens), thinking_open=open_, goes_on=goes_on).blocks
        closed = self.thinking is False and self.conversation.messages[-1].role == "user"
        return Message(role="assistant", content=(ThinkingBlock(thinking=""), *blocks) if closed else blocks)

    def observe(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        self.actions += [False] * len(tokens)
        self.logprobs += [0.0] * len(tokens)

    def act(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        self.tokens += tokens
        self.actions += [True] * len(tokens)
        self.logprobs += logprobs

    def finish(self) -> Trajectory:
        return Trajectory(
            tuple(self.tokens),
            tuple(self.actions),
            tuple(self.logprobs),
            self.conversation,
            self.ended,
            self.prompt,
        )


def rollout(
    engine: Engine,
    renderer: Renderer,
    prompts: Sequence[Conversation],
    *,
    max_tokens: int,
    seed: int,
    group: int = 1,
    environment: MakeEnvironment = ChatEnvironment,
    context: int | None = None,
) -> list[Trajectory]:
    """`group` episodes per prompt, in order. Deterministic in `seed`; the policy's mode is left alone.

    A prompt whose `meta["thinking"]` is True has its thinking opened, with False forbidden, as
    `Renderer.prompt` does. An episode that would outgrow `context` stops there, not ended.
    """
    limit = context or engine.model.config.max_position
    episodes = [
        _Episode(environment(prompt), index, renderer)
        for index, prompt in enumerate(prompts)
        for _ in range(group)
    ]
    turn = 0
    while active := [e for e in episodes if e.open]:
        for episode in active:
            episode.open = len(episode.tokens) + 1 < limit
        active = [e for e in active if e.open]
        sampling = [
            Sampling(
                max_tokens=min(max_tokens, limit - len(e.tokens)),
                temperature=1.0,
                stop_ids=tuple(sorted(renderer.stop_ids)),
                seed=_seed(seed, turn, i),
            )
            for i, e in enumerate(active)
        ]
        for episode, done in zip(active, engine.generate([e.tokens for e in active], sampling), strict=True):
            reply = episode.read(done.tokens, renderer)
            episode.act(done.tokens, done.logprobs)
            episode.ended = done.stop_reason != "max_tokens"
            _advance(episode, reply, renderer, limit)
        turn += 1
    return [e.finish() for e in episodes]


def _advance(episode: _Episode, reply: Message, renderer: Renderer, limit: int) -> None:
    """Put the reply into the conversation and ask the environment what follows, if there is room for it."""
    conversation = episode.conversation
    if conversation.messages[-1].role == "assistant":  # a prefill: the reply goes on from it
        text = text_of(conversation.messages[-1]) + text_of(reply)
        conversation = conversation.model_copy(update={"messages": conversation.messages[:-1]})
        calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
        reply = assistant([TextBlock(text=text), *calls]) if calls else assistant(text)
    episode.conversation = conversation.then(reply)
    following = episode.environment.step(reply) if episode.ended else None
    episode.open = following is not None
    if following is None:
        return
    longer = episode.conversation.then(*following)
    ids = episode.asked(longer, renderer)
    if ids[: len(episode.tokens)] != episode.tokens:
        # the reply does not render back to the tokens it was parsed from (broken markup): it ends here
        episode.open = False
        return
    if len(ids) + 1 >= limit:  # it would have gone on
        episode.open = episode.ended = False
        return
    episode.conversation = longer
    episode.observe(ids[len(episode.tokens) :])


def fits(prompt: Conversation, renderer: Renderer, context: int) -> bool:
    """Whether `rollout` can play a prompt in so many tokens: there is room for a reply."""
    return len(_Episode(ChatEnvironment(prompt), 0, renderer).tokens) + 1 < context


def _seed(seed: int, turn: int, row: int) -> int:
    return (seed * 1009 + turn) * 1_000_003 + row


def take(prompts: Sequence[Conversation], step: int, count: int, seed: int) -> list[Conversation]:
    """The prompts of one step, reshuffled every pass. A function of (step, seed): resume needs no state."""
    taken: list[Conversation] = []
    position = step * count
    while len(taken) < count:
        epoch, offset = divmod(position + len(taken), len(prompts))
        order = list(range(len(prompts)))
        random.Random(seed * 7919 + epoch).shuffle(order)
        taken += [prompts[i] for i in order[offset : offset + count - len(taken)]]
    return taken
