"""Whether a reply has the form asked for: thinking closed, an end, an answer stated, a grammar kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import ThinkingBlock, text_of
from publius.inference.grammar import Grammar
from publius.inference.guide import Guides, thinking_open
from publius.inference.sampling import Sampling
from publius.reward.answers import find_answer
from publius.reward.reward_fn import Reward, Trajectory
from publius.reward.shaping import last_reply
from publius.tokenizer.special import THINK, THINK_END
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["FormatPart", "FormatReward", "follows"]

Thinking = Literal["any", "closed", "required", "forbidden"]


class FormatPart(Config):
    """The part `format` of a reward: 1 when all that is asked holds, else 0.

    Attributes:
        thinking: "closed" wants each block of thinking closed; "required" also that there is one, and text
            after it; "forbidden" none; "any" does not look.
        ended: the reply must have ended by itself.
        answer: the visible text must state an answer: boxed, after `####`, or after "the answer is".
        regex: the whole visible text must match it (Rust's syntax, as in the engine's grammars: linear in
            time, whatever a model writes).
        json_schema: the whole visible text must be JSON of this schema, its properties in order.
    """

    kind: Literal["format"] = "format"
    name: str = "format"
    weight: float = 1.0
    thinking: Thinking = "any"
    ended: bool = False
    answer: bool = False
    regex: str | None = None
    json_schema: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _asks(self) -> FormatPart:
        if self.thinking == "any" and not (self.ended or self.answer or self.regex or self.json_schema):
            raise ValueError("asks for nothing, so every reply has it: set thinking, ended, answer, ...")
        if self.regex is not None and self.json_schema is not None:
            raise ValueError("regex and json_schema both speak of the whole text: give one")
        return self


class FormatReward:
    """1 when the last reply has the form, else 0, and each thing asked as a detail (`format.thinking`, ...).

    Args:
        tokenizer: of the policy.

    Raises:
        UserError: for a regex or schema that cannot be read.
    """

    def __init__(self, part: FormatPart, tokenizer: Tokenizer) -> None:
        self._part, self._tokenizer = part, tokenizer
        self._think, self._think_end = tokenizer.special[THINK], tokenizer.special[THINK_END]
        self._guides = Guides(tokenizer)
        self._grammar = _grammar(part)
        if self._grammar is not None:
            follows("", self._grammar, self._guides, tokenizer)  # a grammar is read here, or refused

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        return [self._score(t) for t in trajectories]

    def _score(self, trajectory: Trajectory) -> Reward:
        found = self._checks(trajectory)
        value = float(all(found.values()))
        name = self._part.name
        return Reward(value, {name: value, **{f"{name}.{key}": float(held) for key, held in found.items()}})

    def _checks(self, trajectory: Trajectory) -> Mapping[str, bool]:
        part, reply = self._part, trajectory.conversation.messages[-1]
        text = text_of(reply)
        found: dict[str, bool] = {}
        if part.thinking != "any":
            thought = any(isinstance(block, ThinkingBlock) for block in reply.content)
            found["thinking"] = self._thinks(part.thinking, trajectory, thought, text)
        if part.ended:
            found["ended"] = trajectory.ended
        if part.answer:
            found["answer"] = find_answer(text) is not None
        if self._grammar is not None:
            found[self._grammar.kind] = follows(text, self._grammar, self._guides, self._tokenizer)
        return found

    def _thinks(self, wanted: Thinking, trajectory: Trajectory, thought: bool, text: str) -> bool:
        """Read from the tokens: in the parsed message, thinking that was cut off looks like any other."""
        reply = last_reply(trajectory)
        marks = [t for t in reply if t in (self._think, self._think_end)]
        if thinking_open(trajectory.tokens[: len(trajectory.tokens) - len(reply)], self._tokenizer):
            marks.insert(0, self._think)  # its prompt has begun it
        whole = marks == [self._think, self._think_end] * (len(marks) // 2)
        if wanted == "forbidden":
            return not marks
        if wanted == "required":
            return whole and thought and bool(text.strip())
        return whole


def _grammar(part: FormatPart) -> Grammar | None:
    if part.regex is not None:
        return Grammar.regex(part.regex)
    if part.json_schema is not None:
        return Grammar.json_schema(part.json_schema, whitespace=True)
    return None


def follows(text: str, grammar: Grammar, guides: Guides, tokenizer: Tokenizer) -> bool:
    """Whether `text` as a whole is what the engine could have been held to by `grammar`.

    Raises:
        UserError: for a grammar that cannot be read.
    """
    guide = guides.guide(0, [], Sampling(max_tokens=1, grammar=grammar))
    if guide is None:
        raise UserError("there is no grammar", where="follows", fix="give one")
    for token in [*tokenizer.encode(text.strip()), tokenizer.end_id]:
        allowed = guide.allowed()
        if guide.error is not None:
            return False
        if allowed is not None and not int(allowed[token >> 5]) >> (token & 31) & 1:
            return False
        guide.take(token)
    return True
