"""Judges: one interface over our engine, remote models and panels of both."""

from publius.constitution.judges.bench import Bench, seated
from publius.constitution.judges.config import JudgeConfig, RemoteJudgeConfig
from publius.constitution.judges.engine import EngineJudge
from publius.constitution.judges.judgement import (
    Abstention,
    Judge,
    Judgement,
    Pair,
    ParseFailure,
    Ruling,
    Skipped,
    clamped,
    combine,
)
from publius.constitution.judges.panel import Panel
from publius.constitution.judges.remote import RemoteJudge

__all__ = [
    "Abstention",
    "Bench",
    "EngineJudge",
    "Judge",
    "JudgeConfig",
    "Judgement",
    "Pair",
    "Panel",
    "ParseFailure",
    "RemoteJudge",
    "RemoteJudgeConfig",
    "Ruling",
    "Skipped",
    "clamped",
    "combine",
    "seated",
]
