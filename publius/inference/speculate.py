"""Guessing what comes next, to read several tokens in one step.

A guess costs little where weights are what a step waits for, and it never changes a text: each guessed place
is drawn from as it would have been, with the row's own number, and a guess stands only when it is what was
drawn (the coupling that makes Leviathan et al. 2023, arXiv 2211.17192, exact for greedy, made so for sampling
by the fixed number of each place).
"""

from __future__ import annotations

from publius.inference.request import Request

__all__ = ["prompt_lookup"]

_LONGEST, _SHORTEST = 4, 2


def prompt_lookup(request: Request, count: int) -> list[int]:
    """What followed the last place where the text ended as it ends now; empty when it never did.

    The longest match of two to four tokens wins, the latest of those (Saxena 2023, prompt lookup decoding).
    """
    tokens = request.ids(0, request.length)
    for size in range(min(_LONGEST, len(tokens) - 1), _SHORTEST - 1, -1):
        tail = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start] == tail[0] and tokens[start : start + size] == tail:
                return tokens[start + size : start + size + count]
    return []
