"""Which reads a batch of scores needs, and where in them each score is; and a text's own scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from publius.inference.request import Alternatives, Request, whole
from publius.inference.sampling import Sampling

__all__ = ["Reading", "Scored", "Scores"]


class Scores:
    """Continuations to be scored after their prompts.

    Those that read the same tokens (one prompt, several single-token answers) are one read.

    Args:
        prompts, continuations: of equal length, not yet checked.

    Raises:
        UserError: when one of them is not a row of token ids.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> None:
        self.requests: list[Request] = []
        """The read of each continuation, in the order given."""
        self.texts: list[tuple[list[int], list[int]]] = []
        """Prompt and continuation of each."""
        reads: dict[tuple[int, ...], Request] = {}
        self._places: list[list[tuple[int, int]]] = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            before, after = whole(prompt, "prompt"), whole(continuation, "continuation")
            row = (*before, *after[:-1])
            request = reads.get(row) or Request(row, Sampling(max_tokens=1), targets={})
            if after:
                reads[row] = request
            assert request.targets is not None
            places: list[tuple[int, int]] = []
            for place, token in enumerate(after, len(before) - 1):
                wanted = request.targets.setdefault(place, [])
                places.append((place, len(wanted)))
                wanted.append(token)
            self.texts.append((before, after))
            self.requests.append(request)
            self._places.append(places)
        self.reads = [reads[row] for row in sorted(reads)]
        """Alike beside alike, so that what is shared is not given up in between."""

    def found(self) -> list[list[float]]:
        """The log-probability of every token of each continuation, once `reads` have been run."""
        return [
            [request.scores[place][number] for place, number in places]
            for request, places in zip(self.requests, self._places, strict=True)
        ]


class Scored(NamedTuple):
    """One token of a text that was read."""

    id: int
    logprob: float | None
    """After all before it (nats, temperature 1); None of the first, which follows nothing."""
    alternatives: Alternatives = ()


class Reading:
    """A text whose own tokens are scored, in one read.

    Args:
        text: token ids.
        alternatives: how many of the likeliest ids to give for each token's place. What is the likeliest has,
            to the bit, the log-probability the alternatives say.

    Raises:
        UserError: when it is not a row of token ids.
    """

    def __init__(self, text: Sequence[int], alternatives: int = 0) -> None:
        self._text = whole(text, "prompt")
        targets = {place: [token] for place, token in enumerate(self._text[1:])}
        one = Sampling(max_tokens=1, alternatives=alternatives)
        self.request = Request(self._text, one, targets=targets)
        """What the engine runs (`Engine.complete`, or `Engine.enqueue` and `step`)."""

    def found(self) -> list[Scored]:
        """Every token of the text, once `request` has been run."""
        request = self.request
        return [
            Scored(
                token,
                request.scores[place - 1][0] if place else None,
                request.ranked.get(place - 1, ()),
            )
            for place, token in enumerate(self._text)
        ]
