"""Keeps the times in which the server did not hear its boxes."""

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from opq_twisted.fleet.engine.uptime import Uptime
from opq_twisted.fleet.store.schema import outage
from opq_twisted.fleet.store.states import OutageKind

#: Seconds for which an outage is kept: no box is waited for so long.
_KEPT = 60 * 86400.0

#: Outages that are read at most, the newest ones.
_MOST = 1000


def read_uptime(
    connection: Connection,
    now: float,
    kinds: Collection[OutageKind],
    channel: str | None = None,
) -> Uptime:
    """
    Return the time in which boxes could be heard.

    :param now: seconds since the epoch; an outage that lasts ends now.
    :param kinds: the outages that matter.
    :param channel: whose outages matter, beside those of all channels.
    """
    rows = connection.execute(
        select(outage.c.began, outage.c.ended)
        .where(
            outage.c.kind.in_(kinds),
            or_(outage.c.channel.is_(None), outage.c.channel == channel),
            # A clock that was ahead has written times that are still to come.
            outage.c.began <= now,
            func.coalesce(outage.c.ended, now).between(now - _KEPT, now),
        )
        .order_by(outage.c.began.desc())
        .limit(_MOST)
    )
    return Uptime((began, now if ended is None else ended) for began, ended in rows)


def find_fleet_outage(connection: Connection, channel: str) -> float | None:
    """Return since when the boxes of a channel are silent; None if they are not."""
    found: float | None = connection.scalar(select(func.min(outage.c.began)).where(_open(channel)))
    return found


def note_server_outage(connection: Connection, began: float, ended: float) -> None:
    """Write that no server heard any box in a period, and delete outages that are old."""
    _add(connection, began, kind=OutageKind.SERVER, began=began, ended=ended)


def note_fleet(
    connection: Connection, channel: str, is_silent: bool, *, began: float, now: float
) -> bool:
    """
    Write that the boxes of a channel have fallen silent, or are heard again.

    :param is_silent: as `Circumstances.is_fleet_silent`.
    :param began: since when they are silent.
    :returns: whether that is new.
    """
    if is_silent == (find_fleet_outage(connection, channel) is not None):
        return False
    if is_silent:
        _add(connection, now, kind=OutageKind.FLEET, channel=channel, began=began)
    else:
        connection.execute(update(outage).where(_open(channel)).values(ended=now))
    return True


def _add(connection: Connection, now: float, **columns: object) -> None:
    connection.execute(delete(outage).where(outage.c.ended < now - _KEPT))
    connection.execute(insert(outage).values(columns))


def _open(channel: str) -> ColumnElement[bool]:
    return and_(
        outage.c.kind == OutageKind.FLEET,
        outage.c.channel == channel,
        outage.c.ended.is_(None),
    )
