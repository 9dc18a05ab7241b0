"""The times for which the engine waits."""

from typing import Self

from attrs import evolve, frozen

from opq_twisted.fleet.queries.silence import SILENT_AFTER

_HOUR = 3600.0


@frozen(kw_only=True)
class Timing:
    """The times of the engine, in seconds."""

    #: The shortest time from the beginning of a step to the beginning of the next one.
    step: float = 24 * _HOUR
    #: A box that is installing is silent after this time without a report.
    silence: float = SILENT_AFTER
    #: After an outage the engine waits this long before it judges silent boxes or widens a rollout.
    settle: float = 2 * _HOUR
    #: A promise is broken if the report comes later than promised by more than this time.
    slack: float = _HOUR
    #: A longer time between two runs counts as an outage of the server.
    gap: float = 600.0
    #: The time between two runs of the engine.
    period: float = 20.0
    #: A key counts in a rollout if it was known this long before the release was announced.
    key_age: float = 24 * _HOUR
    #: The results of the previous release are counted again after this time.
    compared: float = _HOUR

    @property
    def missed_after(self) -> float:
        """
        After this number of seconds without a report, a control counts as missing.

        It is shorter than `silence`. So an outage of the network is noticed before any box that
        was installing counts as silent because of it.
        """
        return self.silence * 2 / 3

    def shortened(self, factor: float) -> Self:
        """Return all times divided by a factor, for a demonstration; a run each second at most."""
        return evolve(
            self,
            step=self.step / factor,
            silence=self.silence / factor,
            settle=self.settle / factor,
            slack=self.slack / factor,
            gap=max(10.0, self.gap / factor),
            period=max(1.0, self.period / factor),
            key_age=self.key_age / factor,
            compared=self.compared / factor,
        )
