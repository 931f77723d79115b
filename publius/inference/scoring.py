"""Which reads a batch of scores needs, and where in them each score is."""

from __future__ import annotations

from collections.abc import Sequence

from publius.inference.request import Request, whole
from publius.inference.sampling import Sampling

__all__ = ["Scores"]


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
