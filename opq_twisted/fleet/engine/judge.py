"""Judges the rollouts with the server's settings, for the engine, `opq-fleet` and the page."""

from collections.abc import Callable, Collection, Sequence

from attrs import Factory, evolve, frozen
from sqlalchemy import Connection

from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.gather import assess
from opq_twisted.fleet.engine.hearing import read_silence
from opq_twisted.fleet.engine.previous_release import PreviousReleases
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.queries.silence import SILENT_AFTER, Silence
from opq_twisted.fleet.rollouts.watch import current_rollouts
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.widen_hours import WidenHours

#: A judgement may be shown for this multiple of the engine's period. Where the engine runs, each
#: judgement is replaced before that.
_SHOWN = 1.5


def _is_well() -> None:
    return None


@frozen(kw_only=True)
class Judge:
    """
    The settings for a judgement, and the last judgements.

    Judging a large fleet takes a while. The engine and `opq-fleet` need a new judgement each time;
    the page and the metrics use `for_show`.
    """

    mode: Rollouts
    timing: Timing = Factory(Timing)
    hours: WidenHours = Factory(WidenHours)
    #: Returns a sentence about the problem with the signed metadata; None if there is no problem.
    metadata_problem: Callable[[], str | None] = _is_well
    #: Whether it may return the last judgement again.
    _may_repeat: bool = False
    _previous_releases: PreviousReleases = Factory(
        lambda self: PreviousReleases(self.timing), takes_self=True
    )
    #: The last judgement of each channel.
    _last: dict[str, Assessment] = Factory(dict)

    @property
    def for_show(self) -> "Judge":
        """A judge that repeats the last judgements of this one, unless a rollout has changed."""
        return evolve(self, may_repeat=True)

    def assess(
        self, connection: Connection, now: float, only: Collection[int] | None = None
    ) -> Sequence[Assessment]:
        """
        Judge the rollouts that are not superseded; none with `--rollouts off`.

        :param now: seconds since the epoch.
        :param only: the releases to judge; None for all.
        """
        if self.mode == "off":
            return ()
        if self._may_repeat and (known := self._repeat(connection, now, only)) is not None:
            return known
        found = assess(
            connection,
            now,
            self.timing,
            hours=self.hours,
            metadata_problem=self.metadata_problem(),
            previous_releases=self._previous_releases,
            only=only,
        )
        self._last.update((each.rollout.channel, each) for each in found)
        return found

    def silence(self, connection: Connection, now: float, channels: Collection[str]) -> Silence:
        """Return the times before which a box must have been heard last to count as silent."""
        if self.mode == "off":
            # The engine is off, so no outages were written down.
            return Silence(now - SILENT_AFTER)
        return read_silence(connection, channels, now, self.timing)

    def _repeat(
        self, connection: Connection, now: float, only: Collection[int] | None
    ) -> Sequence[Assessment] | None:
        """Return the last judgement; None if it is old, or a rollout has changed since."""
        found = []
        for each in current_rollouts(connection):
            if only is not None and each.release not in only:
                continue
            last = self._last.get(each.channel)
            if last is None or last.rollout != each:
                return None
            if not 0 <= now - last.at < _SHOWN * self.timing.period:
                return None
            found.append(last)
        return found
