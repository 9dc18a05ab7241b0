"""Decides by the outages of a channel when its boxes count as silent or as missing."""

from collections.abc import Iterable

from attrs import frozen
from sqlalchemy import Connection

from opq_twisted.fleet.engine.control_group import Controls, is_fleet_silent
from opq_twisted.fleet.engine.outages import find_fleet_outage, read_uptime
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.engine.uptime import Uptime
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.store.states import OutageKind

#: An outage of the network explains the silence of a box for this multiple of `Timing.silence`.
#: A box that is silent for longer was probably taken down by somebody.
_AWAY = 28


@frozen(kw_only=True)
class Hearing:
    """The outages of a channel until now."""

    #: The time without outages of the server.
    server: Uptime
    #: The time without outages of the server or the network.
    both: Uptime
    #: When the present outage of the channel's network began; None if there is none.
    silent_since: float | None
    now: float
    timing: Timing

    @property
    def is_settled(self) -> bool:
        """Whether the last outage was long ago."""
        return self.both.is_settled(self.now, self.timing.settle)

    @property
    def silent_before(self) -> float:
        """A box that is installing is silent if it was last heard before this time."""
        return self.both.before(self.now, self.timing.silence)

    @property
    def moment(self) -> float:
        """If too many controls were not heard after this moment, the network is down."""
        if self.silent_since is None:
            return self.now - self.timing.missed_after
        return max(self.silent_since, self.now - _AWAY * self.timing.silence)

    @property
    def broken_before(self) -> float:
        """
        A box is missing if its next report was due before this time, and has not come.

        The time of an outage of the network is not subtracted here. Otherwise no box would be
        missing during the outage, and the outage would seem to be over.
        """
        return self.server.before(self.now, self.timing.slack)

    def is_fleet_silent(self, controls: Controls) -> bool:
        """
        Whether too many of the boxes that install nothing are silent.

        Once True, the result stays True for a while. Otherwise somebody with a few keys, some of
        which report and some not, could change it in each run, and fill the audit.
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
    """Return the times before which a box must have been heard last to count as silent."""
    server = read_uptime(connection, now, (OutageKind.SERVER,))
    return Silence(
        server.before(now, timing.silence),
        {each: read_hearing(connection, each, now, timing).silent_before for each in channels},
    )
