"""Episodes for the tests of rewards: a question, a reply, and what graders know."""

from __future__ import annotations

from publius.core.messages import Conversation, Message, user
from publius.reward.reward_fn import Trajectory
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny

T = tiny.tokenizer()
R = Renderer(T)


def episode(
    reply: str = "",
    *,
    ids: list[int] | None = None,
    prompt: int = 0,
    question: str = "q",
    ended: bool = True,
    **meta,
) -> Trajectory:
    """A reply to `question` as the engine leaves it, from text or from the ids it would have drawn."""
    asked = Conversation(messages=(user(question),), meta=meta)
    start = R.prompt(asked)
    said = T.encode(reply) if ids is None else list(ids)
    said += [T.end_id] if ended else []
    tokens = (*start, *said)
    actions = (False,) * len(start) + (True,) * len(said)
    message = Message(role="assistant", content=R.parse(said).blocks)
    return Trajectory(tokens, actions, (0.0,) * len(tokens), asked.then(message), ended, prompt)


def begun(ids: list[int], *, ended: bool = True) -> Trajectory:
    """A reply whose thinking the prompt has opened."""
    asked = Conversation(messages=(user("q"),), meta={"thinking": True})
    start = R.prompt(asked, thinking=True)
    said = [*ids, *([T.end_id] if ended else [])]
    tokens = (*start, *said)
    message = Message(role="assistant", content=R.parse(said, thinking_open=True).blocks)
    actions = (False,) * len(start) + (True,) * len(said)
    return Trajectory(tokens, actions, (0.0,) * len(tokens), asked.then(message), ended, 0)
