"""The tables; times are in seconds since the epoch, by the clock of the server."""

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    column,
)

from opq_twisted.fleet.store.column_types import Flag, Hexadecimal, Number, SmallNumber, Time, text

#: The table in which Alembic notes the last migration.
VERSION_TABLE = "opq_fleet_version"

#: Names all constraints, so that a migration can name them too.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

#: One row for each key of a box.
box = Table(
    "box",
    metadata,
    Column("id", Number, primary_key=True),
    #: See `report.signature.key_id`.
    Column("key_id", text(32), nullable=False, unique=True),
    #: 32 bytes; NULL if an operator has admitted the key by its id, and it has sent no report yet.
    Column("pubkey", LargeBinary),
    #: The number in its configuration.
    Column("box_id", Number, nullable=False),
    #: See `fleet.store.states.BoxState`.
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
    #: The versions of the blocked releases, as JSON.
    Column("refused", Text),
    #: The id of the machine's start in the last report, and a list of the earlier ids, as JSON.
    Column("boot", text(32)),
    Column("boots", Text),
    #: The number of the last report, and the SHA-256 of its body.
    Column("seq", Number, nullable=False),
    Column("digest", LargeBinary),
    Column("first_seen", Time),
    Column("last_seen", Time),
    #: When two boxes last seemed to use this key; NULL if none were noticed.
    Column("cloned_at", Time),
    #: The key that has replaced this one.
    Column("replaced_by", Number, ForeignKey("box.id", ondelete="SET NULL"), index=True),
    #: A name that the operator has given.
    Column("label", text(64)),
    #: When its next report is due, as the last one said; NULL for rows of older programs.
    Column("due", Time),
    Index(None, "channel", "release"),
    Index(None, "channel", "last_seen"),
    Index(None, "box_id"),
    sqlite_strict=True,
)

#: One row for each attempt of a box.
attempt = Table(
    "attempt",
    metadata,
    Column("box", Integer, ForeignKey("box.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt_id", Hexadecimal, primary_key=True),
    Column("release", Number),
    Column("from_release", Number),
    #: By the clock of the box, which may be wrong.
    Column("began", Number, nullable=False),
    Column("took", SmallNumber, nullable=False),
    Column("automatic", Flag, nullable=False),
    Column("stage", text(32), nullable=False),
    #: NULL while it is under way.
    Column("outcome", text(32)),
    Column("reason", text(32)),
    #: Whether the outcome was not reported, but follows from a later report.
    Column("inferred", Flag, nullable=False),
    Column("tries", SmallNumber, nullable=False),
    Column("fetched", SmallNumber),
    Column("size", SmallNumber),
    #: When the first report of it was received, and the first one with its outcome.
    Column("received", Time, nullable=False),
    Column("ended_at", Time),
    #: `queries.outcomes` counts most attempts with this index alone.
    Index(None, "release", "outcome", "reason"),
    #: The index of the attempts that are under way.
    Index(
        "ix_attempt_open",
        "received",
        sqlite_where=column("outcome").is_(None),
        postgresql_where=column("outcome").is_(None),
    ),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: One row for each release of a channel that the timestamp has named.
rollout = Table(
    "rollout",
    metadata,
    Column("id", Number, primary_key=True),
    Column("channel", text(32), nullable=False),
    Column("release", Number, nullable=False),
    Column("sha256", text(64)),
    #: The share that the release key has signed, in hundredths of a percent.
    Column("ceiling_bp", Integer, nullable=False),
    #: The share that may install it now.
    Column("bp", Integer, nullable=False),
    #: See `fleet.store.states.RolloutState`.
    Column("state", text(16), nullable=False),
    #: Whether it is for all boxes at once, whatever the share.
    Column("critical", Flag, nullable=False),
    #: Whether it was held when another release superseded it: it comes back held.
    Column("was_held", Flag, nullable=False),
    Column("announced_at", Time, nullable=False),
    #: The time of the last change of its state or share.
    Column("since", Time, nullable=False),
    #: When an operator resumed it, or its archive was replaced; results from before do not count.
    Column("acknowledged_at", Time),
    #: The reason for this state; NULL if nobody has given one.
    Column("sentence", Text),
    Index(None, "channel", "release", unique=True),
    sqlite_strict=True,
)

#: The changes by people and the engine, and the notices of the engine; rows are only added.
audit = Table(
    "audit",
    metadata,
    Column("id", Number, primary_key=True),
    Column("at", Time, nullable=False),
    Column("who", text(64), nullable=False),
    #: The name of the command.
    Column("what", text(32), nullable=False),
    Column("channel", text(32)),
    Column("release", Number),
    #: The number of a row of `box`. It is no foreign key, because the row may be deleted.
    Column("box", Number),
    #: A sentence about the change.
    Column("change", Text, nullable=False),
    Column("because", Text, nullable=False),
    Index(None, "at"),
    Index(None, "release"),
    sqlite_strict=True,
)

#: The process that runs the engine: one row.
engine = Table(
    "engine",
    metadata,
    Column("id", Number, primary_key=True),
    #: A random word that the process has made at its start.
    Column("holder", text(32), nullable=False),
    #: The time of the last run of the engine.
    Column("ran_at", Time, nullable=False),
    sqlite_strict=True,
)

#: The times in which the server could not hear its boxes.
outage = Table(
    "outage",
    metadata,
    Column("id", Number, primary_key=True),
    #: See `fleet.store.states.OutageKind`.
    Column("kind", text(16), nullable=False),
    #: The channel whose boxes were silent; NULL if the server was down.
    Column("channel", text(32)),
    Column("began", Time, nullable=False),
    #: NULL until the outage ends.
    Column("ended", Time),
    sqlite_strict=True,
)

#: The messages for the webhook that are not delivered yet.
notice = Table(
    "notice",
    metadata,
    Column("id", Number, primary_key=True),
    Column("at", Time, nullable=False),
    #: The body of the request, which is JSON.
    Column("body", Text, nullable=False),
    #: How often it was sent, and when it is sent again.
    Column("tries", Integer, nullable=False),
    Column("next_at", Time, nullable=False),
    sqlite_strict=True,
)

#: The counts of each day, which outlast the attempts; each counted day has a row without a channel.
day = Table(
    "day",
    metadata,
    #: Days since the epoch (UTC).
    Column("day", Integer, primary_key=True),
    Column("channel", text(32), primary_key=True),
    Column("release", Number, primary_key=True, autoincrement=False),
    #: Boxes that reported on this day that they run the release.
    Column("boxes", Integer, nullable=False),
    Column("updated", Integer, nullable=False),
    Column("returned", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("silent", Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
