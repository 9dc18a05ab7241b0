"""Makes the first tables."""

from alembic import op
from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, Text, column

from opq_twisted.fleet.store.column_types import Flag, Hexadecimal, Number, Time, text

revision = "0001"
down_revision = None

_APPEND_ONLY = {
    "sqlite": (
        """
        CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'rows of the audit cannot be changed'); END
        """,
        """
        CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
        WHEN old.at > CAST(strftime('%s', 'now') AS INTEGER) - 730 * 86400
        BEGIN SELECT RAISE(ABORT, 'rows of the audit are kept for two years'); END
        """,
    ),
    "postgresql": (
        """
        CREATE FUNCTION opq_audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' AND old.at <= extract(epoch FROM now()) - 730 * 86400 THEN
                RETURN old;
            END IF;
            RAISE EXCEPTION 'rows of the audit cannot be changed, and are kept for two years';
        END $$
        """,
        """
        CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit
        FOR EACH ROW EXECUTE FUNCTION opq_audit_is_kept()
        """,
        """
        CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION opq_audit_is_kept()
        """,
    ),
}


def upgrade() -> None:
    """Make the tables, and protect the audit."""
    op.create_table(
        "box",
        Column("id", Number, primary_key=True),
        Column("key_id", text(32), nullable=False, unique=True),
        Column("pubkey", LargeBinary),
        Column("box_id", Number, nullable=False),
        Column("state", text(16), nullable=False),
        Column("channel", text(32)),
        Column("release", Number),
        Column("agent", text(32)),
        Column("arch", text(32)),
        Column("python", text(32)),
        Column("install", text(32)),
        Column("waiting", text(32)),
        Column("root", Number),
        Column("snapshot", Number),
        Column("last_good", Number),
        Column("refused", Text),
        Column("boot", text(32)),
        Column("boots", Text),
        Column("seq", Number, nullable=False),
        Column("digest", LargeBinary),
        Column("first_seen", Time),
        Column("last_seen", Time),
        Column("cloned_at", Time),
        Column("replaced_by", Number, ForeignKey("box.id", ondelete="SET NULL"), index=True),
        Column("label", text(64)),
        Index("ix_box_channel_release", "channel", "release"),
        Index("ix_box_channel_last_seen", "channel", "last_seen"),
        Index("ix_box_box_id", "box_id"),
        sqlite_strict=True,
    )
    op.create_table(
        "attempt",
        Column("box", Number, ForeignKey("box.id", ondelete="CASCADE"), primary_key=True),
        Column("attempt_id", Hexadecimal, primary_key=True),
        Column("release", Number),
        Column("from_release", Number),
        Column("began", Number, nullable=False),
        Column("took", Number, nullable=False),
        Column("automatic", Flag, nullable=False),
        Column("stage", text(32), nullable=False),
        Column("outcome", text(32)),
        Column("reason", text(32)),
        Column("inferred", Flag, nullable=False),
        Column("tries", Number, nullable=False),
        Column("fetched", Number),
        Column("size", Number),
        Column("received", Time, nullable=False),
        Column("ended_at", Time),
        Index("ix_attempt_release_outcome_reason", "release", "outcome", "reason"),
        Index(
            "ix_attempt_open",
            "received",
            sqlite_where=column("outcome").is_(None),
            postgresql_where=column("outcome").is_(None),
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollout",
        Column("id", Number, primary_key=True),
        Column("channel", text(32), nullable=False),
        Column("release", Number, nullable=False),
        Column("sha256", text(64)),
        Column("ceiling_bp", Integer, nullable=False),
        Column("bp", Integer, nullable=False),
        Column("state", text(16), nullable=False),
        Column("critical", Flag, nullable=False),
        Column("was_held", Flag, nullable=False),
        Column("announced_at", Time, nullable=False),
        Column("since", Time, nullable=False),
        Index("ix_rollout_channel_release", "channel", "release", unique=True),
        sqlite_strict=True,
    )
    op.create_table(
        "audit",
        Column("id", Number, primary_key=True),
        Column("at", Time, nullable=False),
        Column("who", text(64), nullable=False),
        Column("what", text(32), nullable=False),
        Column("channel", text(32)),
        Column("release", Number),
        Column("box", Number),
        Column("change", Text, nullable=False),
        Column("because", Text, nullable=False),
        Index("ix_audit_at", "at"),
        sqlite_strict=True,
    )
    op.create_table(
        "day",
        Column("day", Integer, primary_key=True),
        Column("channel", text(32), primary_key=True),
        Column("release", Number, primary_key=True, autoincrement=False),
        Column("boxes", Integer, nullable=False),
        Column("updated", Integer, nullable=False),
        Column("returned", Integer, nullable=False),
        Column("failed", Integer, nullable=False),
        Column("silent", Integer, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    for command in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(command)
