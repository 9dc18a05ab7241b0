"""Reads how boxes fared with the release before, which a rollout is compared with."""

from collections.abc import Sequence

from sqlalchemy import Connection

from opq_twisted.fleet.engine.assessment import Before
from opq_twisted.fleet.engine.counted import counts_in, read_results, sum_up
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState

#: Releases before that are looked at, until one has outcomes.
_MOST = 5


class Befores:
    """
    Keeps what was read for a while, because counting takes long and the numbers hardly change.

    They are read anew at once when another release gives way to the next one.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        #: By channel: the rollouts before, when they were read, and what was found.
        self._kept: dict[str, tuple[Sequence[Rollout], float, Before | None]] = {}

    def read(
        self, connection: Connection, each: Rollout, now: float, silent_since: float
    ) -> Before | None:
        """
        Return the last release before in the channel that has outcomes; None if there is none.

        :param now: seconds since the epoch.
        :param silent_since: since when a box must not have been heard to be silent.
        """
        rollouts = _find(connection, each)
        known, read_at, before = self._kept.get(each.channel, ((), 0.0, None))
        if rollouts != known or not 0 <= now - read_at < self._timing.compared:
            before = self._count(connection, rollouts, now, silent_since)
            self._kept[each.channel] = rollouts, now, before
        return before

    def _count(
        self, connection: Connection, rollouts: Sequence[Rollout], now: float, silent_since: float
    ) -> Before | None:
        for before in rollouts:
            counted = counts_in(before, now, self._timing.key_age)
            results = read_results(connection, before, counted, silent_since)
            counts = sum_up(results, lambda _: True)
            if boxes := counts.well + counts.bad:
                return Before(release=before.release, bad=counts.bad, boxes=boxes)
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
