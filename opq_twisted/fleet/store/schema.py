"""The tables; times are in seconds since the epoch, by the clock of the server."""

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    column,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine

#: Names all constraints, so that a migration can name them too.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


# A STRICT table of SQLite knows the types INTEGER, REAL, TEXT and BLOB only.
_BigInteger = BigInteger().with_variant(Integer, "sqlite")
_Time: TypeEngine[float] = Double().with_variant(REAL, "sqlite")


def _string(length: int) -> TypeEngine[str]:
    return String(length).with_variant(Text(), "sqlite")


class _Boolean(Boolean):
    """Is a number in SQLite."""


class _Hexadecimal(TypeDecorator[str]):
    """Is a text of hexadecimal digits, and needs half the room in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """Convert the digits for the database."""
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        """Convert what the database has."""
        return None if value is None else bytes(value).hex()


@compiles(_Boolean, "sqlite")
def _in_sqlite(_type: _Boolean, _compiler: Any, **_: Any) -> str:
    return "INTEGER"


#: One row for each key of a box.
box = Table(
    "box",
    metadata,
    Column("id", _BigInteger, primary_key=True),
    #: See `report.signature.key_id`.
    Column("key_id", _string(32), nullable=False, unique=True),
    #: 32 bytes; NULL while the key was admitted by its id and has sent no report.
    Column("pubkey", LargeBinary),
    #: The number in its configuration.
    Column("box_id", _BigInteger, nullable=False),
    #: See `fleet.store.states.BoxState`.
    Column("state", _string(16), nullable=False),
    Column("channel", _string(32)),
    Column("release", _BigInteger),
    Column("agent", _string(32)),
    Column("arch", _string(32)),
    Column("python", _string(32)),
    Column("install", _string(32)),
    Column("waiting", _string(32)),
    Column("root", _BigInteger),
    Column("snapshot", _BigInteger),
    Column("last_good", _BigInteger),
    #: The versions of the blocked releases, as JSON.
    Column("refused", Text),
    #: The start of the machine that the last report came from, and the earlier ones, as JSON.
    Column("boot", _string(32)),
    Column("boots", Text),
    #: The number of the last report, and the SHA-256 of its body.
    Column("seq", _BigInteger, nullable=False),
    Column("digest", LargeBinary),
    Column("first_seen", _Time),
    Column("last_seen", _Time),
    #: When two boxes last seemed to use this key; NULL if none were noticed.
    Column("cloned_at", _Time),
    #: The key that took the place of this one.
    Column("replaced_by", _BigInteger, ForeignKey("box.id", ondelete="SET NULL"), index=True),
    #: What the operator calls it.
    Column("label", _string(64)),
    Index(None, "channel", "release"),
    Index(None, "channel", "last_seen"),
    Index(None, "box_id"),
    sqlite_strict=True,
)

#: One row for each attempt of a box.
attempt = Table(
    "attempt",
    metadata,
    Column("box", _BigInteger, ForeignKey("box.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt_id", _Hexadecimal, primary_key=True),
    Column("release", _BigInteger),
    Column("from_release", _BigInteger),
    #: By the clock of the box, which may be wrong.
    Column("began", _BigInteger, nullable=False),
    Column("took", _BigInteger, nullable=False),
    Column("automatic", _Boolean, nullable=False),
    Column("stage", _string(32), nullable=False),
    #: NULL while it is under way.
    Column("outcome", _string(32)),
    Column("reason", _string(32)),
    #: Whether the outcome was not reported, but follows from a later report.
    Column("inferred", _Boolean, nullable=False),
    Column("tries", _BigInteger, nullable=False),
    Column("fetched", _BigInteger),
    Column("size", _BigInteger),
    #: When the first report of it was received, and the first one with its outcome.
    Column("received", _Time, nullable=False),
    Column("ended_at", _Time),
    Index(None, "release", "ended_at"),
    #: Of those that are under way.
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
    Column("id", _BigInteger, primary_key=True),
    Column("channel", _string(32), nullable=False),
    Column("release", _BigInteger, nullable=False),
    Column("sha256", _string(64)),
    #: The share that the release key has signed, in hundredths of a percent.
    Column("ceiling_bp", Integer, nullable=False),
    #: The share that may install it now.
    Column("bp", Integer, nullable=False),
    #: See `fleet.store.states.RolloutState`.
    Column("state", _string(16), nullable=False),
    #: Whether it is for all boxes at once, whatever the share.
    Column("critical", _Boolean, nullable=False),
    #: Whether it was held when another release superseded it: it comes back held.
    Column("was_held", _Boolean, nullable=False),
    Column("announced_at", _Time, nullable=False),
    #: Since when it is in this state.
    Column("since", _Time, nullable=False),
    Index(None, "channel", "release", unique=True),
    sqlite_strict=True,
)

#: What people changed, and why; rows are only added.
audit = Table(
    "audit",
    metadata,
    Column("id", _BigInteger, primary_key=True),
    Column("at", _Time, nullable=False),
    Column("who", _string(64), nullable=False),
    #: The name of the command.
    Column("what", _string(32), nullable=False),
    Column("channel", _string(32)),
    Column("release", _BigInteger),
    #: The number of a row of `box`. No reference: the row may be forgotten.
    Column("box", _BigInteger),
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
    Column("channel", _string(32), primary_key=True),
    Column("release", _BigInteger, primary_key=True, autoincrement=False),
    #: Boxes that reported on this day that they run the release.
    Column("boxes", Integer, nullable=False),
    Column("updated", Integer, nullable=False),
    Column("returned", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("silent", Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
