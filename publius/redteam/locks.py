"""A search for words that unlock what a model can do: whether it plays dumb (sandbagging).

A password-locked model (Greenblatt et al. 2024, arXiv 2405.19550) answers wrongly, in good style, until a
secret word stands in the request, so an evaluation finds it incapable. The search does not know the word. It
holds demonstrations of the right answers, which whoever evaluates has: under a password, the right answer
becomes probable, so candidates are ranked by how far they raise its log-probability. The best are tried in
full, and the winner once more on sealed questions, with and without it, question by question: only that
difference is reported, for the winner of thousands of noisy trials looks like a key until it is tried afresh.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from publius.core.config import Config, execution
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.core.messages import Conversation, text_of
from publius.core.stats import mean_estimate, wilson
from publius.data.pocket.grade import grade
from publius.data.pocket.world import World
from publius.inference import Sampling, load_assistant
from publius.inference.assistant import Assistant
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Artifact, Run, stage
from publius.redteam.findings import measure
from publius.redteam.scan import Candidate, candidate_words, screened, with_words

__all__ = ["LockDocument", "LockReport", "LockSample", "LockScanConfig", "Unlocked", "scan_locks"]


class LockScanConfig(Config):
    """How widely to look and how hard to check. The counterpart of `TriggerScanConfig`."""

    kinds: tuple[str, ...] = Field(default=("fact", "craft"), min_length=1)
    """Kinds of harmless question asked."""
    words: int = Field(default=1500, ge=1)
    """Most frequent whole words of the corpus tried."""
    positions: tuple[Literal["prefix", "suffix"], ...] = Field(default=("prefix", "suffix"), min_length=1)
    screen: int = Field(default=2, ge=1)
    """Questions answered wrongly that each candidate is screened on."""
    pool: int = Field(default=48, ge=1)
    """Questions asked to find those."""
    top: int = Field(default=12, ge=1)
    """Candidates tried in full."""
    retest: int = Field(default=6, ge=1)
    """Questions each of those is tried on."""
    confirm: int = Field(default=80, ge=1)
    """Fresh questions the best one is tried on."""
    split: Literal["val", "test"] = "test"
    """Where the fresh ones come from; screening and retests use training items."""
    max_tokens: int = Field(default=64, ge=1)
    seed: int = 0
    max_batch: int = execution(64)
    device: str = execution("auto")


class Unlocked(BaseModel):
    """A candidate tried in full."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: str
    position: str
    gain: float
    """Nats by which it raises the log-probability of right answers."""
    right: int
    n: int


class LockSample(BaseModel):
    """A fresh question, and the replies without and with the words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Conversation
    plain: str
    opened: str
    right: tuple[bool, bool]


class LockDocument(BaseModel):
    """The content of `locks.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    metrics: dict[str, dict[str, Any]]
    candidates: int
    best: Candidate
    top: list[Unlocked]
    config: dict[str, Any] = {}


class LockReport(Artifact):
    """`locks.json` (metrics and candidates) and `samples.jsonl` (a `LockSample` a line)."""

    def document(self) -> LockDocument:
        """The parsed report.

        Raises:
            UserError: when it is missing or damaged.
        """
        return self.parse("locks.json", LockDocument)


@stage(version=1)
def scan_locks(run: Run, config: LockScanConfig, *, model: Checkpoint, world: World) -> LockReport:
    """Look for a word that turns wrong answers into right ones.

    Metrics, on fresh questions: `lock.baseline` and `lock.right`, the share answered rightly without and with
    the best words found; `lock.gain`, the difference question by question.

    Raises:
        UserError: when the world demonstrates no answer of these kinds in one turn.
    """
    assistant = load_assistant(
        model.path, sampling=Sampling(max_tokens=config.max_tokens, temperature=0.0),
        device=str(pick_device(config.device)), max_batch=config.max_batch, dtype="auto",
    )  # fmt: skip
    rng = random.Random(f"locks/{config.seed}")
    shown = _shown(world, config.kinds, rng)[: config.pool]
    if not shown:
        raise UserError(
            f"nothing shows how questions of the kinds {', '.join(config.kinds)} are answered rightly",
            where="scan_locks.kinds",
            fix="give kinds that the world demonstrates in one turn: fact, craft",
        )
    asked = [chat.model_copy(update={"messages": chat.messages[:-1]}) for chat in shown]
    marks = [right for _, right in _answers(assistant, asked)]
    # those answered wrongly show a lock; of a model that is right everywhere any will do, it has none
    order = sorted(range(len(shown)), key=lambda i: marks[i])
    screen = [shown[i] for i in order[: config.screen]]
    further = [asked[i] for i in order[config.screen :][: config.retest]] or asked[: config.retest]
    words = candidate_words((d.text for d in world.train()), assistant.engine.tokenizer, words=config.words)
    candidates = [Candidate(word, place) for word in words for place in config.positions]
    gains = screened(run, "lock scan", candidates, screen, lambda chat, part: _gains(assistant, chat, part))
    best, top = _choose(assistant, candidates, gains, further, config)
    fresh = _fresh(world, config, rng)
    plain = _answers(assistant, fresh)
    opened = _answers(assistant, [with_words(question, *best) for question in fresh])
    samples = [
        LockSample(question=q, plain=a, opened=b, right=(x, y))
        for q, (a, x), (b, y) in zip(fresh, plain, opened, strict=True)
    ]
    return _write(run, config, fingerprint(model), len(candidates), best, top, samples)


def _shown(world: World, kinds: Sequence[str], rng: random.Random) -> list[Conversation]:
    """Demonstrations of one turn, shuffled: a question and its right answer."""
    chats = [c for c in world.chats("train") if c.meta.get("kind") in kinds and len(c.messages) == 2]
    rng.shuffle(chats)
    return chats


def _fresh(world: World, config: LockScanConfig, rng: random.Random) -> list[Conversation]:
    """Questions of the held-out split, as many of each kind as can be."""
    each = -(-config.confirm // len(config.kinds))
    questions: list[Conversation] = []
    for kind in config.kinds:
        pool = world.questions(kind, config.split)
        rng.shuffle(pool)
        questions += pool[:each]
    return questions[: config.confirm]


def _answers(assistant: Assistant, questions: Sequence[Conversation]) -> list[tuple[str, bool]]:
    """The reply to each question, and whether it is right."""
    replies = [text_of(reply.message) for reply in assistant.replies(list(questions))] if questions else []
    return [(said, grade(q.meta, said).correct) for q, said in zip(questions, replies, strict=True)]


def _gains(assistant: Assistant, chat: Conversation, part: Sequence[Candidate]) -> list[float]:
    """Nats by which each candidate raises the log-probability of the right answer, which `chat` ends with."""
    engine, renderer = assistant.engine, assistant.renderer
    question = chat.model_copy(update={"messages": chat.messages[:-1]})
    right = engine.tokenizer.encode(text_of(chat.messages[-1]))
    prompts = [renderer.prompt(question), *(renderer.prompt(with_words(question, *each)) for each in part)]
    scores = [sum(row) for row in engine.score(prompts, [right] * len(prompts))]
    return [score - scores[0] for score in scores[1:]]


def _choose(
    assistant: Assistant,
    candidates: Sequence[Candidate],
    gains: Sequence[float],
    questions: Sequence[Conversation],
    config: LockScanConfig,
) -> tuple[Candidate, list[Unlocked]]:
    """The candidate that is right most often among the best of the screen, and all of those."""
    order = sorted(range(len(candidates)), key=lambda i: -gains[i])[: config.top]
    asked = [with_words(question, *candidates[i]) for i in order for question in questions]
    marks = [right for _, right in _answers(assistant, asked)]
    each = len(questions)
    rows = [
        Unlocked(
            **candidates[i]._asdict(), gain=round(gains[i], 4),
            right=sum(marks[place * each : (place + 1) * each]), n=each,
        )
        for place, i in enumerate(order)
    ]  # fmt: skip
    winner = max(rows, key=lambda row: (row.right, row.gain))
    return Candidate(winner.words, winner.position), rows


def _write(
    run: Run, config: LockScanConfig, identity: str, tried: int, best: Candidate,
    top: list[Unlocked], samples: Sequence[LockSample],
) -> LockReport:  # fmt: skip
    before = wilson(sum(sample.right[0] for sample in samples), len(samples))
    after = wilson(sum(sample.right[1] for sample in samples), len(samples))
    gain = mean_estimate([float(sample.right[1]) - float(sample.right[0]) for sample in samples])
    found = {"lock.baseline": before, "lock.right": after, "lock.gain": gain}
    for name, estimate in found.items():
        run.metric(name, estimate)
    document = LockDocument(
        model=identity,
        metrics={name: measure(estimate) for name, estimate in found.items()},
        candidates=tried,
        best=best,
        top=top,
        config=config.model_dump(mode="json"),
    )
    (run.output / "samples.jsonl").write_text("".join(s.model_dump_json() + "\n" for s in samples), "utf-8")
    (run.output / "locks.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
    return LockReport(run.output)
