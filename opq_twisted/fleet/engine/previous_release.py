"""Reads the results of the previous release, with which a rollout is compared."""

from collections.abc import Sequence

from sqlalchemy import Connection

from opq_twisted.fleet.engine.assessment import PreviousRelease
from opq_twisted.fleet.engine.counted import counts_in, read_results, sum_up
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState

#: How many previous releases are read, until one has results.
_MOST = 5


class PreviousReleases:
    """
    Counts the results of previous releases, and keeps the counts for a while.

    Counting takes long, and the numbers hardly change. They are counted again at once when a
    channel gets a new release.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        #: By channel: the previous rollouts, the time when they were read, and the result.
        self._kept: dict[str, tuple[Sequence[Rollout], float, PreviousRelease | None]] = {}

    def read(
        self, connection: Connection, each: Rollout, now: float, silent_before: float
    ) -> PreviousRelease | None:
        """
        Return the last previous release of the channel that has results; None if there is none.

        :param now: seconds since the epoch.
        :param silent_before: a box that was last heard before this time is silent.
        """
        rollouts = _find(connection, each)
        known, read_at, before = self._kept.get(each.channel, ((), 0.0, None))
        if rollouts != known or not 0 <= now - read_at < self._timing.compared:
            before = self._count(connection, rollouts, now, silent_before)
            self._kept[each.channel] = rollouts, now, before
        return before

    def _count(
        self, connection: Connection, rollouts: Sequence[Rollout], now: float, silent_before: float
    ) -> PreviousRelease | None:
        for before in rollouts:
            counted = counts_in(before, now, self._timing.key_age)
            results = read_results(connection, before, counted, silent_before)
            counts = sum_up(results, lambda _: True)
            if boxes := counts.well + counts.bad:
                return PreviousRelease(release=before.release, bad=counts.bad, boxes=boxes)
        return None


def _find(connection: Connection, each: Rollout) -> Sequence[Rollout]:
    """Return the last rollouts of a channel that were not held until the end, the last first."""
    found = find(
        connection,
        rollout.c.channel == each.channel,
        rollout.c.release != each.release,
        rollout.c.state == RolloutState.SUPERSEDED,
        rollout.c.was_held.is_(False),
    )
    return sorted(found, key=lambda before: -before.since)[:_MOST]
