"""Which of the offered options did a remote model choose, and how likely was each?

With log-probabilities the place where the option stands is found, and the probability of every option
there is read. Without them each sample is one vote, read strictly: one option and no other, or nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from publius.inference.remote import Answer, Token, Unanswered

__all__ = ["Choice", "NoChoice", "read_choice", "said_option"]

_DECLINES = re.compile(
    r"(?:i'm |i am )?sorry|i (?:can'?t|cannot|can not|won't|will not|must decline|decline|refuse|am unable"
    r"|am not able|do not feel comfortable|don't feel comfortable)"
    r"|i'm (?:unable|not able|not going to)|as an ai\b"
)
_FINAL = (
    re.compile(r"\banswer(?:\s+is\b\s*:?|\W{0,3}:)", re.IGNORECASE),
    re.compile(r"\banswer\b\s*:?", re.IGNORECASE),
)
"""Cues of a last answer, the surer one first: a thought speaks of "the other answer" too."""
_EDGES = " \t\r\n.,:;!*_`'\"\u201c\u201d\u2018\u2019"


class Choice(NamedTuple):
    """How likely each option is among the options, and how much of the whole they take.

    Attributes:
        probabilities: one for each option, sum 1.
        mass: share of the samples that gave an answer, times the probability on the options (1 when read
            by words).
        text: what the first sample that chose said.
    """

    probabilities: tuple[float, ...]
    mass: float
    text: str


class NoChoice(NamedTuple):
    """Nothing was chosen: the model declined, its words say nothing, or it could not be reached."""

    kind: str
    """`declined`, `unread` or `unreached`."""
    text: str


def read_choice(
    answers: Sequence[Answer | Unanswered], options: Sequence[str], *, final: bool, min_read: float = 0.5
) -> Choice | NoChoice:
    """What the samples of one question say together.

    Probabilities are averaged over the samples. Votes are counted with half a vote added for every option
    (Krichevsky and Trofimov 1981), so that one sample is never certain.

    Args:
        answers: at least one.
        options: as they were offered, `(A)` and `(B)`, say.
        final: the answer comes last, after a chain of thought; else it comes first.
        min_read: share of the samples that must be read.
    """
    chosen: list[tuple[Answer, tuple[tuple[float, ...], float] | int]] = []
    others: list[NoChoice] = []
    for answer in answers:
        read = _read_one(answer, options, final)
        if isinstance(read, NoChoice):
            others.append(read)
        else:
            assert isinstance(answer, Answer)
            chosen.append((answer, read))
    if not chosen or len(chosen) < min_read * len(answers):
        # what most of the others did; a refusal before nonsense before silence
        kinds = Counter(one.kind for one in others)
        kind = max(("declined", "unread", "unreached"), key=lambda name: kinds[name])
        return NoChoice(kind, next(one.text for one in others if one.kind == kind))
    weighed = [read for _, read in chosen if not isinstance(read, int)]
    if weighed:
        shares = tuple(sum(p[i] for p, _ in weighed) / len(weighed) for i in range(len(options)))
        mass = sum(mass for _, mass in weighed) / len(weighed)
    else:
        votes = Counter(read for _, read in chosen)
        total = len(chosen) + len(options) / 2
        shares, mass = tuple((votes[i] + 0.5) / total for i in range(len(options))), 1.0
    return Choice(shares, mass * len(chosen) / len(answers), chosen[0][0].text)


def _read_one(
    answer: Answer | Unanswered, options: Sequence[str], final: bool
) -> tuple[tuple[float, ...], float] | int | NoChoice:
    if isinstance(answer, Unanswered):
        return NoChoice("unreached", answer.problem)
    if answer.stop == "refusal":
        return NoChoice("declined", answer.text)
    cut = final and answer.stop == "length"  # the thought has no end, so nothing in it is the answer
    said = None if cut else said_option(answer.text, options, final=final)
    if said is None:
        kind = "declined" if _DECLINES.match(_plain(answer.text)) else "unread"
        return NoChoice(kind, answer.text)
    place = _place(answer.tokens, options, said, final=final)
    return said if place is None else _weigh(place, options)


def said_option(text: str, options: Sequence[str], *, final: bool) -> int | None:
    """The index of the one option that `text` gives, or None.

    The whole text may be the option, with or without brackets; or exactly one of the options stands in it
    with its brackets. With `final` only the line behind the last "the answer is" (else the last "answer")
    counts.
    """
    if final and text.strip():
        cues = next((found for cue in _FINAL if (found := list(cue.finditer(text)))), None)
        behind = text[cues[-1].end() :].strip() if cues else ""
        text = behind.partition("\n")[0] if cues else text.strip().splitlines()[-1]
    bare = text.strip(_EDGES)
    for i, option in enumerate(options):
        if bare in (option.strip(), _inner(option)):
            return i
    found = {i for i, option in enumerate(options) if _stands(option.strip(), text)}
    return found.pop() if len(found) == 1 else None


def _inner(option: str) -> str:
    return option.strip().strip("()[]").strip()


def _stands(option: str, text: str) -> bool:
    """As a word of its own. A bare letter without brackets is no sign: `A` begins many sentences."""
    if len(option) < 2:
        return False
    edge = r"(?<!\w)" if option[0].isalnum() else ""
    end = r"(?!\w)" if option[-1].isalnum() else ""
    return re.search(edge + re.escape(option) + end, text) is not None


def _place(tokens: Sequence[Token], options: Sequence[str], said: int, *, final: bool) -> Token | None:
    """The token that names the option that was said: the first, or after a thought the last. One that stands
    in the option's bracket comes before one that does not: `A` begins many sentences."""
    name, inner = options[said].strip(), _inner(options[said])
    opening = name[: name.find(inner)]
    found: list[tuple[bool, Token]] = []
    before = ""
    for token in tokens:
        if _names(token.text, options) == said:
            led = (before + token.text[: token.text.find(inner)]).endswith(opening)
            found.append((led, token))
        before = (before + token.text)[-len(name) :]
    places = [token for led, token in found if led] or [token for _, token in found]
    return (places[-1] if final else places[0]) if places else None


def _names(token: str, options: Sequence[str]) -> int | None:
    bare = token.strip(_EDGES + "()[]")
    return next((i for i, option in enumerate(options) if bare == _inner(option)), None)


def _weigh(place: Token, options: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """The options' probabilities at a place.

    An option that is not among the tokens listed is as likely as it can be: as the least likely one that is
    listed, or as all the rest together. So a label is never surer than what was seen.
    """
    shares = [0.0] * len(options)
    for text, logprob in place.alternatives:
        if (i := _names(text, options)) is not None:
            shares[i] += math.exp(logprob)
    listed = [math.exp(logprob) for _, logprob in place.alternatives]
    floor = min(min(listed), max(1 - sum(listed), 1e-9))
    shares = [share or floor for share in shares]
    total = sum(shares)
    return tuple(share / total for share in shares), min(total, 1.0)


def _plain(text: str) -> str:
    return text.strip().casefold().replace("\u2019", "'")
