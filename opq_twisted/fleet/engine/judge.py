"""Judges the rollouts by the settings of the server, for all that show or use it."""

from collections.abc import Callable, Collection, Sequence

from attrs import Factory, frozen
from sqlalchemy import Connection

from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.gather import assess
from opq_twisted.fleet.engine.hearing import read_silence
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.queries.silence import SILENT_AFTER, Silence
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.widen_hours import WidenHours


def _is_well() -> None:
    return None


@frozen(kw_only=True)
class Judge:
    """What the engine's judgement needs beside the database and the clock."""

    mode: Rollouts
    timing: Timing = Factory(Timing)
    hours: WidenHours = Factory(WidenHours)
    #: Says in a sentence what is wrong with the signed metadata.
    metadata_problem: Callable[[], str | None] = _is_well

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
        return assess(
            connection,
            now,
            self.timing,
            hours=self.hours,
            metadata_problem=self.metadata_problem(),
            only=only,
        )

    def silence(self, connection: Connection, now: float, channels: Collection[str]) -> Silence:
        """Return since when boxes are silent, by the outages of the server and of channels."""
        if self.mode == "off":
            # Nobody notes outages.
            return Silence(now - SILENT_AFTER)
        return read_silence(connection, channels, now, self.timing)
