"""How many different findings there are: the same attack in other words is one.

Three steps, each cheaper for what comes after it: equal texts by hash, near-equal ones by MinHash
(datatrove's signatures, banded), and what is left by the cosine of its character n-grams with the head of
each cluster.

    numbers = wordings(["Old Tom, tell me.", "old tom: tell me!", "Write a play."])     # [0, 0, 1]
    effective(numbers)                                                                  # 1.89

Clusters are for counting: which head a text falls to depends on what else was found. What is kept from
training is not asked of them but of the attack's own words (`wording_of`), so that every round and every
stage gives the same answer for it.
"""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from publius.core.messages import Conversation, text_of, turns_left, user
from publius.redteam.phrasings import SHOT_THINGS

__all__ = [
    "Clustered",
    "cluster",
    "cosine",
    "drawn",
    "effective",
    "grams",
    "held",
    "kept_back",
    "masked",
    "wording_of",
    "wordings",
]

_NGRAM, _SHINGLE, _BUCKETS, _HASHES = 4, 3, 14, 5
"""Characters of an n-gram, words of a shingle. The banding matches 99% of pairs at similarity 0.8."""


class Clustered(NamedTuple):
    """Where a finding belongs.

    Args:
        cluster: same goal, same style, same wording.
        wording: the name of its own wording (`wording_of`), whatever else was found.
        near: same or nearly the same wording among those found with it, whatever is asked for: to count.
    """

    cluster: str
    wording: str
    near: str


def masked(conversation: Conversation, entity: str) -> str:
    """The wording of an attack: system text, what the user says and how a reply is begun, with the thing
    asked for hidden. The model's own replies are not the attacker's words."""
    said = [text_of(m) for m in conversation.messages if m.role == "user"]
    if conversation.messages and conversation.messages[-1].role == "assistant":
        said.append(text_of(conversation.messages[-1]))
    text = "\n".join([conversation.system or "", *said])
    for part in (entity, *(w for w in entity.split() if len(w) > 3)):
        text = re.sub(re.escape(part), "{x}", text, flags=re.IGNORECASE) if part else text
    return text


def wording_of(conversation: Conversation, entity: str) -> str:
    """The name of an attack's wording, from its own words alone.

    The sentences that name the thing are left out where there are others, and so are the invented things of
    shots: one trick around two questions is one wording, however these are put.
    """
    text = masked(conversation, entity)
    for thing in SHOT_THINGS:
        text = text.replace(thing, "{x}")
    around = [part for part in re.split(r"[.?!:;\n]+", text) if "{x}" not in part]
    return _digest(_plain(" ".join(around)) or _plain(text))


def kept_back(prompt: Conversation, share: float) -> bool:
    """Whether a prompt says a wording that is held back, at once or with one of its further lines."""
    lines, entity = [user(line) for line in turns_left(prompt)], str(prompt.meta.get("entity") or "")
    talks = (prompt.then(*lines[:count]) for count in range(len(lines) + 1))
    return any(held(wording_of(talk, entity), share) for talk in talks)


def cluster(found: Sequence[tuple[str, str, Conversation]], *, threshold: float = 0.8) -> list[Clustered]:
    """The cluster of each finding, given as (entity, style, conversation).

    Names of clusters depend on what is in them alone, so they stay the same as findings are added in order.
    """
    texts = [masked(conversation, entity) for entity, _, conversation in found]
    numbers = wordings(texts, threshold=threshold)
    heads: dict[int, str] = {}
    for number, text in zip(numbers, texts, strict=True):
        heads.setdefault(number, _digest(_plain(text)))
    return [
        Clustered(_digest(entity, style, heads[number]), wording_of(conversation, entity), heads[number])
        for (entity, style, conversation), number in zip(found, numbers, strict=True)
    ]


def wordings(texts: Sequence[str], *, threshold: float = 0.8) -> list[int]:
    """The number of each text's cluster, counted from 0 in the order in which clusters appear.

    Args:
        threshold: least cosine of n-grams at which two texts are one wording.
    """
    by_hash: dict[str, int] = {}
    by_band: dict[tuple[int, ...], int] = {}
    heads: list[Counter[str]] = []
    numbers: list[int] = []
    for text in texts:
        plain = _plain(text)
        key, bands = _digest(plain), _bands(plain)
        number = by_hash.get(key)
        if number is None:
            number = next((by_band[band] for band in bands if band in by_band), None)
        if number is None:
            mine = grams(plain)
            near = [(cosine(mine, head), -place) for place, head in enumerate(heads)]
            best, place = max(near, default=(0.0, 0))
            number = -place if near and best >= threshold else len(heads)
            if number == len(heads):
                heads.append(mine)
        by_hash[key] = number
        for band in bands:
            by_band.setdefault(band, number)
        numbers.append(number)
    return numbers


def effective(labels: Sequence[Hashable]) -> float:
    """How many equally common clusters would be as diverse: exp of Shannon's entropy (Hill 1973, order 1)."""
    n = len(labels)
    if not n:
        return 0.0
    return math.exp(-math.fsum(c / n * math.log(c / n) for c in Counter(labels).values()))


def held(name: str, share: float) -> bool:
    """Whether what has this name (a wording's, an item's) is kept back: the same answer every round."""
    return drawn(name) < share


def drawn(name: str) -> float:
    """A number from 0 to 1 for a name, the same every time."""
    return int(hashlib.sha256(f"held/{name}".encode()).hexdigest()[:8], 16) / 2**32


def cosine(a: Counter[str], b: Counter[str]) -> float:
    """Of two counts."""
    if not a or not b:
        return 0.0
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    product = sum(count * large[gram] for gram, count in small.items())
    return product / math.sqrt(sum(c * c for c in a.values()) * sum(c * c for c in b.values()))


def _plain(text: str) -> str:
    """Words only: case, punctuation, letters that only look otherwise and characters that are not seen make
    no other wording."""
    text = unicodedata.normalize("NFKC", text).lower().translate(_ALIKE)  # what is shouted looks alike, too
    return " ".join(re.findall(r"\w+", "".join(c for c in text if unicodedata.category(c) != "Cf")))


_ALIKE = str.maketrans("\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456", "aceopxyi")
"""Cyrillic letters that are drawn like Latin ones."""


def grams(text: str) -> Counter[str]:
    """Its character n-grams, punctuation and case aside."""
    padded = f" {_plain(text)} "
    return Counter(padded[i : i + _NGRAM] for i in range(max(1, len(padded) - _NGRAM + 1)))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]


class _Words(WordTokenizer):
    """Words by spaces: the text is plain already, and datatrove's own tokenizers would be downloaded."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


@cache
def _signer() -> MinhashDedupSignature:
    config = MinhashConfig(
        n_grams=_SHINGLE, num_buckets=_BUCKETS, hashes_per_bucket=_HASHES, seed=1,
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )  # fmt: skip
    # nothing is written there: the step is asked for signatures only
    return MinhashDedupSignature(tempfile.gettempdir(), config=config, language=cast("Any", _Words()))


def _bands(plain: str) -> list[tuple[int, ...]]:
    """MinHash bands of the text, each with its place; none when it is shorter than a shingle."""
    signer = _signer()
    shingles = signer.get_shingles(plain)
    if shingles.size == 0:
        return []
    return [(place, *band) for place, band in enumerate(signer.get_signature(shingles))]
