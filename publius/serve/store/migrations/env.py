"""Run by Alembic: the steps, on the connection and in the transaction that `migrate` opened."""

from __future__ import annotations

from alembic import context

from publius.serve.store.tables import metadata

__all__ = []

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
