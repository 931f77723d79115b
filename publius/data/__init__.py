"""Text and conversations in, clean splits out. Start with `types.py`, then `artifacts.py`.

`refine` (which loads datatrove) and `pocket` are imported by their own names.
"""

from publius.data.artifacts import (
    Conversations,
    Corpus,
    Preferences,
    Prompts,
    write_conversations,
    write_corpus,
    write_preferences,
    write_prompts,
)
from publius.data.ingest import (
    IngestConfig,
    IngestPreferencesConfig,
    IngestTextConfig,
    ingest_chats,
    ingest_preferences,
    ingest_prompts,
    ingest_text,
)
from publius.data.mixture import MixConfig, mix
from publius.data.sources import read_conversations, read_documents, read_preferences, read_prompts
from publius.data.types import Document, Preference

__all__ = [
    "Conversations",
    "Corpus",
    "Document",
    "IngestConfig",
    "IngestPreferencesConfig",
    "IngestTextConfig",
    "MixConfig",
    "Preference",
    "Preferences",
    "Prompts",
    "ingest_chats",
    "ingest_preferences",
    "ingest_prompts",
    "ingest_text",
    "mix",
    "read_conversations",
    "read_documents",
    "read_preferences",
    "read_prompts",
    "write_conversations",
    "write_corpus",
    "write_preferences",
    "write_prompts",
]
