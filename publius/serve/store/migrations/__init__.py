"""How a store gets from one version of Publius to the next; Alembic runs what is here."""
