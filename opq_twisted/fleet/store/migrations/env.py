"""Alembic runs this for each migration."""

from alembic import context

from opq_twisted.fleet.store.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # Both databases undo changes of tables with their transaction, which the caller commits.
    transactional_ddl=True,
)
context.run_migrations()
