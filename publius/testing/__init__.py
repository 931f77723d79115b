"""Fakes for tests, ours and users': a byte tokenizer, a two-layer model, an engine, conversations."""

from publius.testing.fakes import (
    ScriptedEngine,
    byte_tokenizer,
    fake_conversations,
    fake_engine,
    tiny_config,
    tiny_model,
)

__all__ = [
    "ScriptedEngine",
    "byte_tokenizer",
    "fake_conversations",
    "fake_engine",
    "tiny_config",
    "tiny_model",
]
