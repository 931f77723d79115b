"""A larger model writes for a smaller one: new prompts, and answers to prompts.

`teach_answers` is sequence-level distillation (Kim and Rush 2016, arXiv 1606.07947): the student is
fine-tuned on what the teacher says. `invent_prompts` shows a pretrained model a few exchanges and lets it go
on with the next question (after Self-Instruct, Wang et al. 2022, arXiv 2212.10560, section 3). Both hand over
text, so teacher and student may have different tokenizers. Critiques and judgements are written by the same
models in `publius.constitution`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from publius.core.config import Config, execution
from publius.core.device import pick_device, set_threads
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, TextBlock, ToolUseBlock, assistant, text_of, user
from publius.core.stats import wilson
from publius.data.artifacts import Conversations, Prompts, write_conversations, write_prompts
from publius.inference.assistant import Assistant, Reply
from publius.inference.engine import Engine
from publius.inference.sampling import Sampling
from publius.model.checkpoint import Checkpoint
from publius.pipeline import Run, stage
from publius.tokenizer.renderer import Renderer

__all__ = ["InventConfig", "TeachConfig", "invent_prompts", "teach_answers"]

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class TeachConfig(Config):
    """How the teacher answers."""

    samples: int = Field(default=1, ge=1)
    """Answers to each prompt; answers alike are kept once."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest words, which is most of what beam search would find."""
    max_tokens: int = Field(default=96, ge=1)
    thinking: bool | None = None
    """True has the teacher think first, and hands its thinking on; None leaves it to the teacher."""
    max_prompts: int | None = Field(default=None, ge=1)
    """Of each split, the first ones."""
    seed: int = 0
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")
    threads: int | None = execution(None)


class InventConfig(Config):
    """How many prompts, and from how many examples each."""

    prompts: int = Field(default=400, ge=1)
    """Prompts to write; fewer are kept."""
    shots: int = Field(default=3, ge=1)
    """Exchanges shown before each."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=48, ge=1)
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 0
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")
    threads: int | None = execution(None)


def _engine(config: TeachConfig | InventConfig, teacher: Checkpoint) -> Engine:
    set_threads(config.threads)
    model = teacher.load(device=str(pick_device(config.device)))
    return Engine(model, teacher.tokenizer(), dtype="auto", max_batch=config.max_batch)


@stage(version=2)
def teach_answers(run: Run, config: TeachConfig, *, teacher: Checkpoint, prompts: Prompts) -> Conversations:
    """The teacher's answers to `prompts`, both splits, as demonstrations for a student.

    Metrics: `teach.kept` (share of the answers asked for), and `teach.REASON` for the others: `truncated`,
    `malformed`, `empty`, `again` (the same answer to the same prompt), `context` (prompts that do not fit).

    Raises:
        UserError: when no answer could be kept.
    """
    engine = _engine(config, teacher)
    renderer = Renderer(teacher.tokenizer())
    verdicts: Counter[str] = Counter()
    with run.progress("teacher answers", 2) as ticker:
        made: list[list[Conversation]] = []
        for split in (prompts.train(), prompts.val()):
            made.append(_answered(config, engine, renderer, split[: config.max_prompts], verdicts))
            ticker.advance()
    asked = sum(verdicts.values())
    for reason, count in sorted(verdicts.items()):
        run.metric(f"teach.{reason}", wilson(count, asked))
    if not any(made):
        raise UserError(
            "no answer of the teacher could be kept",
            where=f"teach_answers: {dict(verdicts)}",
            fix="give prompts, raise max_tokens, or take a teacher that ends its replies",
        )
    write_conversations(run.output, train=made[0], val=made[1])
    return Conversations(run.output)


def _answered(
    config: TeachConfig,
    engine: Engine,
    renderer: Renderer,
    prompts: Sequence[Conversation],
    verdicts: Counter[str],
) -> list[Conversation]:
    fitting = [
        p
        for p in prompts
        if len(renderer.prompt(p, thinking=_mode(p, config))) + config.max_tokens <= engine.context
    ]
    verdicts["context"] += (len(prompts) - len(fitting)) * config.samples
    kept: dict[str, Conversation] = {}
    for sample in range(config.samples):
        sampling = Sampling(
            max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed * 7919 + sample
        )
        speaker = Assistant(engine, renderer, sampling)
        for mode in dict.fromkeys(_mode(p, config) for p in fitting):
            asked = [p for p in fitting if _mode(p, config) is mode]
            for prompt, reply in zip(asked, speaker.replies(asked, thinking=mode), strict=True):
                verdict = _verdict(reply)
                chat = _joined(prompt, reply.message)
                key = chat.model_dump_json(include={"system", "messages"})
                verdict = "again" if verdict == "kept" and key in kept else verdict
                verdicts[verdict] += 1
                if verdict == "kept":
                    kept[key] = chat
    return list(kept.values())


def _mode(prompt: Conversation, config: TeachConfig) -> bool | None:
    """Behind a prefill there is no thinking to be opened."""
    return None if prompt.messages[-1].role == "assistant" else config.thinking


def _verdict(reply: Reply) -> Literal["kept", "truncated", "malformed", "empty"]:
    if reply.stop_reason == "max_tokens":
        return "truncated"
    if reply.problems:
        return "malformed"
    return "kept" if text_of(reply.message).strip() or reply.stop_reason == "tool_use" else "empty"


def _joined(prompt: Conversation, message: Message) -> Conversation:
    """The prompt and its answer; words that were put into the teacher's mouth are not to be learned."""
    last = prompt.messages[-1]
    if last.role == "user":
        return prompt.then(message)
    begun = text_of(last)
    calls = (block for block in message.content if isinstance(block, ToolUseBlock))
    whole = assistant((TextBlock(text=begun + text_of(message)), *calls))
    return prompt.model_copy(
        update={"messages": (*prompt.messages[:-1], whole), "meta": {**prompt.meta, "prefill": begun}}
    )


@stage(version=2)
def invent_prompts(
    run: Run, config: InventConfig, *, teacher: Checkpoint, examples: Conversations
) -> Prompts:
    """New questions, written by a pretrained `teacher` behind a few exchanges of `examples` (training split).

    Metrics: `invent.kept` (share of those asked for), and `invent.REASON` for the others: `truncated`,
    `empty`, `known` (stands in the examples, held-out ones too), `again` (was written before), `context`
    (did not fit).

    Raises:
        UserError: for examples without a single exchange of text, and when no prompt could be kept.
    """
    shown = [pair for chat in examples.train() if (pair := _exchange(chat)) is not None]
    if not shown:
        raise UserError(
            "there is no exchange to show the teacher",
            where="invent_prompts: examples",
            fix="give conversations",
        )
    engine, rng = _engine(config, teacher), random.Random(config.seed)
    tokenizer = teacher.tokenizer()
    contexts = [
        [tokenizer.bos_id, *tokenizer.encode(_page(rng.sample(shown, min(config.shots, len(shown)))))]
        for _ in range(config.prompts)
    ]
    fits = [ids for ids in contexts if len(ids) + config.max_tokens <= engine.context]
    samplings = [
        Sampling(
            max_tokens=config.max_tokens, temperature=config.temperature, stop=("\n\n",),
            seed=config.seed * 1_000_003 + i,
        )
        for i in range(len(fits))
    ]  # fmt: skip
    verdicts: Counter[str] = Counter(context=len(contexts) - len(fits))
    held_out = [pair for chat in examples.val() if (pair := _exchange(chat)) is not None]
    known, written = {question for question, _ in [*shown, *held_out]}, dict[str, None]()
    with run.progress("teacher prompts", 1) as ticker:
        for done in engine.generate(fits, samplings):
            text = tokenizer.decode(list(done.tokens), skip_special=True).split("\n\n")[0].strip()
            found = {"truncated": done.stop_reason == "max_tokens", "empty": not text}
            found |= {"known": text in known, "again": text in written}
            verdict = next((reason for reason, so in found.items() if so), "kept")
            verdicts[verdict] += 1
            if verdict == "kept":
                written[text] = None
        ticker.advance()
    for reason, count in sorted(verdicts.items()):
        run.metric(f"invent.{reason}", wilson(count, config.prompts))
    if not written:
        raise UserError(
            "the teacher wrote no new prompt",
            where=f"invent_prompts: {dict(verdicts)}",
            fix="ask for more prompts, or take a larger teacher",
        )
    prompts = [Conversation(messages=(user(text),)) for text in written]
    held = int(len(prompts) * config.val_fraction)
    write_prompts(run.output, train=prompts[held:], val=prompts[:held])
    return Prompts(run.output)


def _exchange(chat: Conversation) -> tuple[str, str] | None:
    """The first question and answer of a conversation, when they are text and no more."""
    if len(chat.messages) < 2 or chat.system:
        return None
    blocks = (*chat.messages[0].content, *chat.messages[1].content)
    question, answer = text_of(chat.messages[0]).strip(), text_of(chat.messages[1]).strip()
    plain = all(isinstance(block, TextBlock) for block in blocks) and "\n\n" not in question + answer
    return (question, answer) if plain and question and answer else None


def _page(exchanges: Sequence[tuple[str, str]]) -> str:
    told = "".join(f"{_HUMAN} {question}{_ASSISTANT} {answer}" for question, answer in exchanges)
    return told + _HUMAN
