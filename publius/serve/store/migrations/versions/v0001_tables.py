"""Settings, keys and their usage, batches, human comparisons and findings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0001"
down_revision = None

# Written out, not taken from `tables`: those move on, this step does not.
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table."""
    _keys()
    _batches()
    _labels()


def _keys() -> None:
    op.create_table(
        "settings",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
        sa.Column("requests_per_minute", _BIG),
        sa.Column("input_tokens_per_minute", _BIG),
        sa.Column("output_tokens_per_minute", _BIG),
        sa.Column("budget_tokens", _BIG),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
    )
    in_use = sa.text("revoked IS NULL")
    op.create_index(
        "ix_keys_name_in_use", "keys", ["name"], unique=True, sqlite_where=in_use, postgresql_where=in_use
    )
    op.create_table(
        "usage",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("requests", _BIG, nullable=False),
        sa.Column("input", _BIG, nullable=False),
        sa.Column("cache_write", _BIG, nullable=False),
        sa.Column("cache_read", _BIG, nullable=False),
        sa.Column("output", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "day", name="pk_usage"),
    )


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("number", _BIG, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("total", _BIG, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("cancel_initiated", sa.Double),
        sa.Column("ended", sa.Double),
        sa.UniqueConstraint("id", name="uq_batches_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "batch_items",
        sa.Column("batch", _BIG, nullable=False),
        sa.Column("position", _BIG, nullable=False),
        sa.Column("custom_id", sa.Text, nullable=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.PrimaryKeyConstraint("batch", "position", name="pk_batch_items"),
        sa.UniqueConstraint("batch", "custom_id", name="uq_batch_items_batch_custom_id"),
        sa.ForeignKeyConstraint(
            ["batch"], ["batches.number"], ondelete="CASCADE", name="fk_batch_items_batch"
        ),
    )
    op.create_index("ix_batch_items_waiting", "batch_items", ["batch", "state", "position"])


def _labels() -> None:
    op.create_table(
        "pairs",
        sa.Column("number", _BIG, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("one", sa.Text, nullable=False),
        sa.Column("other", sa.Text, nullable=False),
        sa.Column("one_model", sa.Text, nullable=False),
        sa.Column("other_model", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("id", name="uq_pairs_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "comparisons",
        sa.Column("number", _BIG, primary_key=True, autoincrement=True),
        sa.Column("pair", _BIG, nullable=False),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("swapped", sa.Boolean, nullable=False),
        sa.Column("better", sa.Text, nullable=False),
        sa.Column("harm_left", sa.Integer),
        sa.Column("harm_right", sa.Integer),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("pair", "rater", name="uq_comparisons_pair_rater"),
        sa.ForeignKeyConstraint(["pair"], ["pairs.number"], ondelete="CASCADE", name="fk_comparisons_pair"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "findings",
        sa.Column("number", _BIG, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("attacker", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("worked", sa.Boolean, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("id", name="uq_findings_id"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop them all, with what is in them."""
    for table in ("findings", "comparisons", "pairs", "batch_items", "batches", "usage", "keys", "settings"):
        op.drop_table(table)
