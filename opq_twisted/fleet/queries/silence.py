"""Finds the attempts whose boxes have sent no report since they were about to install."""

from collections.abc import Mapping

from attrs import Factory, frozen
from sqlalchemy import ColumnElement, and_, case, literal

from opq_twisted.fleet.store.column_types import Time
from opq_twisted.fleet.store.schema import attempt, box

#: A box that is installing is silent after so many seconds without a report.
SILENT_AFTER = 6 * 3600.0

#: The stages from the installation to the end of an attempt, as boxes report them.
_INSTALLING = ("installing", "rebooting", "confirming", "returning")


@frozen
class Silence:
    """
    Says which boxes are silent: those that were last heard before a time.

    The time may differ between channels, because the outages of a channel's network are subtracted.
    """

    #: Seconds since the epoch: a box that was last heard before this time is silent.
    since: float
    #: The times of the channels that have their own.
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
    Return the condition that the box of an attempt fell silent during its installation.

    :param start: seconds since the epoch; the box was last heard at this time or later.
    :param end: seconds since the epoch; the box was last heard before this time.
    """
    return and_(
        attempt.c.outcome.is_(None),
        attempt.c.stage.in_(_INSTALLING),
        box.c.last_seen >= start,
        box.c.last_seen < end,
    )


def is_silent(silence: Silence) -> ColumnElement[bool]:
    """Return the condition that the box of an attempt is silent now."""
    return fell_silent(0, silence.column)
