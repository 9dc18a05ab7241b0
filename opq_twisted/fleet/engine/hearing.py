"""Tells since when the boxes of a channel could be heard."""

from collections.abc import Iterable

from attrs import frozen
from sqlalchemy import Connection

from opq_twisted.fleet.engine.control_group import Controls
from opq_twisted.fleet.engine.controls import is_fleet_silent
from opq_twisted.fleet.engine.outages import find_fleet_outage, read_uptime
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.engine.uptime import Uptime
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.store.states import OutageKind

#: Times the silence of a box for which its broken promise speaks of an outage of the network: a
#: box that stays away longer is one that somebody has taken down.
_AWAY = 28


@frozen(kw_only=True)
class Hearing:
    """How well the boxes of a channel could be heard until now."""

    #: The time without outages of the server, and without any outage.
    server: Uptime
    both: Uptime
    #: Since when the boxes of the channel are silent; None if they are not.
    silent_since: float | None
    now: float
    timing: Timing

    @property
    def is_settled(self) -> bool:
        """Whether the last outage was long ago."""
        return self.both.is_settled(self.now, self.timing.settle)

    @property
    def silence(self) -> float:
        """Since when a box must not have been heard to be silent."""
        return self.both.before(self.now, self.timing.silence)

    @property
    def moment(self) -> float:
        """The moment from which on the boxes tell whether the network is well."""
        if self.silent_since is None:
            return self.now - self.timing.missed_after
        return max(self.silent_since, self.now - _AWAY * self.timing.silence)

    @property
    def broken_before(self) -> float:
        """
        The time before which a report that was due is missing.

        An outage of the network does not count here: it would hide itself.
        """
        return self.server.before(self.now, self.timing.slack)

    def is_fleet_silent(self, controls: Controls) -> bool:
        """
        Whether too many boxes are silent that install nothing.

        It lasts a while: with some keys that report in turns, anybody could otherwise let it begin
        and end in each run, and fill the audit.
        """
        if self.silent_since is None:
            is_settled = self.server.is_settled(self.now, self.timing.settle)
            return is_settled and is_fleet_silent(controls, was_silent=False)
        lasts = self.now - self.silent_since - self.timing.missed_after
        return 0 <= lasts < self.timing.settle or is_fleet_silent(controls, was_silent=True)


def read_hearing(connection: Connection, channel: str, now: float, timing: Timing) -> Hearing:
    """Read the outages of a channel."""
    return Hearing(
        server=read_uptime(connection, now, (OutageKind.SERVER,), channel),
        both=read_uptime(connection, now, tuple(OutageKind), channel),
        silent_since=find_fleet_outage(connection, channel),
        now=now,
        timing=timing,
    )


def read_silence(
    connection: Connection, channels: Iterable[str], now: float, timing: Timing
) -> Silence:
    """Return since when boxes are silent, as the engine sees it in these channels."""
    server = read_uptime(connection, now, (OutageKind.SERVER,))
    return Silence(
        server.before(now, timing.silence),
        {each: read_hearing(connection, each, now, timing).silence for each in channels},
    )
