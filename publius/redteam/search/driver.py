"""The driver: plays many attacks in lockstep, so that hundreds cost as many model calls as the longest has
moves.

At each step all conversations for the target go out in one batch, all that attackers ask their own model in
another, and the referee grades all replies at once. Every reply of the target counts against the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.redteam.attacker import Goal, Grade, Play, Referee, Seen, Send, Target, Write

__all__ = ["Driver", "Exchange", "Outcome", "rough_tokens"]


class Exchange(NamedTuple):
    """What was sent, what came back (None: nothing), and its grade."""

    sent: Conversation
    played: Conversation | None
    grade: Grade


class Outcome(NamedTuple):
    """What one attack came to.

    Args:
        best: the exchange that reached the goal, else the one that came nearest; one without a label only
            where no exchange has one. None when nothing was sent.
        succeeded: whether it reached the goal.
        replies: of the target.
        unscored: of these, those the referee could not label.
        tokens: read and written by the target.
        cut: whether it had more to send and found no room.
    """

    best: Exchange | None
    succeeded: bool
    replies: int
    unscored: int
    tokens: int
    cut: bool = False


def rough_tokens(conversation: Conversation) -> int:
    """About how many tokens a conversation is, for models whose tokenizer nobody has: a token is four
    bytes."""
    said = [conversation.system or "", *(m.model_dump_json() for m in conversation.messages)]
    return max(1, sum(len(text.encode()) for text in said) // 4)


class Driver:
    """Plays attacks on one target.

    Args:
        target: the model under attack.
        referee: says what its replies are.
        writer: the attackers' own model; without one, what they ask it stays unanswered.
        judges: fingerprints of the weights that the referee asks, where its own is of more than those.
        tokens: of a conversation, as the target counts.

    Raises:
        UserError: when the attackers' model is the referee's too: it would mark its own work.
    """

    def __init__(
        self,
        target: Target,
        referee: Referee,
        writer: Target | None = None,
        *,
        judges: Sequence[str] = (),
        tokens: Callable[[Conversation], int] = rough_tokens,
    ) -> None:
        if writer is not None and writer.fingerprint in (referee.fingerprint, *judges):
            raise UserError(
                f"the attacker's model and the judge are the same: {writer.name}",
                where="redteam",
                fix="give the attacker or the judge another model: nobody marks their own work",
            )
        self.target, self.referee, self.writer = target, referee, writer
        self._tokens = tokens

    def play(self, attacks: Sequence[tuple[Goal, Play]], *, room: int, seed: int) -> list[Outcome]:
        """Play all of them until each has reached its goal or has no more ideas, in order.

        Args:
            room: most replies of the target; those that find none left end where they are.
            seed: of what is drawn at temperature 1.

        Raises:
            UserError: when the target cannot be reached.
        """
        games = [_Game(goal, play) for goal, play in attacks]
        step = 0
        while going := [game for game in games if game.move is not None]:
            sending = [game for game in going if isinstance(game.move, Send)]
            for game in sending[room:]:
                game.cut = True
                game.stop()
            sending = sending[:room]
            room -= len(sending)
            writing = [game for game in going if isinstance(game.move, Write)]
            self._write(writing, seed + step)
            self._send(sending, seed + step)
            step += 1
        return [game.outcome() for game in games]

    def ask(self, goals: Sequence[Goal], prompts: Sequence[Conversation], *, seed: int) -> list[Exchange]:
        """One reply to each prompt, graded."""
        if not prompts:
            return []
        played = self.target.replies(prompts, seed=seed)
        grades = self.referee.grades(goals, played)
        return [Exchange(*each) for each in zip(prompts, played, grades, strict=True)]

    def cost(self, exchange: Exchange) -> int:
        """Tokens of the prompt, and of the reply: a conversation is read once and its last message
        written."""
        return self._tokens(exchange.played if exchange.played is not None else exchange.sent)

    def _send(self, games: Sequence[_Game], seed: int) -> None:
        moves = [game.move.conversation for game in games if game.move is not None]
        exchanges = self.ask([game.goal for game in games], moves, seed=seed)
        for game, exchange in zip(games, exchanges, strict=True):
            game.seen(exchange, self.cost(exchange))

    def _write(self, games: Sequence[_Game], seed: int) -> None:
        moves = [game.move.conversation for game in games if game.move is not None]
        written: Sequence[Conversation | None] = [None] * len(moves)
        if moves and self.writer is not None:
            written = self.writer.replies(moves, seed=seed)
        for game, text in zip(games, written, strict=True):
            game.go_on(Seen(text))


class _Game:
    """One attack in progress."""

    def __init__(self, goal: Goal, play: Play) -> None:
        self.goal, self._play = goal, play
        self.move: Send | Write | None = next(play, None)
        self.cut = False
        self._best: Exchange | None = None
        self._succeeded = False
        self._replies = self._unscored = self._tokens = 0

    def go_on(self, seen: Seen) -> None:
        try:
            self.move = self._play.send(seen)
        except StopIteration:
            self.move = None

    def stop(self) -> None:
        self._play.close()
        self.move = None

    def seen(self, exchange: Exchange, tokens: int) -> None:
        self._replies += 1
        self._tokens += tokens
        self._unscored += exchange.grade.label is None
        if self._best is None or _rank(exchange) > _rank(self._best):
            self._best = exchange
        seen = Seen(exchange.played, exchange.grade)
        if seen.succeeds(self.goal):
            self._best, self._succeeded = exchange, True
            self.stop()
        else:
            self.go_on(seen)

    def outcome(self) -> Outcome:
        return Outcome(self._best, self._succeeded, self._replies, self._unscored, self._tokens, self.cut)


def _rank(exchange: Exchange) -> tuple[bool, float]:
    return exchange.grade.label is not None, exchange.grade.score
