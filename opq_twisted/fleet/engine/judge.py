"""Judges the rollouts by the settings of the server, for all that show or use it."""

from collections.abc import Callable, Collection, Sequence

from attrs import Factory, evolve, frozen
from sqlalchemy import Connection

from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.before import Befores
from opq_twisted.fleet.engine.gather import assess
from opq_twisted.fleet.engine.hearing import read_silence
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.queries.silence import SILENT_AFTER, Silence
from opq_twisted.fleet.rollouts.watch import current_rollouts
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.widen_hours import WidenHours

#: Periods of the engine for which a judgement may be shown; where the engine runs, none gets older.
_SHOWN = 1.5


def _is_well() -> None:
    return None


@frozen(kw_only=True)
class Judge:
    """
    What the engine's judgement needs beside the database and the clock.

    Judging a large fleet takes a while. Decisions and `opq-fleet` need it afresh; for others there
    is `for_show`.
    """

    mode: Rollouts
    timing: Timing = Factory(Timing)
    hours: WidenHours = Factory(WidenHours)
    #: Says in a sentence what is wrong with the signed metadata.
    metadata_problem: Callable[[], str | None] = _is_well
    #: Whether it may repeat what it, or the judge that it was made of, has said lately.
    _may_repeat: bool = False
    _befores: Befores = Factory(lambda self: Befores(self.timing), takes_self=True)
    #: The last judgement of each channel.
    _last: dict[str, Assessment] = Factory(dict)

    @property
    def for_show(self) -> "Judge":
        """A judge that repeats what this one has said, unless a rollout has changed since."""
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
            befores=self._befores,
            only=only,
        )
        self._last.update((each.rollout.channel, each) for each in found)
        return found

    def silence(self, connection: Connection, now: float, channels: Collection[str]) -> Silence:
        """Return since when boxes are silent, by the outages of the server and of channels."""
        if self.mode == "off":
            # Nobody notes outages.
            return Silence(now - SILENT_AFTER)
        return read_silence(connection, channels, now, self.timing)

    def _repeat(
        self, connection: Connection, now: float, only: Collection[int] | None
    ) -> Sequence[Assessment] | None:
        """Return the last judgement; None if it is old, or a rollout is another one now."""
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
