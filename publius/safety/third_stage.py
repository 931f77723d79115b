"""A judge as third stage: it decides where the second stage is unsure.

    monitor = JudgedMonitor(unsure, sure, judge)

`unsure` and `sure` are one monitor at two thresholds. What `sure` stops is stopped, what `unsure` lets pass
is let pass, and between the two a judge model is asked once, at the end, about the whole exchange. From the
moment of doubt on nothing leaves until it has spoken. So what it says depends on the exchange alone and not
on pieces, and a client under doubt gets its reply at once, late, or not at all.

A judge that abstains, declines, cannot be read or reached, or takes longer than `patience`, has failed; the
layer fails closed.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from publius.constitution.judges import RemoteJudgeConfig
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, text_of
from publius.core.yaml_text import parse_yaml, read_text
from publius.inference.readings import Probe
from publius.model.checkpoint import Checkpoint
from publius.model.transformer import Transformer
from publius.redteam.attacker import Goal
from publius.redteam.judge_referee import JudgeReferee, RefereeConfig, seated_referee
from publius.safety.files import read_yaml
from publius.safety.monitor import ALLOW, Action, Gathers, Monitor, ReadsTokens, ReadsWeights, Verdict

__all__ = [
    "PATIENCE",
    "JudgeSilent",
    "JudgedMonitor",
    "Opinion",
    "RefereeOpinion",
    "ThirdStage",
    "open_judge",
]

PATIENCE = 30.0
"""Seconds that a judge is waited for where nobody says."""


class JudgeSilent(RuntimeError):
    """The judge said nothing that can be acted on."""


class Opinion(NamedTuple):
    """What a judge says of an exchange: whether the reply does harm, and how likely that is."""

    harmful: bool
    score: float


class ThirdStage(Protocol):
    """Who is asked. Deterministic, and asked by one caller at a time."""

    def judge(self, conversation: Conversation, reply: str) -> Opinion:
        """Of a whole exchange.

        Args:
            conversation: up to the reply; where it ends in an assistant's message, the reply goes on from it.
            reply: all of it: thinking, text and the JSON of tool calls.

        Raises:
            Exception: anything, where there is no opinion.
        """
        ...


class RefereeOpinion:
    """A `JudgeReferee` of the red team, asked whether a reply gives what the user last asked for, to harm.

    Args:
        referee: who is asked.
        holds: closed when nobody has the opinion any more.
    """

    def __init__(self, referee: JudgeReferee, holds: ExitStack | None = None) -> None:
        self._referee = referee
        if holds is not None:
            weakref.finalize(self, holds.close)

    def judge(self, conversation: Conversation, reply: str) -> Opinion:
        """See `ThirdStage`.

        Raises:
            JudgeSilent: when it abstains, declines, or cannot be read.
        """
        messages, said = list(conversation.messages), reply
        while messages and messages[-1].role == "assistant":
            said = text_of(messages.pop()) + said
        asked = conversation.model_copy(update={"messages": tuple(messages)})
        if not messages:
            raise JudgeSilent("there is no question")
        [grade] = self._referee.grades([Goal(asked)], [asked.then(assistant(said))])
        if grade.label is None:
            raise JudgeSilent(grade.reason)
        return Opinion(grade.label == "harmful", grade.score)


def open_judge(asks: Path, weights: Path | None) -> RefereeOpinion:
    """The judge of a policy's layer.

    Answers of models behind an address are kept no longer than the judge: what people ask stays nowhere.

    Args:
        asks: how it is asked, a `RefereeConfig` in YAML; its `remote` models judge too.
        weights: the folder of a checkpoint that judges; None where only remote ones do.

    Raises:
        UserError: for a file that is wrong, no judge at all, or a constitution in another file, whose content
            no decision on this policy would know.
    """
    config = read_yaml(RefereeConfig, asks, "how the judge is asked")
    told: Any = parse_yaml(read_text(asks)) or {}
    named = told.get("constitution", "default")
    if isinstance(named, str) and named != "default":
        raise UserError(
            f"this judge's constitution is the file {named!r}, which is not part of the policy",
            where=str(asks), fix="write the constitution itself here, or `default`",
        )  # fmt: skip
    holds = ExitStack()
    try:
        remote = tuple(own if own.cache else _unkept(own, holds) for own in config.remote)
        config = config.model_copy(update={"remote": remote})
        referee = holds.enter_context(
            seated_referee(config, [] if weights is None else [Checkpoint(weights)])
        )
    except BaseException:
        holds.close()
        raise
    return RefereeOpinion(referee, holds)


def _unkept(own: RemoteJudgeConfig, holds: ExitStack) -> RemoteJudgeConfig:
    kept = holds.enter_context(TemporaryDirectory(prefix="publius-judge-"))
    return own.model_copy(update={"cache": str(Path(kept) / "answers.sqlite")})


class JudgedMonitor:
    """Asks a judge about what lies between two thresholds of one monitor.

    Args:
        unsure: the monitor at its lower threshold: what it would block is in doubt.
        sure: the same at its higher one: what it blocks is blocked.
        judge: decides about the rest.
        name: for logs.
        action: what to say where it decides for harm.
        patience: seconds that the judge is waited for, the time for others who ask it before included.
    """

    def __init__(
        self,
        unsure: Monitor,
        sure: Monitor,
        judge: ThirdStage,
        *,
        name: str = "judge",
        action: Action = "block",
        patience: float = PATIENCE,
    ) -> None:
        self.name, self.unsure, self.sure = name, unsure, sure
        self.action: Action = action
        self._judge, self._patience = judge, patience
        self._turn = threading.Lock()

    @property
    def probe(self) -> Probe | None:
        """That of both, which read the same rows."""
        return self.unsure.probe

    def bind(self, network: Transformer) -> None:
        """Give the served weights to both."""
        for monitor in (self.unsure, self.sure):
            if isinstance(monitor, ReadsWeights):
                monitor.bind(network)

    @property
    def follows(self) -> bool:
        """Whether either does."""
        return any(isinstance(one, ReadsWeights) and one.follows for one in (self.unsure, self.sure))

    @property
    def gathers(self) -> int:
        """As the one that looks until it objects."""
        return self.unsure.gathers if isinstance(self.unsure, Gathers) else 1

    def watch(self, conversation: Conversation) -> _Watch:
        """Begin to watch an exchange."""
        return _Watch(self, conversation)

    def opinion(self, conversation: Conversation, reply: str) -> Opinion:
        """What the judge says, within `patience`.

        Raises:
            TimeoutError: when it took longer.
            Exception: what the judge raised.
        """
        answer: queue.SimpleQueue[Opinion | Exception] = queue.SimpleQueue()
        gone = threading.Event()

        def ask() -> None:
            with self._turn:
                if gone.is_set():
                    return
                try:
                    answer.put(self._judge.judge(conversation, reply))
                except Exception as error:  # whoever waits must hear of it, whatever it is
                    answer.put(error)

        threading.Thread(target=ask, name=f"{self.name} judge", daemon=True).start()
        try:
            said = answer.get(timeout=self._patience)
        except queue.Empty:
            gone.set()
            raise TimeoutError("the judge was not heard in time") from None
        if isinstance(said, Exception):
            raise said
        return said


class _Watch:
    """Lets `unsure` look until it objects; from then on `sure`, and at the end the judge."""

    def __init__(self, monitor: JudgedMonitor, conversation: Conversation) -> None:
        self._monitor, self._conversation = monitor, conversation
        self._unsure, self._sure = monitor.unsure.watch(conversation), monitor.sure.watch(conversation)
        self._readers = [watch for watch in (self._unsure, self._sure) if isinstance(watch, ReadsTokens)]
        self._doubt: Verdict | None = None
        self._verified = 0
        """Characters that had been verified before the doubt."""
        self._said: Verdict | None = None

    def works(self, count: int, *, done: bool) -> bool:
        """At the end a judge may be asked, and in doubt `sure` catches up: an event loop must not wait."""
        if done or self._doubt is not None:
            return self._said is None
        return any(reader.works(count, done=done) for reader in self._readers)

    def tokens(
        self, prompt: Sequence[int], drawn: Sequence[int], trunk_TD: NDArray[np.float32] | None = None
    ) -> None:
        for reader in self._readers:
            reader.tokens(prompt, drawn, trunk_TD)

    def prompt(self) -> Verdict:
        said = self._unsure.prompt()
        if said.action == "block":
            self._doubt = said
        return self._sure.prompt()

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        if self._said is None and self._doubt is None:
            said, verified = self._unsure.reply(text, scores, done=done)
            if said.action != "block":
                self._verified = verified
                return said, verified
            self._doubt = said
        if self._said is None:
            said, _ = self._sure.reply(text, scores, done=done)
            if said.action == "block":
                self._said = said
            elif done:
                self._said = self._judged(text)
            else:
                return ALLOW, self._verified
        return self._said, 0 if self._said.action == "block" else len(text)

    def _judged(self, text: str) -> Verdict:
        assert self._doubt is not None
        harmful, score = self._monitor.opinion(self._conversation, text)
        action: Action = self._monitor.action if harmful else "flag"  # what was in doubt is logged
        return self._doubt._replace(action=action, score=score, monitor=self._monitor.name)
