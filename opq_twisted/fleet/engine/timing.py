"""How long the engine waits for what."""

from typing import Self

from attrs import evolve, frozen

from opq_twisted.fleet.queries.silence import SILENT_AFTER

_HOUR = 3600.0


@frozen(kw_only=True)
class Timing:
    """The times of the engine, in seconds."""

    #: From the beginning of a step until the next one, at least.
    step: float = 24 * _HOUR
    #: Without a report, until a box that was about to install is silent.
    silence: float = SILENT_AFTER
    #: After an outage, until silence is judged again and a rollout is widened.
    settle: float = 2 * _HOUR
    #: By which a report may be late before its promise is broken.
    slack: float = _HOUR
    #: Between two runs, until the time between them counts as an outage of the server.
    gap: float = 600.0
    #: Between two runs of the engine.
    period: float = 20.0
    #: Before the announcement of a release: younger keys do not count in its rollout.
    key_age: float = 24 * _HOUR
    #: For which the results of the release before are compared with, until they are read anew.
    compared: float = _HOUR

    @property
    def missed_after(self) -> float:
        """
        Seconds of silence after which the boxes of a channel are missed.

        It is before a box is called silent, so that no box is while its whole network is down.
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
