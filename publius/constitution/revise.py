"""SL-CAI: the policy answers, the critic criticises and revises by sampled principles.

Bai et al. (2022), section 3: sample at T=1, draw a fresh principle for every revision, keep every
revision (not only the last) as training data. Every reply that is thrown away is counted by reason.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from publius.constitution.principles import ConstitutionField, Principle
from publius.constitution.styles import Style, StyleName, make_style
from publius.constitution.verdicts import FilterConfig, Verdict, Verdicts, Written
from publius.core.config import Config, execution
from publius.core.device import pick_device, set_threads
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, assistant, text_of, turns_left, user
from publius.core.stats import wilson
from publius.data.artifacts import Conversations, Prompts, write_conversations
from publius.inference.engine import Engine
from publius.inference.sampling import Sampling
from publius.model.checkpoint import Checkpoint
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.tokenizer.renderer import Renderer

__all__ = ["ReviseConfig", "Revision", "Revisions", "Transcript", "revise", "sample_replies", "split_prefill"]


class ReviseConfig(Config):
    """How answers are revised.

    Attributes:
        revisions: revisions in a row, each of the one before, each with a fresh principle.
        critique: write a critique first; False asks for the revision directly (paper, section 3.5).
        keep_unchanged: keep revisions that repeat what they revise (counted either way).
        keep_prefill: train on prefill + revision, which teaches recovery, instead of on the revision alone.
        samples: answers sampled per prompt, each revised.
        max_prompts: use only this many prompts (drawn with `seed`); None uses all.
        max_characters: a longer revision is dropped as `too_long`.
        filters: what else is dropped; nothing by default.
    """

    constitution: ConstitutionField = Field(default="default", validate_default=True)  # pyright: ignore[reportAssignmentType]
    revisions: int = Field(default=4, ge=1, le=16)
    critique: bool = True
    style: StyleName = "raw"
    shots: int = Field(default=8, ge=0)
    samples: int = Field(default=1, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)
    answer_tokens: int = Field(default=128, ge=1)
    critique_tokens: int = Field(default=96, ge=1)
    revision_tokens: int = Field(default=128, ge=1)
    max_characters: int = Field(default=4000, ge=1)
    filters: FilterConfig = FilterConfig()
    keep_unchanged: bool = False
    keep_prefill: bool = False
    seed: int = 0
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")
    threads: int | None = execution(None)


class Revision(BaseModel):
    """One step: the principle, what was criticised, what was written, and whether it is training data."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    principle: str
    critique: str
    text: str
    verdict: Verdict


class Transcript(BaseModel):
    """Everything that happened to one prompt, for the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompt: Conversation
    response: str
    revisions: tuple[Revision, ...]


class Revisions(Conversations):
    """Revised conversations for SFT, and the transcripts they came from."""

    def transcripts(self) -> list[Transcript]:
        """One per answer, kept or not, in the order of the prompts."""
        lines = self.file("transcripts.jsonl").read_text("utf-8").splitlines()
        return [Transcript.model_validate_json(line) for line in lines]


def split_prefill(prompt: Conversation) -> tuple[Conversation, str]:
    """A prompt without its final partial assistant message, and that message's text."""
    last = prompt.messages[-1]
    if last.role == "user":
        return prompt, ""
    return prompt.model_copy(update={"messages": prompt.messages[:-1]}), text_of(last)


def sample_replies(
    engine: Engine,
    renderer: Renderer,
    prompts: Sequence[Conversation],
    max_tokens: int,
    seed: int,
    context: int,
) -> list[Message | None]:
    """One reply per prompt at T=1, the prefill included; None where the reply is empty or cut off."""
    ids = [renderer.prompt(p) for p in prompts]
    fits = [i for i, row in enumerate(ids) if len(row) + max_tokens <= context]
    sampling = [
        Sampling(
            max_tokens=max_tokens,
            temperature=1.0,
            stop_ids=tuple(sorted(renderer.stop_ids)),
            seed=seed * 1_000_003 + i,
        )
        for i in fits
    ]
    replies: list[Message | None] = [None] * len(prompts)
    for i, done in zip(fits, engine.generate([ids[i] for i in fits], sampling), strict=True):
        if done.stop_reason == "max_tokens":
            continue
        blocks = renderer.parse(list(done.tokens), goes_on=renderer.goes_on(ids[i])).blocks
        prefill = split_prefill(prompts[i])[1]
        reply = assistant(prefill + text_of(blocks)) if prefill else Message(role="assistant", content=blocks)
        if text_of(reply).strip():
            replies[i] = reply
    return replies


class _Chain:
    """One answer on its way through the revisions."""

    def __init__(self, prompt: Conversation, response: str) -> None:
        self.prompt, self.prefill = split_prefill(prompt)
        self.response = self.current = response
        self.revisions: list[Revision] = []
        self.alive = bool(response)

    def following(self) -> Conversation | None:
        """The user's next line behind the revised answer, in attacks of several turns."""
        turns = turns_left(self.prompt)
        if not turns or not self.alive:
            return None
        asked = self.prompt.then(assistant(self.current), user(turns[0]))
        return asked.model_copy(update={"meta": {**self.prompt.meta, "turns": turns[1:]}})


@stage(version=5)
def revise(
    run: Run, config: ReviseConfig, *, policy: Checkpoint, critic: Checkpoint, prompts: Prompts
) -> Revisions:
    """Answer each prompt with `policy`, criticise and revise with `critic`; every good revision is kept.

    A prompt with further lines of the user in `meta["turns"]` goes on: the last revision stands as the
    assistant's turn, the next line follows, and that is answered and revised too.

    Metrics: revise.kept and revise.<reason> (`Verdict`: rates over all revisions asked for), revise.answers,
    revise.principle.<id> (kept revisions by principle), revise.prefix_reused (share of the critic's tokens
    that were read once and shared: examples, the conversation, the critique behind a revision).

    Raises:
        UserError: when no revision at all survived the filters.
    """
    set_threads(config.threads)
    device = pick_device(config.device)
    rng = random.Random(config.seed)
    parts = [_choose(prompts.train(), config, rng), _choose(prompts.val(), config, rng)]
    engine, critics = (
        Engine(m.load(device=str(device)), m.tokenizer(), dtype="auto", max_batch=config.max_batch)
        for m in (policy, critic)
    )
    speaker = _Speaker(engine, Renderer(policy.tokenizer()), policy.config().max_position)
    chains = _play(run, config, parts, speaker, _Reviser(critics, critic, config), rng)
    every = [chain for chain, _ in sorted(chains, key=lambda pair: pair[1])]
    _report(run, every)
    counted = critics.stats
    run.metric("revise.prefix_reused", counted.reused / max(1, counted.reused + counted.read))
    kept = [
        [chat for chain, at in chains if at == part for chat in _conversations(chain, config)]
        for part in (0, 1)
    ]
    if not any(kept):
        raise UserError(
            "no revision survived the filters",
            where=f"revise: {dict(_verdicts(every))}",
            fix="use a larger critic, more examples in the constitution, or longer revision_tokens",
        )
    write_conversations(run.output, train=kept[0], val=kept[1])
    lines = [
        Transcript(prompt=c.prompt, response=c.response, revisions=tuple(c.revisions)).model_dump_json()
        for c in every
    ]
    (run.output / "transcripts.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    return Revisions(run.output)


class _Speaker(NamedTuple):
    """The policy that answers."""

    engine: Engine
    renderer: Renderer
    room: int


def _play(
    run: Run,
    config: ReviseConfig,
    parts: Sequence[Sequence[Conversation]],
    speaker: _Speaker,
    reviser: _Reviser,
    rng: random.Random,
) -> list[tuple[_Chain, int]]:
    """Every prompt answered and revised, turn by turn: each turn's chains, and which part they are of."""
    waiting = [(p, part) for part, asked in enumerate(parts) for p in asked for _ in range(config.samples)]
    turns = 1 + max((len(turns_left(prompt)) for prompt, _ in waiting), default=0)
    chains: list[tuple[_Chain, int]] = []
    with run.progress("critique and revise", config.revisions * turns) as bar:
        for turn in range(turns):
            asked = [prompt for prompt, _ in waiting]
            seed = config.seed + 7919 * turn
            answers = sample_replies(
                speaker.engine, speaker.renderer, asked, config.answer_tokens, seed, speaker.room
            )
            going = [_Chain(p, text_of(a) if a else "") for p, a in zip(asked, answers, strict=True)]
            for number in range(config.revisions):
                reviser.step([c for c in going if c.alive], turn * config.revisions + number, rng)
                bar.advance()
            found = list(zip(going, (part for _, part in waiting), strict=True))
            chains += found
            waiting = [(more, part) for chain, part in found if (more := chain.following()) is not None]
    return chains


def _choose(prompts: Sequence[Conversation], config: ReviseConfig, rng: random.Random) -> list[Conversation]:
    chosen = list(prompts)
    if config.max_prompts is not None and len(chosen) > config.max_prompts:
        chosen = rng.sample(chosen, config.max_prompts)
    return chosen


_NOTHING = Written("", whole=False, fits=False)


class _Reviser:
    """Asks the critic for one round of critiques and revisions, all chains in one batch."""

    def __init__(self, engine: Engine, critic: Checkpoint, config: ReviseConfig) -> None:
        self._engine, self._config = engine, config
        self._tokenizer = critic.tokenizer()
        self._constitution = config.constitution
        self._room = critic.config().max_position
        self._verdicts = Verdicts(
            config.constitution, config.filters, shots=config.shots, max_characters=config.max_characters
        )
        context = self._room - max(config.critique_tokens, config.revision_tokens)
        self._style: Style = make_style(
            config.style, config.constitution, self._tokenizer, context, config.shots
        )

    def step(self, chains: Sequence[_Chain], number: int, rng: random.Random) -> None:
        """Revise every chain once; a chain that failed keeps its text but goes no further."""
        use = "critique" if self._config.critique else "revision"
        principles = [self._constitution.sample(rng, use) for _ in chains]
        critiques: list[Written | None] = [None] * len(chains)
        verdicts: list[Verdict | None] = [None] * len(chains)
        pairs = list(zip(chains, principles, strict=True))
        if self._config.critique:
            asked = [self._style.critique(c.prompt, c.current, p) for c, p in pairs]
            critiques = [*self._write(asked, self._config.critique_tokens, 2 * number)]
            verdicts = [self._verdicts.of_critique(c) if c else None for c in critiques]
        going = [i for i, verdict in enumerate(verdicts) if verdict is None]
        asks = [
            self._style.revision(chain.prompt, chain.current, principle, critique.text if critique else None)
            for i in going
            for (chain, principle), critique in [(pairs[i], critiques[i])]
        ]
        written = self._write(asks, self._config.revision_tokens, 2 * number + 1)
        revisions = dict(zip(going, written, strict=True))
        for i, (chain, principle) in enumerate(pairs):
            self._accept(chain, principle, critiques[i], verdicts[i], revisions.get(i, _NOTHING))

    def _accept(
        self,
        chain: _Chain,
        principle: Principle,
        critique: Written | None,
        verdict: Verdict | None,
        revision: Written,
    ) -> None:
        verdict = verdict or self._verdicts.of_revision(chain.prompt, chain.current, critique, revision)
        chain.revisions.append(
            Revision(
                principle=principle.id,
                critique=critique.text if critique else "",
                text=revision.text,
                verdict=verdict,
            )
        )
        if verdict == "kept":
            chain.current = revision.text
        elif verdict != "unchanged":
            chain.alive = False

    def _write(self, asked: Sequence[list[int]], max_tokens: int, salt: int) -> list[Written]:
        """One text per prompt, cut at the stops and stripped."""
        fits = [i for i, ids in enumerate(asked) if len(ids) + max_tokens <= self._room]
        sampling = [
            Sampling(
                max_tokens=max_tokens,
                temperature=self._constitution.temperature,
                stop=self._style.stops,
                stop_ids=(self._tokenizer.end_id,),
                seed=(self._config.seed * 64 + salt + 1) * 1_000_003 + i,
            )
            for i in fits
        ]
        out = [_NOTHING] * len(asked)
        for i, done in zip(fits, self._engine.generate([asked[i] for i in fits], sampling), strict=True):
            text = self._tokenizer.decode(list(done.tokens), skip_special=True)
            for stop in self._style.stops:
                text = text.split(stop, 1)[0]
            out[i] = Written(text.strip(), whole=done.stop_reason != "max_tokens", fits=True)
        return out


def _conversations(chain: _Chain, config: ReviseConfig) -> list[Conversation]:
    kept: list[Conversation] = []
    for index, revision in enumerate(chain.revisions):
        if revision.verdict == "kept" or (config.keep_unchanged and revision.verdict == "unchanged"):
            begun = chain.prefill.rstrip() if config.keep_prefill else ""
            # a revision is a whole answer; behind a kept prefill it goes on from it, or recovers from it
            text = revision.text if revision.text.startswith(begun) else f"{begun} {revision.text}"
            past = chain.revisions[: index + 1]
            meta = {
                **chain.prompt.meta,
                "train_last_only": True,  # earlier turns may hold what is being mended
                "response": chain.response,
                "prefill": chain.prefill if config.keep_prefill else "",
                "revision": index + 1,
                "principles": [r.principle for r in past],
                "critiques": [r.critique for r in past],
                "revisions": [r.text for r in past],
            }
            kept.append(chain.prompt.then(assistant(text)).model_copy(update={"meta": meta}))
    return kept


def _verdicts(chains: Sequence[_Chain]) -> Counter[str]:
    return Counter(r.verdict for chain in chains for r in chain.revisions)


def _report(run: Run, chains: Sequence[_Chain]) -> None:
    run.metric("revise.answers", wilson(sum(bool(chain.response) for chain in chains), len(chains)))
    verdicts = _verdicts(chains)
    total = sum(verdicts.values())
    for reason in get_args(Verdict):
        run.metric(f"revise.{reason}", wilson(verdicts[reason], total))
    usage = Counter(r.principle for chain in chains for r in chain.revisions if r.verdict == "kept")
    for name, count in sorted(usage.items()):
        run.metric(f"revise.principle.{name}", count)
