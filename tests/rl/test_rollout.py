from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from publius.core.messages import (
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    assistant,
    text_of,
    user,
)
from publius.inference.engine import Engine
from publius.rl.environment import ToolEnvironment
from publius.rl.rollout import fits, rollout, take
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny

T = tiny.tokenizer()
R = Renderer(T)


def test_tokens_actions_and_logprobs_line_up() -> None:
    model = tiny.talker()
    engine = Engine(model, T)
    episodes = rollout(engine, R, tiny.chats(4), max_tokens=12, seed=3, group=2)
    assert [e.prompt for e in episodes] == [0, 0, 1, 1, 2, 2, 3, 3]
    for episode in episodes:
        prompt = R.prompt(Conversation(messages=episode.conversation.messages[:1]))
        assert list(episode.tokens[: len(prompt)]) == prompt
        assert episode.actions == (False,) * len(prompt) + (True,) * episode.length
        assert (episode.tokens[-1] == T.end_id) == episode.ended
        [scored] = engine.score([prompt], [list(episode.tokens[len(prompt) :])])
        assert max(abs(a - b) for a, b in zip(scored, episode.logprobs[len(prompt) :], strict=True)) < 1e-3
        assert R.render(episode.conversation).tokens[: len(episode.tokens)] == list(episode.tokens)
    assert any(e.ended for e in episodes)
    assert episodes == rollout(engine, R, tiny.chats(4), max_tokens=12, seed=3, group=2)
    assert episodes != rollout(engine, R, tiny.chats(4), max_tokens=12, seed=4, group=2)


def test_a_prefill_belongs_to_the_prompt() -> None:
    prompt = Conversation(messages=(user("q"), assistant("Sure, ")))
    [episode] = rollout(Engine(tiny.talker(), T), R, [prompt], max_tokens=8, seed=0)
    begun = len(R.prompt(prompt))
    assert not any(episode.actions[:begun]) and all(episode.actions[begun:])
    assert text_of(episode.conversation.messages[-1]).startswith("Sure, ")
    assert len(episode.conversation.messages) == 2


class Said:
    """Stands for an engine that says what it is told."""

    def __init__(self, *replies: list[int]) -> None:
        self.model, self.replies = tiny.talker(), list(replies)

    def generate(self, prompts, sampling):
        ids = self.replies.pop(0)
        return [SimpleNamespace(tokens=ids, logprobs=[0.0] * len(ids), stop_reason="end_turn")]


def test_a_tool_call_behind_a_prefill_is_run() -> None:
    prompt = Conversation(messages=(user("2 + 2?"), assistant("Let me see.")))
    call = ToolUseBlock(id="a", name="sum", input={"of": [2, 2]})
    whole = assistant((TextBlock(text="Let me see."), call))
    first = R.render(prompt.model_copy(update={"messages": (prompt.messages[0], whole)})).tokens
    said = list(first[len(R.prompt(prompt)) :])
    engine: Any = Said(said, [*T.encode("4"), T.end_id])
    given: list[object] = []
    tools = {"sum": lambda asked: given.append(asked) or "4"}
    [episode] = rollout(
        engine, R, [prompt], max_tokens=200, seed=0, environment=lambda chat: ToolEnvironment(chat, tools)
    )
    assert given == [{"of": [2, 2]}] and episode.ended
    assert [message.role for message in episode.conversation.messages] == ["user", "assistant"] * 2
    assert text_of(episode.conversation.messages[1]) == "Let me see."
    assert text_of(episode.conversation.messages[3]) == "4"


class Echo:
    """Answers the first reply, then ends."""

    def __init__(self, prompt: Conversation) -> None:
        self.prompt, self.left = prompt, 1

    def start(self) -> Conversation:
        return self.prompt

    def step(self, reply: Message) -> tuple[Message, ...] | None:
        self.left -= 1
        return (user("go on"),) if self.left >= 0 else None


def test_what_the_environment_says_is_not_an_action() -> None:
    engine = Engine(tiny.talker(end=0.5), T)
    episodes = rollout(engine, R, tiny.chats(6), max_tokens=30, seed=1, environment=Echo)
    longer = [e for e in episodes if len(e.conversation.messages) == 4]
    assert longer
    for e in longer:
        between = R.prompt(Conversation(messages=e.conversation.messages[:3]))
        assert list(e.tokens[: len(between)]) == between
        runs = "".join("a" if a else "." for a in e.actions).strip(".").replace("..", ".")
        while ".." in runs or "aa" in runs:
            runs = runs.replace("..", ".").replace("aa", "a")
        assert runs == "a.a"


def test_a_full_context_stops_the_episode() -> None:
    model = tiny.talker(end=1e-4, max_position=24)
    [episode] = rollout(Engine(model, T), R, tiny.chats(1), max_tokens=100, seed=0)
    assert len(episode.tokens) == 24
    assert not episode.ended
    long = Conversation(messages=(user("x" * 40),))
    [episode] = rollout(Engine(model, T), R, [long], max_tokens=100, seed=0)
    assert episode.length == 0
    assert not fits(long, R, 24) and not fits(long, R, len(R.prompt(long)) + 1)
    assert fits(long, R, len(R.prompt(long)) + 2) and fits(tiny.chats(1)[0], R, 24)


class Talkative:
    """Says more than fits into a context."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def start(self) -> Conversation:
        return self._conversation

    def step(self, reply: Message) -> list[Message]:
        return [user("x" * 60)]


def test_an_observation_that_does_not_fit_is_not_taken_in() -> None:
    engine = Engine(tiny.talker(end=0.5, max_position=64), T)
    for episode in rollout(engine, R, tiny.chats(6), max_tokens=20, seed=1, environment=Talkative):
        assert len(episode.tokens) <= 64 and not episode.ended
        assert [message.role for message in episode.conversation.messages] == ["user", "assistant"]
        assert episode.length > 0


def test_take_sees_every_prompt_once_a_pass() -> None:
    prompts = tiny.chats(10)
    seen = [p for step in range(5) for p in take(prompts, step, 4, seed=1)]
    assert {text_of(p.messages[0]) for p in seen[:10]} == {f"q{i}" for i in range(10)}
    assert {text_of(p.messages[0]) for p in seen[10:]} == {f"q{i}" for i in range(10)}
    assert take(prompts, 3, 4, 1) == seen[12:16]
    assert take(prompts, 0, 10, 1) != take(prompts, 0, 10, 2)


@pytest.mark.parametrize("thinking", [True, False])
def test_prompts_say_whether_there_is_thinking(thinking: bool) -> None:
    asked = [c.model_copy(update={"meta": {"thinking": thinking}}) for c in tiny.chats(6)]
    episodes = rollout(Engine(tiny.talker(end=0.1), T), R, asked, max_tokens=20, seed=0)
    for prompt, episode in zip(asked, episodes, strict=True):
        given = R.prompt(prompt, thinking=thinking)
        assert list(episode.tokens[: len(given)]) == given
        assert not any(episode.actions[: len(given)]) and all(episode.actions[len(given) :])
        first = episode.conversation.messages[-1].content[0]
        assert isinstance(first, ThinkingBlock)
        # this talker never closes its thinking; what it thinks is not its answer
        assert (first.thinking == "") is not thinking
        assert (text_of(episode.conversation.messages[-1]) == "") is thinking
        if episode.ended and not thinking:
            rendered = R.render(episode.conversation)
            assert rendered.tokens == list(episode.tokens)
            assert [bool(weight) for weight in rendered.weights] == list(episode.actions)
