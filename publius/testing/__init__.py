"""Fakes for tests, ours and users': a byte tokenizer, a two-layer model, an engine, conversations; and a real
server in a process of its own."""

from publius.testing.fakes import (
    ScriptedEngine,
    byte_tokenizer,
    fake_conversations,
    fake_engine,
    tiny_config,
    tiny_model,
)
from publius.testing.server import Answer, RunningServer, served, write_tiny_checkpoint

__all__ = [
    "Answer",
    "RunningServer",
    "ScriptedEngine",
    "byte_tokenizer",
    "fake_conversations",
    "fake_engine",
    "served",
    "tiny_config",
    "tiny_model",
    "write_tiny_checkpoint",
]
