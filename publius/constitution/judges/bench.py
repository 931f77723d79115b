"""The judge that a config and the checkpoints of a stage make together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from publius.constitution.judges.config import JudgeConfig
from publius.constitution.judges.engine import EngineJudge
from publius.constitution.judges.judgement import Judge
from publius.constitution.judges.panel import Panel
from publius.constitution.judges.remote import RemoteJudge
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.inference.remote import RemoteModel, RemoteStats
from publius.model.checkpoint import Checkpoint

__all__ = ["Bench", "check_seats", "seated"]


class Bench(NamedTuple):
    """A judge, and the remote models it asks."""

    judge: Judge
    remote: tuple[RemoteModel, ...] = ()

    def stats(self) -> RemoteStats | None:
        """What asking remote models took, all together; None without any."""
        if not self.remote:
            return None
        each = [model.stats() for model in self.remote]
        return RemoteStats(*(sum(column) for column in zip(*each, strict=True)))


@contextmanager
def seated(
    config: JudgeConfig, checkpoints: Sequence[Checkpoint], others: Sequence[Judge] = ()
) -> Iterator[Bench]:
    """The judge of `config`: a checkpoint, a remote model or another judge alone, or a panel of all of them.

    Raises:
        UserError: when there is none, or a remote one cannot be set up.
    """
    _need_one(config, [*checkpoints, *others])
    with ExitStack() as stack:
        models = tuple(stack.enter_context(RemoteModel(own)) for own in config.remote)
        judges: list[Judge] = [_on_engine(config, checkpoint) for checkpoint in checkpoints]
        judges += others
        judges += [RemoteJudge(m, config, own) for m, own in zip(models, config.remote, strict=True)]
        yield Bench(judges[0] if len(judges) == 1 else Panel(judges, config.panel), models)


def check_seats(config: JudgeConfig, local: Sequence[object]) -> None:
    """Raise what `seated` would raise of remote models and missing judges, before any compute.

    Args:
        local: the checkpoints that will judge.
    """
    _need_one(config, local)
    for own in config.remote:
        RemoteModel(own).close()


def _need_one(config: JudgeConfig, local: Sequence[object]) -> None:
    if not local and not config.remote:
        raise UserError(
            "there is no judge",
            where="judge",
            fix="give a checkpoint as `judge`, or name one in `remote`",
        )


def _on_engine(config: JudgeConfig, checkpoint: Checkpoint) -> EngineJudge:
    device = str(pick_device(config.device))
    # in the weights' own precision: bf16 rounds two close answers to a tie
    engine = Engine(checkpoint.load(device=device), checkpoint.tokenizer(), max_batch=config.max_batch)
    return EngineJudge.from_config(engine, checkpoint.tokenizer(), config)
