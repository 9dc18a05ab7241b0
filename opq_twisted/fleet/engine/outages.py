"""Stores and reads the outages: the times in which the server could not hear its boxes."""

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from opq_twisted.fleet.engine.uptime import Uptime
from opq_twisted.fleet.store.schema import outage
from opq_twisted.fleet.store.states import OutageKind

#: Seconds for which an outage is kept: the engine waits for no box that long.
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
    :param kinds: the kinds of outages that are subtracted.
    :param channel: its outages are subtracted, and those of all channels together.
    """
    rows = connection.execute(
        select(outage.c.began, outage.c.ended)
        .where(
            outage.c.kind.in_(kinds),
            or_(outage.c.channel.is_(None), outage.c.channel == channel),
            # A clock that was ahead has written times that lie in the future.
            outage.c.began <= now,
            func.coalesce(outage.c.ended, now).between(now - _KEPT, now),
        )
        .order_by(outage.c.began.desc())
        .limit(_MOST)
    )
    return Uptime((began, now if ended is None else ended) for began, ended in rows)


def find_fleet_outage(connection: Connection, channel: str) -> float | None:
    """Return when the present outage of a channel's network began; None if there is none."""
    found: float | None = connection.scalar(select(func.min(outage.c.began)).where(_open(channel)))
    return found


def note_server_outage(connection: Connection, began: float, ended: float) -> None:
    """Store an outage of all servers, and delete old outages."""
    _add(connection, began, kind=OutageKind.SERVER, began=began, ended=ended)


def note_fleet(
    connection: Connection, channel: str, is_silent: bool, *, began: float, now: float
) -> bool:
    """
    Store the beginning or the end of an outage of a channel's network.

    :param is_silent: as `Circumstances.is_fleet_silent`.
    :param began: when the boxes fell silent.
    :returns: whether an outage has begun or ended now.
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
