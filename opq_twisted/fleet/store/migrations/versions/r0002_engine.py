"""Adds the tables of the engine, and the messages for the webhook."""

from alembic import op
from sqlalchemy import Column, Integer, Text

from opq_twisted.fleet.store.column_types import LARGEST_SMALL, Number, Time, text

revision = "0002"
down_revision = "0001"


#: Columns of an attempt that need no more than 32 bits.
_NARROW = ("took", "tries", "fetched", "size")


def upgrade() -> None:
    """Add columns, an index and three tables; make the attempts smaller in PostgreSQL."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(_narrow_attempts())
    op.add_column("box", Column("due", Time))
    op.add_column("rollout", Column("acknowledged_at", Time))
    op.add_column("rollout", Column("sentence", Text))
    op.create_index("ix_audit_release", "audit", ["release"])
    op.create_table(
        "engine",
        Column("id", Number, primary_key=True),
        Column("holder", text(32), nullable=False),
        Column("ran_at", Time, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "outage",
        Column("id", Number, primary_key=True),
        Column("kind", text(16), nullable=False),
        Column("channel", text(32)),
        Column("began", Time, nullable=False),
        Column("ended", Time),
        sqlite_strict=True,
    )
    op.create_table(
        "notice",
        Column("id", Number, primary_key=True),
        Column("at", Time, nullable=False),
        Column("body", Text, nullable=False),
        Column("tries", Integer, nullable=False),
        Column("next_at", Time, nullable=False),
        sqlite_strict=True,
    )


def _narrow_attempts() -> str:
    """Return one statement for all columns: each statement writes the whole table anew."""
    columns = (
        f"ALTER {name} TYPE integer USING CASE WHEN {name} > {LARGEST_SMALL} "
        f"THEN {LARGEST_SMALL} ELSE {name} END"
        for name in _NARROW
    )
    return f"ALTER TABLE attempt ALTER box TYPE integer, {', '.join(columns)}"
