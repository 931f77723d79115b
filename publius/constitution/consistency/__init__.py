"""Judges of one reply: does it keep to a principle? On our engine, behind an address, or a panel of both."""

from publius.constitution.consistency.bench import consistency_judge
from publius.constitution.consistency.engine import EngineConsistencyJudge
from publius.constitution.consistency.panel import ConsistencyPanel
from publius.constitution.consistency.question import (
    Consistency,
    ConsistencyConfig,
    ConsistencyJudge,
    ReplyCase,
    Unread,
)
from publius.constitution.consistency.remote import RemoteConsistencyJudge

__all__ = [
    "Consistency",
    "ConsistencyConfig",
    "ConsistencyJudge",
    "ConsistencyPanel",
    "EngineConsistencyJudge",
    "RemoteConsistencyJudge",
    "ReplyCase",
    "Unread",
    "consistency_judge",
]
