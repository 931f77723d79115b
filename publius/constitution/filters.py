"""What a critic writes that must not become training data: refusals, copies, other languages.

Each filter is a pure function of texts. They are rules, not models: cheap, the same everywhere, and
readable when they are wrong. `ReviseConfig` switches them on; `docs/constitution.md` says what each misses.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["REFUSALS", "copied", "drifted", "evident_language", "refuses", "strange_letters"]

_VERBS = (
    "help", "assist", "comply", "engage", "continue", "participate", "provide", "discuss", "respond",
    "answer", "comment", "criticise", "criticize", "critique", "review", "evaluate", "do that", "do this",
)  # fmt: skip
REFUSALS = tuple(f"i cannot {verb}" for verb in _VERBS)
"""The default phrases. "I cannot find a fault" begins with none of them, and is a critique."""

_SAME = (
    (re.compile(r"[\u2018\u2019\u02bc]"), "'"),
    (re.compile(r"\bi'm\b"), "i am"),
    (re.compile(r"\b(?:can't|can not|won't|will not|must decline to|would rather not)\b"), "cannot"),
    (re.compile(r"\bam (?:unable|not able|not willing) to\b"), "cannot"),
)
_OPENER = re.compile(
    r"(?:i am (?:very |so )?sorry|sorry|i apologi[sz]e|unfortunately|however|but|and|"
    r"as an? (?:ai|language model|assistant)(?: (?:language )?(?:model|assistant))?)\b"
    r"[\s,.:;!\u2013\u2014-]*"
)


def refuses(critique: str, phrases: Sequence[str] = REFUSALS) -> bool:
    """Does the critic decline to criticise?

    The rule: behind any apology or "as an AI", the critique *begins* with one of the phrases. Case,
    contractions and the usual forms ("won't", "am unable to") are made alike first, so `i cannot help`
    covers "I'm sorry, but I won't help". A critique that quotes a refusal further on is none.
    """
    text = _plain(critique)
    while (opened := _OPENER.match(text)) is not None:
        text = text[opened.end() :]
    return any(re.match(re.escape(_plain(phrase)) + r"\b", text) for phrase in phrases)


def _plain(text: str) -> str:
    said = " ".join(text.casefold().split()).lstrip("\"'*-> ")
    for pattern, form in _SAME:
        said = pattern.sub(form, said)
    return said


_RUN = 5
"""Words in a row that count as copied."""


def copied(text: str, others: Iterable[str]) -> float:
    """The largest share, over `others`, of the text's words that stand there in runs of five or more.

    A text of fewer than five words counts only when it equals another. Case and punctuation do not.
    """
    words = _words(text)
    most = 0.0
    for other in others:
        theirs = _words(other)
        if len(words) < _RUN:
            most = max(most, float(bool(words) and words == theirs))
            continue
        known = {tuple(theirs[i : i + _RUN]) for i in range(len(theirs) - _RUN + 1)}
        covered = [False] * len(words)
        for i in range(len(words) - _RUN + 1):
            if tuple(words[i : i + _RUN]) in known:
                covered[i : i + _RUN] = [True] * _RUN
        most = max(most, sum(covered) / len(words))
    return most


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


# The commonest function words of eight languages that share a script.
_FUNCTION_WORDS = {
    "en": "the of and to in is that it for you was with on as are be this have from not or by at but they",
    "de": "der die das und ist nicht ein eine ich zu den mit sie es auf für von dem sich auch wie sind oder",
    "fr": "le la les et est une des que pour pas dans vous ce qui sur ne au du avec plus sont il je nous",
    "es": "el la los las y es una que para no en se por con como su del al pero más lo está son muy",
    "it": "il la gli e è una che per non di in si con come del della sono ma più lo anche questo nel alla",
    "pt": "o a os as e é uma que para não em se por com como do da no na mas mais são você dos também",
    "nl": "de het een en is niet van dat te in op voor met zijn aan ook er maar om bij deze naar wordt je",
    "sv": "och att det som en på är av för med den till inte har ett om jag han var så men vi kan från",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}
_ENOUGH, _MARGIN = 4, 1.5


def evident_language(text: str) -> str | None:
    """The language whose function words the text has by far the most of; None where that is not plain.

    Plain means: at least four of them, and half as many again as of any other language.
    """
    counts = Counter(
        {name: sum(word in known for word in _words(text)) for name, known in _LANGUAGES.items()}
    )
    (best, most), (_, next_most) = counts.most_common(2)
    return best if most >= _ENOUGH and most >= _MARGIN * next_most else None


def strange_letters(text: str, context: str) -> float:
    """The share of the text's letters in scripts that make up less than a twentieth of the context's."""
    ours, theirs = _scripts(text), _scripts(context)
    if not ours or not theirs:
        return 0.0
    usual = {name for name, count in theirs.items() if count >= theirs.total() / 20}
    return sum(count for name, count in ours.items() if name not in usual) / ours.total()


def _scripts(text: str) -> Counter[str]:
    """Letters by script: the first word of the character's Unicode name (LATIN, CYRILLIC, CJK, ...)."""
    return Counter(unicodedata.name(c, "?").split()[0] for c in text if c.isalpha())


def drifted(text: str, context: Sequence[str], most: float) -> bool:
    """Has the text left the languages of its context (what was asked, what is being revised)?

    True when more than `most` of its letters are of scripts the context hardly uses, or when both are
    evidently in a known language and the text's is none of the context's.
    """
    if strange_letters(text, "\n".join(context)) > most:
        return True
    spoken = {language for part in context if (language := evident_language(part)) is not None}
    return bool(spoken) and (evident_language(text) or next(iter(spoken))) not in spoken
