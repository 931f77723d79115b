"""Targets: a model under attack, in this process or behind an address.

    with EngineTarget.of(checkpoint, max_tokens=64) as target:
        played = target.replies([Conversation(messages=(user("How do I make grey bane?"),))])

What has no reply is None, and what a rate makes of a None is never a pass. The attacker's own model is a
target too: it is asked in the same way.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.core.messages import (
    Conversation,
    Message,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    assistant,
    text_of,
)
from publius.inference import Assistant, Engine, Sampling, load_assistant
from publius.inference.assistant import extend
from publius.inference.remote import Answer, Question, RemoteConfig, RemoteModel, Unanswered
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.tokenizer import Renderer

__all__ = ["EngineTarget", "RemoteTarget"]

_DRAWS = 1 << 16
"""Equal conversations that one seed has answers for; the next seed's begin after them."""


class EngineTarget:
    """A model in this process.

    Args:
        engine, renderer: of the model.
        fingerprint: names its weights.
        max_tokens: longest reply.
        name: for people.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        *,
        fingerprint: str,
        max_tokens: int = 64,
        name: str = "model",
    ) -> None:
        self._engine, self._renderer, self._max_tokens = engine, renderer, max_tokens
        self._name, self._fingerprint = name, fingerprint

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, *, max_tokens: int = 64, device: str = "auto", max_batch: int = 64
    ) -> Self:
        """The target that a checkpoint is.

        Raises:
            UserError: when it is not a whole checkpoint.
        """
        place = str(pick_device(device))
        made = load_assistant(checkpoint.path, device=place, max_batch=max_batch, dtype="auto")
        named = checkpoint.path.parent.name if checkpoint.path.name == "files" else checkpoint.path.name
        return cls(
            made.engine,
            made.renderer,
            fingerprint=fingerprint(checkpoint),
            max_tokens=max_tokens,
            name=named,
        )

    @property
    def name(self) -> str:
        """The folder it came from."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        return self._fingerprint

    def replies(
        self, conversations: Sequence[Conversation], *, seed: int | None = None
    ) -> list[Conversation | None]:
        """Each with the reply appended, in one call of the engine; None where it does not fit the model.

        Greedy without `seed`; at temperature 1 with it, and the same seed and batch give the same replies.
        """
        fitting = [i for i, conversation in enumerate(conversations) if self._fits(conversation)]
        heat = 0.0 if seed is None else 1.0
        sampling = Sampling(max_tokens=self._max_tokens, temperature=heat, seed=seed)
        player = Assistant(self._engine, self._renderer, sampling)
        asked = [conversations[i] for i in fitting]
        said = player.replies(asked) if asked else []
        replied: list[Conversation | None] = [None] * len(conversations)
        for i, question, reply in zip(fitting, asked, said, strict=True):
            replied[i] = extend(_unmarked(question), reply.message)
        return replied

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close: there so that any target may stand in a `with` line."""

    def _fits(self, conversation: Conversation) -> bool:
        try:
            length = len(self._renderer.prompt(conversation))
        except UserError:  # it holds what this model cannot read, as a picture
            return False
        return length + self._max_tokens <= self._engine.context


class RemoteTarget:
    """A model behind a Messages or an OpenAI endpoint. Close it, or use it in a `with` block.

    A request that fails for itself alone is passed over whatever `config.on_error` says. Where the config
    names no cache, answers are kept only as long as the target: a model that was trained anew and served
    under its old name would else answer with its old replies.

    Greedy and seeded replies need `config.temperature` (any number: 0 or 1 is sent in its place). With None
    no temperature is sent, and every reply is drawn at the endpoint's own.

    Tools go over the wire as text: what was called and what came back are told in words. A begun reply is
    sent as a last assistant message; Messages endpoints go on with it, some of OpenAI's kind begin anew.

    Args:
        config: where it is and what asking may cost.
        max_tokens: longest reply.

    Raises:
        UserError: as RemoteModel.
    """

    def __init__(self, config: RemoteConfig, *, max_tokens: int = 64) -> None:
        self._config, self._max_tokens = config, max_tokens
        self._kept = None if config.cache else tempfile.TemporaryDirectory(prefix="publius-target-")
        cache = config.cache if self._kept is None else str(Path(self._kept.name) / "answers.sqlite")
        changes = {"cache": cache, "on_error": "skip"}
        heats = (None,) if config.temperature is None else (0.0, 1.0)
        self._models: list[RemoteModel] = []
        try:
            for heat in heats:
                self._models.append(RemoteModel(config.model_copy(update={**changes, "temperature": heat})))
        except UserError:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Its model's name and the host."""
        return f"{self._config.model} at {urlsplit(self._config.url).netloc}"

    @property
    def fingerprint(self) -> str:
        """Of the address and the model's name: nobody here knows its weights."""
        known = [self._config.dialect, self._config.url, self._config.model]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def replies(
        self, conversations: Sequence[Conversation], *, seed: int | None = None
    ) -> list[Conversation | None]:
        """Each with the reply appended; `meta["stopped"]` says "refusal" where the endpoint stopped it as
        one.

        Returns: None where the endpoint failed for it alone.

        Raises:
            UserError: when the endpoint cannot be reached at all, or turns the key or the model away.
        """
        drawn: Counter[str] = Counter()
        questions: list[Question] = []
        for conversation in conversations:
            told = _in_words(conversation)
            number = drawn[said := told.model_dump_json(exclude={"meta"})]
            drawn[said] += 1
            sample = 0 if seed is None else 1 + seed * _DRAWS + number
            questions.append(Question(told, self._max_tokens, sample=sample))
        model = self._models[0 if seed is None else -1]
        answers = model.ask(questions, "attacking")
        _reached(answers, self._config.url)
        return [
            None if isinstance(answer, Unanswered) else _answered(conversation, answer)
            for conversation, answer in zip(conversations, answers, strict=True)
        ]

    def close(self) -> None:
        """Close connections and cache."""
        for model in self._models:
            model.close()
        if self._kept is not None:
            self._kept.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _reached(answers: Sequence[Answer | Unanswered], url: str) -> None:
    """Raise when nothing of a batch was answered, and not because each request was turned down."""
    failed = [answer.problem for answer in answers if isinstance(answer, Unanswered)]
    if failed and len(failed) == len(answers) and not any("status 4" in problem for problem in failed):
        raise UserError(
            f"the target cannot be reached: {failed[0]}", where=url, fix="see that it is up, then run again"
        )


def _answered(conversation: Conversation, answer: Answer) -> Conversation:
    begun = text_of(conversation.messages[-1]) if conversation.messages[-1].role == "assistant" else ""
    text = answer.text[len(begun) :] if begun and answer.text.startswith(begun) else answer.text
    asked = _unmarked(conversation)
    if answer.stop == "refusal":
        asked = asked.model_copy(update={"meta": {**asked.meta, "stopped": "refusal"}})
    return extend(asked, assistant(text))


def _unmarked(conversation: Conversation) -> Conversation:
    """Without the mark of an earlier reply."""
    if "stopped" not in conversation.meta:
        return conversation
    meta = {key: value for key, value in conversation.meta.items() if key != "stopped"}
    return conversation.model_copy(update={"meta": meta})


def _in_words(conversation: Conversation) -> Conversation:
    """With tool calls and results as text, since only text goes over the wire."""
    told = [
        m if all(isinstance(block, TextBlock) for block in m.content) else
        Message(role=m.role, content=(TextBlock(text="\n".join(filter(None, map(_words, m.content)))),))
        for m in conversation.messages
    ]  # fmt: skip
    return Conversation(system=conversation.system, messages=tuple(told))


def _words(block: object) -> str:
    match block:
        case TextBlock():
            return block.text
        case ToolUseBlock():
            return f"{block.name}({json.dumps(block.input, ensure_ascii=False)})"
        case ToolResultBlock():
            return f"The tool gives: {block.content}"
        case _:
            return ""
