"""The judge of one reply that a config, a stage's engine and remote models make together."""

from __future__ import annotations

from contextlib import ExitStack

from publius.constitution.consistency.engine import EngineConsistencyJudge
from publius.constitution.consistency.panel import ConsistencyPanel
from publius.constitution.consistency.question import ConsistencyConfig, ConsistencyJudge
from publius.constitution.consistency.remote import RemoteConsistencyJudge
from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.inference.remote import RemoteModel

__all__ = ["consistency_judge"]


def consistency_judge(
    config: ConsistencyConfig, given: Engine | ConsistencyJudge | None, stack: ExitStack
) -> ConsistencyJudge:
    """An engine's model, a judge of one's own, remote models, or a panel of them.

    Args:
        given: what the stage was given; None leaves the remote models of `config`.
        stack: closes the remote models.

    Raises:
        UserError: when there is no judge, or a remote one cannot be set up.
    """
    members: list[ConsistencyJudge] = []
    if isinstance(given, Engine):
        members.append(EngineConsistencyJudge(given, given.tokenizer, config))
    elif given is not None:
        members.append(given)
    for own in config.remote:
        members.append(RemoteConsistencyJudge(stack.enter_context(RemoteModel(own)), config, own))
    if not members:
        raise UserError(
            "there is no judge", where="judge", fix="give a checkpoint as `judge`, or name one in `remote`"
        )
    return members[0] if len(members) == 1 else ConsistencyPanel(members)
