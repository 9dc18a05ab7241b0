"""The audit: who changed something, and why."""

from collections.abc import Mapping

from attrs import frozen
from sqlalchemy import Connection

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.store.schema import audit

#: Characters of a name, as many as the column has.
MAX_WHO = 64

#: Characters of a reason.
MAX_BECAUSE = 500


class DeedRefused(OpqError):
    """A change has no name or no reason that the audit can keep; nothing was changed."""


@frozen(kw_only=True)
class Deed:
    """
    Who changes something, and why.

    :raises DeedRefused: if one of them is empty, too long, or has characters that cannot be shown.
    """

    who: str
    because: str

    def __attrs_post_init__(self) -> None:
        _check("name of the person", self.who, MAX_WHO)
        _check("reason", self.because, MAX_BECAUSE)


def record(
    connection: Connection,
    deed: Deed,
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
    connection.execute(audit.insert().values(at=now, who=deed.who, because=deed.because, **row))


def record_boxes(
    connection: Connection, deed: Deed, now: float, *, what: str, changes: Mapping[int, str]
) -> None:
    """
    Do as `record` for many boxes.

    :param changes: sentences by rows of `box`.
    """
    rows = [
        {"what": what, "change": change, "box": box, "at": now, "who": deed.who}
        | {"because": deed.because}
        for box, change in changes.items()
    ]
    if rows:
        connection.execute(audit.insert(), rows)


def _check(name: str, text: str, limit: int) -> None:
    if not text.strip():
        raise DeedRefused(f"The {name} is empty: each change needs one, for the audit.")
    if len(text) > limit:
        raise DeedRefused(f"The {name} is longer than {limit} characters.")
    # Control characters would change the terminal that shows them.
    if not text.isprintable():
        raise DeedRefused(f"The {name} must be one line, without control characters.")
