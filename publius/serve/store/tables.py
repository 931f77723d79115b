"""The tables, as the newest migration leaves them; a test compares the two.

Times are Unix seconds. What is only ever read whole (params, results, conversations) is JSON in a text
column, escaped to ASCII, so that any string a client sends can be stored in either database.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "BIG",
    "batch_items",
    "batches",
    "comparisons",
    "findings",
    "keys",
    "metadata",
    "pairs",
    "settings",
    "usage",
]

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""64 bits in both; SQLite numbers rows by itself only under the name INTEGER."""

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),
    sa.Column("revoked", sa.Double),
    sa.Column("requests_per_minute", BIG),
    sa.Column("input_tokens_per_minute", BIG),
    sa.Column("output_tokens_per_minute", BIG),
    sa.Column("budget_tokens", BIG),
)
sa.Index(
    "ix_keys_name_in_use",
    keys.c.name,
    unique=True,
    sqlite_where=keys.c.revoked.is_(None),
    postgresql_where=keys.c.revoked.is_(None),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("requests", BIG, nullable=False),
    sa.Column("input", BIG, nullable=False),
    sa.Column("cache_write", BIG, nullable=False),
    sa.Column("cache_read", BIG, nullable=False),
    sa.Column("output", BIG, nullable=False),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("number", BIG, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("total", BIG, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("cancel_initiated", sa.Double),
    sa.Column("ended", sa.Double),
    sqlite_autoincrement=True,
)

batch_items = sa.Table(
    "batch_items",
    metadata,
    sa.Column(
        "batch",
        BIG,
        sa.ForeignKey("batches.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("position", BIG, primary_key=True, autoincrement=False),
    sa.Column("custom_id", sa.Text, nullable=False),
    sa.Column("params", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("result", sa.Text),
    sa.UniqueConstraint("batch", "custom_id"),
)
sa.Index("ix_batch_items_waiting", batch_items.c.batch, batch_items.c.state, batch_items.c.position)

pairs = sa.Table(
    "pairs",
    metadata,
    sa.Column("number", BIG, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("one", sa.Text, nullable=False),
    sa.Column("other", sa.Text, nullable=False),
    sa.Column("one_model", sa.Text, nullable=False),
    sa.Column("other_model", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)

comparisons = sa.Table(
    "comparisons",
    metadata,
    sa.Column("number", BIG, primary_key=True, autoincrement=True),
    sa.Column("pair", BIG, sa.ForeignKey("pairs.number", ondelete="CASCADE"), nullable=False),
    sa.Column("rater", sa.Text, nullable=False),
    sa.Column("swapped", sa.Boolean, nullable=False),
    sa.Column("better", sa.Text, nullable=False),
    sa.Column("harm_left", sa.Integer),
    sa.Column("harm_right", sa.Integer),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("created", sa.Double, nullable=False),
    sa.UniqueConstraint("pair", "rater"),
    sqlite_autoincrement=True,
)

findings = sa.Table(
    "findings",
    metadata,
    sa.Column("number", BIG, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("attacker", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("worked", sa.Boolean, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)
