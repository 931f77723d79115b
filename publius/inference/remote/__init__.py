"""Models behind an HTTP address: two dialects, limits, and a cache that makes asking resumable."""

from publius.inference.remote.assistant import RemoteAssistant
from publius.inference.remote.cache import AnswerCache, default_cache
from publius.inference.remote.config import RemoteConfig
from publius.inference.remote.dialect import Answer, Question, Token
from publius.inference.remote.model import RemoteModel, RemoteStats, Unanswered

__all__ = [
    "Answer",
    "AnswerCache",
    "Question",
    "RemoteAssistant",
    "RemoteConfig",
    "RemoteModel",
    "RemoteStats",
    "Token",
    "Unanswered",
    "default_cache",
]
