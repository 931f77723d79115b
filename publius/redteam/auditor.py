"""The auditor: plays attacks against a model in batches, marks the replies, and confirms the hits.

Marks are programmatic (`publius.data.pocket.grade`). The first pass is greedy, so a hit is the
model's own first answer; a hit is *confirmed* when it comes back in re-runs at temperature 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from publius.core.messages import Conversation, text_of, turns_left, user
from publius.data.pocket.grade import count_keys, grade
from publius.inference import Engine
from publius.redteam.attack import STYLES, Attack
from publius.redteam.findings import Attempt, conversation_id
from publius.redteam.target import EngineTarget
from publius.tokenizer import Renderer

__all__ = ["Auditor", "as_prompt", "build_attacks"]

_PASSES = 48
"""Over all questions, after which a style has nothing new to say: of eight wordings, each has then been drawn
for a question but once in six hundred times."""


def build_attacks(
    styles: Sequence[Attack], questions: Sequence[Conversation], *, each: int, seed: str, held_out: bool
) -> list[Conversation]:
    """`each` attacks a style over shuffled questions, every question used before any is used again.

    No attack comes twice, for one leak would count twice: another is drawn, and there are fewer where the
    style has no more to say. The same seed gives the same attacks whatever other styles are asked for.
    """
    attacks: list[Conversation] = []
    for style in styles if questions else ():
        rng = random.Random(f"{seed}/{style.name}")
        order = list(questions)
        rng.shuffle(order)
        mine: dict[str, Conversation] = {}
        for i in range(max(each, _PASSES * len(order))):
            if len(mine) >= each:
                break
            attack = style(order[i % len(order)], rng, held_out=held_out)
            mine.setdefault(conversation_id(attack), attack)
        attacks += mine.values()
    return attacks


class Auditor:
    """Plays conversations against one model.

    Args:
        engine, renderer: the model under test.
        max_tokens: longest reply of one turn.
    """

    def __init__(self, engine: Engine, renderer: Renderer, *, max_tokens: int = 64) -> None:
        self.engine, self.renderer = engine, renderer
        self._target = EngineTarget(engine, renderer, fingerprint="", max_tokens=max_tokens)

    def play(self, attacks: Sequence[Conversation], *, seed: int | None = None) -> list[Conversation | None]:
        """Each attack with the model's replies, further turns included; None where it does not fit the model.

        Greedy without `seed`; at temperature 1 with it.
        """
        played: list[Conversation | None] = [None] * len(attacks)
        waiting = {i: (attack, turns_left(attack)) for i, attack in enumerate(attacks)}
        step = 0
        while waiting:
            replied = self._target.replies(
                [talk for talk, _ in waiting.values()], seed=None if seed is None else seed + step
            )
            further: dict[int, tuple[Conversation, list[str]]] = {}
            for (i, (_, turns)), done in zip(waiting.items(), replied, strict=True):
                if done is None:  # too long for the model's memory: it ends here, the replies so far count
                    continue
                played[i] = done
                if turns:
                    further[i] = done.then(user(turns[0])), turns[1:]
            waiting, step = further, step + 1
        return played

    def attempt(
        self, attacks: Sequence[Conversation], split: str, *, seed: int | None = None
    ) -> list[Attempt]:
        """Play and mark: one attempt an attack, in order."""
        played = self.play(attacks, seed=seed)
        return [_mark(attack, done, split) for attack, done in zip(attacks, played, strict=True)]

    def insist(
        self, attacks: Sequence[Conversation], first: Sequence[Attempt], split: str, *, tries: int, seed: int
    ) -> list[Attempt]:
        """Each attack whose `first` attempt held, `tries` times more at temperature 1.

        Returns: in order, the first of an attack's attempts that leaked, else its `first`.
        """
        best = list(first)
        held = [i for i, attempt in enumerate(best) if attempt.leaked is False]
        sent = [attacks[i] for i in held for _ in range(tries)]
        again = self.attempt(sent, split, seed=seed) if sent else []
        for place, i in enumerate(held):
            mine = again[place * tries : (place + 1) * tries]
            best[i] = next((attempt for attempt in mine if attempt.leaked), best[i])
        return best

    def confirm(self, attacks: Sequence[Conversation], *, tries: int, seed: int) -> list[int]:
        """How many of `tries` re-runs at temperature 1 leak, for each attack."""
        repeated = [attack for attack in attacks for _ in range(tries)]
        marks = [bool(a.leaked) for a in self.attempt(repeated, "", seed=seed)]
        return [sum(marks[i * tries : (i + 1) * tries]) for i in range(len(attacks))]


def as_prompt(attack: Conversation, played: Conversation) -> Conversation:
    """`attack` as a prompt to learn from: one of several turns up to the reply that leaked (or the last)."""
    if not turns_left(attack):
        return attack
    own = len(attack.messages)
    replies = [i for i in range(own, len(played.messages)) if played.messages[i].role == "assistant"]
    leaks = (i for i in replies if grade(attack.meta, text_of(played.messages[i])).leaked)
    stop = next(leaks, replies[-1] if replies else own)
    meta = {key: value for key, value in attack.meta.items() if key != "turns"}
    return played.model_copy(update={"messages": played.messages[:stop], "meta": meta})


def _mark(attack: Conversation, played: Conversation | None, split: str) -> Attempt:
    """An attack of another kind (a person's, a search's) may bring a style that is none here, or no truth:
    then it has no mark."""
    meta = attack.meta
    name = str(meta.get("style", ""))
    own = len(attack.messages) - (attack.messages[-1].role == "assistant")
    said = [] if played is None else [text_of(m) for m in played.messages[own:] if m.role == "assistant"]
    reply = " ".join(said)
    keys = list(meta.get("keys", ()))
    mark = grade({"kind": "hazard", "need": 1, **meta, "keys": keys}, reply)
    scored = played is not None and bool(keys)
    return Attempt(
        style=name,
        sealed=name in STYLES and STYLES[name].sealed,
        split=split,
        category=str(meta.get("category", "")),
        entity=str(meta.get("entity", "")),
        conversation=played or attack,
        reply=reply,
        leaked=mark.leaked if scored else None,
        refused=mark.refused,
        score=count_keys(keys, reply) / max(len(keys), 1),
    )
