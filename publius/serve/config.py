"""How a server is run."""

from __future__ import annotations

from pydantic import Field

from publius.core.config import Config

__all__ = ["ServeConfig"]


class ServeConfig(Config):
    """Settings of one server process."""

    host: str = "127.0.0.1"
    port: int = 8080
    store: str = ""
    """URL of the store; empty keeps an SQLite file in the home folder."""
    unreleased: bool = False
    """Models without a decision of the gate are served, on this machine only."""
    gate_policy: str = ""
    """The only release policy whose decisions count: a YAML file or one that ships; empty takes any that a
    trusted key signed under."""
    audit: str = ""
    """The audit log's file: a signed record of every exchange, with digests of what was said; empty writes
    none."""
    strict_versions: bool = False
    """Refuse sampling parameters under API version 2026-10-21, as the vendor's own API does."""
    rows: int = 64
    """Replies written at once by each model."""
    most_waiting: int = 512
    """Requests beyond that which may wait; more are told 529."""
    timeout: float = 600.0
    """Seconds after which a reply is ended."""
    drain: float = 20.0
    """Seconds that replies under way have to end in when the server is asked to stop."""
    body_bytes: int = 32 << 20
    batch_bytes: int = 256 << 20
    batch_rows: int = 32
    """Requests of batches under way at once."""
    log_content: bool = False
    """Write what is asked and replied to the log."""
    aws_keys: dict[str, str] = Field(default_factory=dict)
    """Access-key ids of AWS clients, and their secrets."""
    aws_unverified: bool = False
    """Let SigV4 signatures of keys not in `aws_keys` pass unverified."""
    compare_prompts: str = ""
    """A JSONL file of prompts for the compare page."""
