"""Tells which attempts have fallen silent."""

from collections.abc import Mapping

from attrs import Factory, frozen
from sqlalchemy import ColumnElement, and_, case, literal

from opq_twisted.fleet.store.column_types import Time
from opq_twisted.fleet.store.schema import attempt, box

#: Seconds without a report after which a box that was about to install is silent.
SILENT_AFTER = 6 * 3600.0

#: The stages from the installation to the end of an attempt, as boxes report them.
_INSTALLING = ("installing", "rebooting", "confirming", "returning")


@frozen
class Silence:
    """
    The times since when a box that was about to install must not have been heard, to be silent.

    They are not the same for all channels: the time in which a box could not be heard, because the
    server or the network of the channel was down, does not count.
    """

    #: Seconds since the epoch.
    since: float
    #: Those of channels that have another one.
    by_channel: Mapping[str, float] = Factory(dict)

    def of(self, channel: str) -> float:
        """Return the time of a channel."""
        return self.by_channel.get(channel, self.since)

    @property
    def column(self) -> ColumnElement[float]:
        """Return the time of the channel of a row of `box`."""
        since = literal(self.since, Time)
        if not self.by_channel:
            return since
        times = {channel: literal(time, Time) for channel, time in self.by_channel.items()}
        return case(times, value=box.c.channel, else_=since)


def fell_silent(start: float, end: float | ColumnElement[float]) -> ColumnElement[bool]:
    """
    Return the condition that an attempt, joined with its box, fell silent in a period.

    :param start: seconds since the epoch, as the end; the box was last heard between the two.
    """
    return and_(
        attempt.c.outcome.is_(None),
        attempt.c.stage.in_(_INSTALLING),
        box.c.last_seen >= start,
        box.c.last_seen < end,
    )


def is_silent(silence: Silence) -> ColumnElement[bool]:
    """Return the condition that an attempt, joined with its box, is silent now."""
    return fell_silent(0, silence.column)
