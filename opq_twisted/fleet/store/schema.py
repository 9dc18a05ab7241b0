"""The tables; times are in seconds since the epoch, by the clock of the server."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

#: Names all constraints, so that a migration can name them too.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

#: A row number. SQLite numbers rows by itself only in a column of the type INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")

#: One row for each key of a box.
box = Table(
    "box",
    metadata,
    Column("id", _Id, primary_key=True),
    #: See `report.signature.key_id`.
    Column("key_id", String(32), nullable=False, unique=True),
    #: 32 bytes; NULL while the key was admitted by its id and has sent no report.
    Column("pubkey", LargeBinary),
    #: The number in its configuration.
    Column("box_id", BigInteger, nullable=False),
    #: See `fleet.store.states.BoxState`.
    Column("state", String(16), nullable=False),
    Column("channel", String(32)),
    Column("release", BigInteger),
    Column("agent", String(32)),
    Column("arch", String(32)),
    Column("python", String(32)),
    Column("install", String(32)),
    Column("waiting", String(32)),
    Column("root", BigInteger),
    Column("snapshot", BigInteger),
    Column("last_good", BigInteger),
    #: The versions of the blocked releases, as JSON.
    Column("refused", Text),
    #: The start of the machine that the last report came from, and the earlier ones, as JSON.
    Column("boot", String(32)),
    Column("boots", Text),
    #: The number of the last report, and the SHA-256 of its body.
    Column("seq", BigInteger, nullable=False),
    Column("digest", LargeBinary),
    Column("first_seen", Float),
    Column("last_seen", Float),
    #: Since when two boxes seem to use this key; NULL if none were noticed.
    Column("cloned_at", Float),
    #: The key that took the place of this one.
    Column("replaced_by", _Id, ForeignKey("box.id")),
    #: What the operator calls it.
    Column("label", String(64)),
    Index(None, "channel", "release"),
    Index(None, "channel", "last_seen"),
    Index(None, "box_id"),
    sqlite_strict=True,
)

#: One row for each attempt of a box.
attempt = Table(
    "attempt",
    metadata,
    Column("box", _Id, ForeignKey("box.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt_id", String(32), primary_key=True),
    Column("release", BigInteger),
    Column("from_release", BigInteger),
    #: By the clock of the box, which may be wrong.
    Column("began", BigInteger, nullable=False),
    Column("took", BigInteger, nullable=False),
    Column("automatic", Boolean, nullable=False),
    Column("stage", String(32), nullable=False),
    #: NULL while it is under way.
    Column("outcome", String(32)),
    Column("reason", String(32)),
    #: Whether the outcome was not reported, but follows from a later report.
    Column("inferred", Boolean, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("fetched", BigInteger),
    Column("size", BigInteger),
    #: When the first report of it was received, and the first one with its outcome.
    Column("received", Float, nullable=False),
    Column("ended_at", Float),
    Index(None, "release", "ended_at"),
    Index(None, "received"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: One row for each release of a channel that the timestamp has named.
rollout = Table(
    "rollout",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("channel", String(32), nullable=False),
    Column("release", BigInteger, nullable=False),
    Column("sha256", String(64)),
    #: The share that the release key has signed, in hundredths of a percent.
    Column("ceiling_bp", Integer, nullable=False),
    #: The share that may install it now.
    Column("bp", Integer, nullable=False),
    #: See `fleet.store.states.RolloutState`.
    Column("state", String(16), nullable=False),
    Column("announced_at", Float, nullable=False),
    #: Since when it is in this state.
    Column("since", Float, nullable=False),
    Index(None, "channel", "release", unique=True),
    sqlite_strict=True,
)

#: What people changed, and why; rows are only added.
audit = Table(
    "audit",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", String(64), nullable=False),
    #: The name of the command.
    Column("what", String(32), nullable=False),
    Column("channel", String(32)),
    Column("release", BigInteger),
    #: The number of a row of `box`. No reference: the row may be forgotten.
    Column("box", BigInteger),
    #: What changed, in a sentence.
    Column("change", Text, nullable=False),
    Column("because", Text, nullable=False),
    Index(None, "at"),
    sqlite_strict=True,
)

#: The counts of each day, which outlast the attempts.
day = Table(
    "day",
    metadata,
    #: Days since the epoch (UTC).
    Column("day", Integer, primary_key=True),
    Column("channel", String(32), primary_key=True),
    Column("release", BigInteger, primary_key=True, autoincrement=False),
    #: Boxes that reported on this day that they run the release.
    Column("boxes", Integer, nullable=False),
    Column("updated", Integer, nullable=False),
    Column("returned", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("silent", Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
