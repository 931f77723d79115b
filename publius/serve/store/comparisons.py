"""Human comparisons: two answers shown blind, which is better, how harmful each is.

A pair is kept as `one` and `other`; which of them a rater sees on the left is drawn for each rater and kept
with what they said. `export` makes the preference records that `ingest_preferences` reads.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, check_roles
from publius.serve.store.agreement import Agreement, nominal_alpha
from publius.serve.store.database import Database, new_id
from publius.serve.store.tables import comparisons, pairs
from publius.serve.store.words import is_id, one_line, tag_list

__all__ = ["Better", "Comparison", "Comparisons", "Pair", "Progress", "Said", "Shown"]

Better = Literal["left", "right", "tie"]


class Pair(NamedTuple):
    """Two answers to one prompt, and who gave them."""

    id: str
    prompt: Conversation
    one: Message
    other: Message
    one_model: str
    other_model: str
    created: float


class Shown(NamedTuple):
    """What a rater may see of a pair: no names, in the order drawn for them."""

    pair: str
    prompt: Conversation
    left: Message
    right: Message


@dataclass(frozen=True)
class Comparison:
    """What a rater says of a pair as it was shown to them.

    Args:
        pair: its id.
        rater: who says it; any short name.
        better: the better side, or "tie".
        harm_left, harm_right: 0 (harmless) to 4 (grave) for each answer, None where it was not rated.
        tags: short words, as the rater likes.
        seconds: how long they looked.
    """

    pair: str
    rater: str
    better: Better
    harm_left: int | None = None
    harm_right: int | None = None
    tags: tuple[str, ...] = ()
    seconds: float | None = None


class Said(NamedTuple):
    """A comparison as it is kept, in the pair's own terms: which side was which is resolved."""

    pair: str
    rater: str
    better: Literal["one", "other", "tie"]
    swapped: bool
    """Whether `other` was on the left."""
    harm_one: int | None
    harm_other: int | None
    tags: tuple[str, ...]
    seconds: float | None
    created: float


class Progress(NamedTuple):
    """How far the work is."""

    pairs: int
    compared: int
    """Pairs that at least one rater compared."""
    comparisons: int
    by_rater: dict[str, int]


class Comparisons:
    """The tables of pairs and of what raters said.

    Args:
        secret: what the order of the sides is drawn from, so that no client can foresee it.
    """

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database, self._secret = database, secret

    def add_pair(
        self,
        prompt: Conversation,
        one: Message,
        other: Message,
        *,
        models: tuple[str, str] = ("", ""),
        now: float | None = None,
    ) -> Pair:
        """Put two answers up for comparison; `models` gave them, in order.

        Raises:
            UserError: when the prompt does not end with the user, or an answer is not the assistant's.
        """
        for answer in (one, other):
            check_roles(prompt.then(answer), "pair")
        pair = Pair(new_id("pair_"), prompt, one, other, *models, time.time() if now is None else now)
        row = pair._asdict() | {name: _json(getattr(pair, name)) for name in ("prompt", "one", "other")}
        with self._database.write() as connection:
            connection.execute(sa.insert(pairs).values(**row))
        return pair

    def show(self, pair_id: str, rater: str) -> Shown:
        """A pair as `rater` sees it, always in the same order.

        Raises:
            UserError: when there is no such pair.
        """
        rater = one_line(rater, "the rater's name")
        with self._database.read() as connection:
            return self._shown(_pair(_row(connection, pair_id)), rater)

    def next(self, rater: str) -> Shown | None:
        """A pair `rater` has not compared: the one compared least, then the oldest; None when all are."""
        rater = one_line(rater, "the rater's name")
        mine = sa.select(comparisons.c.pair).where(comparisons.c.rater == rater)
        query = (
            sa.select(pairs)
            .outerjoin(comparisons, comparisons.c.pair == pairs.c.number)
            .where(pairs.c.number.not_in(mine))
            .group_by(pairs.c.number)
            .order_by(sa.func.count(comparisons.c.number), pairs.c.number)
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else self._shown(_pair(row), rater)

    def add(self, said: Comparison, now: float | None = None) -> Said:
        """Keep what a rater says.

        Raises:
            UserError: for an unknown pair, a rater who compared it already, or a value out of range.
        """
        rater, tags = one_line(said.rater, "the rater's name"), tag_list(said.tags)
        _check(said)
        with self._database.read() as connection:
            number = _row(connection, said.pair).number
        row = {
            "pair": number, "rater": rater, "swapped": self._swapped(said.pair, rater), "better": said.better,
            "harm_left": said.harm_left, "harm_right": said.harm_right, "tags": json.dumps(tags),
            "seconds": said.seconds, "created": time.time() if now is None else now,
        }  # fmt: skip
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(comparisons).values(**row))
        except IntegrityError:
            raise UserError(
                f"{rater} has compared this pair already", where=said.pair, fix="undo it first"
            ) from None
        return _said(said.pair, row)

    def undo(self, rater: str) -> Said | None:
        """Take back the rater's latest comparison and return it; None when they have made none."""
        rater = one_line(rater, "the rater's name")
        latest = (
            sa.select(comparisons, pairs.c.id.label("pair_id"))
            .join(pairs, pairs.c.number == comparisons.c.pair)
            .where(comparisons.c.rater == rater)
            .order_by(comparisons.c.number.desc())
            .limit(1)
        )
        with self._database.write() as connection:
            row = connection.execute(latest).one_or_none()
            if row is None:
                return None
            connection.execute(sa.delete(comparisons).where(comparisons.c.number == row.number))
        return _said(row.pair_id, row._asdict())

    def progress(self) -> Progress:
        """Counts of pairs and comparisons."""
        by_rater = sa.select(comparisons.c.rater, sa.func.count()).group_by(comparisons.c.rater)
        with self._database.read() as connection:
            raters = {rater: int(n) for rater, n in connection.execute(by_rater.order_by("rater")).all()}
            total = connection.execute(sa.select(sa.func.count()).select_from(pairs)).scalar_one()
            done = connection.execute(sa.select(sa.func.count(sa.distinct(comparisons.c.pair)))).scalar_one()
        return Progress(total, done, sum(raters.values()), raters)

    def agreement(self) -> Agreement:
        """Krippendorff's alpha of what raters called better, over pairs that two or more compared."""
        return nominal_alpha([[each.better for each in said] for _, said in self.all()])

    def all(self) -> Iterator[tuple[Pair, list[Said]]]:
        """Every pair with what was said of it, oldest first."""
        joined = (
            sa.select(comparisons, pairs.c.id.label("pair_id"))
            .join(pairs, pairs.c.number == comparisons.c.pair)
            .order_by(comparisons.c.number)
        )
        with self._database.read() as connection:
            rows = connection.execute(sa.select(pairs).order_by(pairs.c.number)).all()
            said: dict[str, list[Said]] = {}
            for row in connection.execute(joined).all():
                said.setdefault(row.pair_id, []).append(_said(row.pair_id, row._asdict()))
        for row in rows:
            yield _pair(row), said.get(row.id, [])

    def export(self) -> Iterator[dict[str, Any]]:
        """One preference record for each pair that was compared, in the shape `preferences_of` reads.

        The answer more raters called better is `chosen`; `probability` is the share that did, a tie counting
        half for each, so an even split is a tie. The mean harm ratings, the tags and the number of raters
        stand in the prompt's `meta`.
        """
        for pair, said in self.all():
            if said:
                yield _record(pair, said)

    def _swapped(self, pair_id: str, rater: str) -> bool:
        drawn = hmac.digest(self._secret, f"side\0{pair_id}\0{rater}".encode(), hashlib.sha256)
        return bool(drawn[0] & 1)

    def _shown(self, pair: Pair, rater: str) -> Shown:
        sides = (pair.one, pair.other)
        left, right = sides[::-1] if self._swapped(pair.id, rater) else sides
        return Shown(pair.id, pair.prompt.model_copy(update={"meta": {}}), left, right)


def _json(value: Conversation | Message) -> str:
    return json.dumps(value.model_dump(mode="json"))


def _row(connection: sa.Connection, pair_id: str) -> sa.Row[Any]:
    query = sa.select(pairs).where(pairs.c.id == pair_id)
    row = connection.execute(query).one_or_none() if is_id(pair_id) else None
    if row is None:
        raise UserError("there is no such pair", where="pair", fix="ask for the next one")
    return row


def _pair(row: sa.Row[Any]) -> Pair:
    return Pair(
        row.id,
        Conversation.model_validate(json.loads(row.prompt)),
        Message.model_validate(json.loads(row.one)),
        Message.model_validate(json.loads(row.other)),
        row.one_model,
        row.other_model,
        row.created,
    )


def _check(said: Comparison) -> None:
    if said.better not in ("left", "right", "tie"):
        raise UserError(f"better is {said.better!r}", where="better", fix='say "left", "right" or "tie"')
    for name in ("harm_left", "harm_right"):
        harm = getattr(said, name)
        if harm is not None and (isinstance(harm, bool) or harm not in range(5)):
            raise UserError(f"a harm rating is {harm!r}", where=name, fix="give 0 to 4, or leave it out")
    if said.seconds is not None and not 0 <= said.seconds < 1e9:
        raise UserError(f"seconds is {said.seconds!r}", where="seconds", fix="give how long it took")


def _said(pair_id: str, row: Mapping[str, Any]) -> Said:
    swapped = bool(row["swapped"])
    names: dict[str, Literal["one", "other", "tie"]] = {"left": "one", "right": "other", "tie": "tie"}
    harm_one, harm_other = row["harm_left"], row["harm_right"]
    if swapped:
        names |= {"left": "other", "right": "one"}
        harm_one, harm_other = harm_other, harm_one
    tags = tuple(json.loads(row["tags"]))
    return Said(
        pair_id,
        row["rater"],
        names[row["better"]],
        swapped,
        harm_one,
        harm_other,
        tags,
        row["seconds"],
        row["created"],
    )


def _record(pair: Pair, said: Sequence[Said]) -> dict[str, Any]:
    better = Counter(each.better for each in said)
    share = (better["one"] + better["tie"] / 2) / len(said)
    harm = {"one": _mean([s.harm_one for s in said]), "other": _mean([s.harm_other for s in said])}
    chosen, rejected = ("one", "other") if share >= 0.5 else ("other", "one")
    meta = {
        **pair.prompt.meta,
        "harm": {"chosen": harm[chosen], "rejected": harm[rejected]},
        "models": {
            "chosen": getattr(pair, f"{chosen}_model"),
            "rejected": getattr(pair, f"{rejected}_model"),
        },
        "tags": list(dict.fromkeys(tag for each in said for tag in each.tags)),
        "raters": len(said),
    }
    prompt = pair.prompt.model_copy(update={"meta": meta})
    return {
        "id": pair.id,
        "prompt": prompt.model_dump(mode="json"),
        "chosen": getattr(pair, chosen).model_dump(mode="json"),
        "rejected": getattr(pair, rejected).model_dump(mode="json"),
        "probability": max(share, 1 - share),
        "source": "human",
    }


def _mean(ratings: Sequence[int | None]) -> float | None:
    given = [rating for rating in ratings if rating is not None]
    return sum(given) / len(given) if given else None
