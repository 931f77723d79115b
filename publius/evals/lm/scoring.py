"""Log-likelihoods of many continuations at once: what begins alike is read once, logits only where scored.

The rules by which texts become pairs of ids are those of lm-eval's own model class, so that numbers compare:
spaces at the end of a context belong to the continuation, an empty context is one prefix token, and what does
not fit loses its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from publius.core.console import progress
from publius.core.errors import UserError
from publius.evals.lm.packed import packs_of, read_packed
from publius.evals.lm.words import Words
from publius.inference.engine import Engine
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.model.rope import DynamicRope
from publius.model.transformer import Block

__all__ = ["Likelihood", "Pair", "pairs_of", "score_pairs", "windows"]

_AT_ONCE = 1024
"""Texts given to the engine at once: many enough that its steps are full, few enough that progress shows."""


_READ = Sampling(max_tokens=1, alternatives=1)
"""Nothing is written; the likeliest at each place tells what greedy decoding would say."""


_PACKS = 256
"""Packs between two looks at the progress."""


class Pair(NamedTuple):
    """Ids to be scored, and what they follow."""

    context: list[int]
    continuation: list[int]


class Likelihood(NamedTuple):
    """Of a continuation: its log-probability (nats), and whether greedy decoding would have said it."""

    logprob: float
    greedy: bool


def pairs_of(words: Words, texts: Sequence[tuple[str, str]]) -> list[Pair]:
    """(context, continuation) as ids. The two are encoded as one text and then parted, so that a token never
    begins in one and ends in the other unseen.

    Raises:
        UserError: for a continuation of which nothing is left.
    """
    moved: list[tuple[str, str]] = []
    for context, continuation in texts:
        spaces = len(context) - len(context.rstrip())
        kept = len(context) - spaces
        moved.append((context[:kept], context[kept:] + continuation) if context else (context, continuation))
    known = dict.fromkeys(text for context, rest in moved if context for text in (context, context + rest))
    ids = dict(zip(known, words.encode([*known]), strict=True))
    alone = dict.fromkeys(rest for context, rest in moved if not context)
    bare = dict(zip(alone, words.encode([*alone], special=False), strict=True))
    found: list[Pair] = []
    for number, (context, rest) in enumerate(moved):
        if context:
            before, whole = ids[context], ids[context + rest]
            pair = Pair(before, whole[len(before) :])
        elif bare[rest][:1] == [words.prefix_id]:
            pair = Pair(bare[rest][:1], bare[rest][1:])
        else:
            pair = Pair([words.prefix_id], bare[rest])
        if not pair.continuation:
            raise UserError(
                f"there is nothing to score in the continuation {texts[number][1]!r}",
                where=f"request {number}",
                fix="give a continuation that has a token of its own after its context",
            )
        found.append(pair)
    return found


def windows(tokens: Sequence[int], prefix: int, length: int) -> Iterator[Pair]:
    """A long text in windows of at most `length` read tokens, each of its tokens scored once.

    The last window reads as many as fit, and scores those that are left; `prefix` stands before the first.
    """
    text = [prefix, *tokens]
    done = 0
    while done < len(tokens):
        count = min(len(tokens) - done, length)
        end = done + count
        first = max(0, end - length)
        yield Pair(text[first : done + 1], text[done + 1 : end + 1])
        done = end


def score_pairs(engine: Engine, pairs: Sequence[Pair]) -> list[Likelihood]:
    """The likelihood of each continuation after its context, which loses its beginning where both do not fit.

    Raises:
        UserError: for a continuation longer than the engine's context, and as `Engine.complete`.
    """
    reads: dict[tuple[int, ...], Request] = {}
    places: list[tuple[tuple[int, ...], list[tuple[int, int, int]]]] = []
    for number, (context, continuation) in enumerate(pairs):
        if len(continuation) > engine.context:
            raise UserError(
                f"a continuation of {len(continuation)} tokens exceeds the context of {engine.context}",
                where=f"request {number}",
                fix="score it as a whole text (rolling), or use a model with a longer context",
            )
        text = (*context, *continuation)[-(engine.context + 1) :]
        row = text[:-1]
        if row not in reads:
            reads[row] = Request(row, _READ, targets={})
        targets = reads[row].targets
        assert targets is not None
        wanted: list[tuple[int, int, int]] = []
        for place, token in enumerate(continuation, len(text) - len(continuation) - 1):
            asked = targets.setdefault(place, [])
            wanted.append((place, len(asked), token))
            asked.append(token)
        places.append((row, wanted))
    _run(engine, [reads[row] for row in sorted(reads)])
    return [_likelihood(reads[row], wanted) for row, wanted in places]


def _run(engine: Engine, reads: Sequence[Request]) -> None:
    """Alike beside alike, so that what is shared is not given up in between."""
    with progress("scoring", len(reads)) as ticker:
        if _packs(engine):
            packs, reads = packs_of(reads)
            for start in range(0, len(packs), _PACKS):
                part = packs[start : start + _PACKS]
                failed = read_packed(engine, part)
                reads += failed
                ticker.advance(sum(len(pack.reads) for pack in part) - len(failed))
        reads = sorted(reads, key=lambda read: tuple(read.prompt))
        for start in range(0, len(reads), _AT_ONCE):
            part = reads[start : start + _AT_ONCE]
            engine.complete(part)
            ticker.advance(len(part))


def _packs(engine: Engine) -> bool:
    """Whether the model's own forward pass computes what the engine does, and a mask is all it obeys."""
    model = engine.model
    windows = any(block.self_attn.window for block in model.model.layers if isinstance(block, Block))
    dynamic = isinstance(model.config.rope, DynamicRope)
    return engine.dtype == model.dtype and not windows and not dynamic


def _likelihood(read: Request, wanted: Sequence[tuple[int, int, int]]) -> Likelihood:
    logprobs = [read.scores[place][number] for place, number, _ in wanted]
    return Likelihood(sum(logprobs), all(read.ranked[place][0][0] == token for place, _, token in wanted))
