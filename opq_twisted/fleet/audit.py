"""Adds rows to the audit: who changed something, and why."""

from collections.abc import Mapping

from attrs import frozen
from sqlalchemy import Connection, select

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.store.schema import audit

#: The limit of characters of a name, which is that of the column.
MAX_WHO = 64

#: The limit of characters of a reason.
MAX_BECAUSE = 500


class AuditNoteInvalid(OpqError):
    """The audit cannot keep a name or a reason; nothing was changed."""


@frozen(kw_only=True)
class AuditNote:
    """
    The author of a change, and the reason for it.

    :raises AuditNoteInvalid: if one of them is empty, too long, or not printable.
    """

    who: str
    because: str

    def __attrs_post_init__(self) -> None:
        _check("name of the person", self.who, MAX_WHO)
        _check("reason", self.because, MAX_BECAUSE)


def record(
    connection: Connection,
    note: AuditNote,
    now: float,
    *,
    what: str,
    change: str,
    channel: str | None = None,
    release: int | None = None,
    box: int | None = None,
) -> None:
    """
    Add a row to the audit, in the transaction of the change.

    :param now: seconds since the epoch.
    :param what: the name of the command.
    :param change: a sentence about the change.
    :param box: the number of a row of `box`.
    """
    row = {"what": what, "change": change, "channel": channel, "release": release, "box": box}
    connection.execute(audit.insert().values(at=now, who=note.who, because=note.because, **row))


def is_recorded(
    connection: Connection, who: str, what: str, channel: str, release: int, since: float
) -> bool:
    """Return whether somebody has done something about a release after a time."""
    query = select(audit.c.id).where(
        audit.c.release == release,
        audit.c.channel == channel,
        audit.c.what == what,
        audit.c.who == who,
        audit.c.at >= since,
    )
    return connection.scalar(query.limit(1)) is not None


def record_boxes(
    connection: Connection, note: AuditNote, now: float, *, what: str, changes: Mapping[int, str]
) -> None:
    """
    Add a row for each of many boxes.

    :param changes: sentences about the changes, by the row of the box.
    """
    rows = [
        {"what": what, "change": change, "box": box, "at": now, "who": note.who}
        | {"because": note.because}
        for box, change in changes.items()
    ]
    if rows:
        connection.execute(audit.insert(), rows)


def _check(name: str, text: str, limit: int) -> None:
    if not text.strip():
        raise AuditNoteInvalid(f"The {name} is empty: each change needs one, for the audit.")
    if len(text) > limit:
        raise AuditNoteInvalid(f"The {name} is longer than {limit} characters.")
    # A terminal would obey control characters.
    if not text.isprintable():
        raise AuditNoteInvalid(f"The {name} must be one line, without control characters.")
