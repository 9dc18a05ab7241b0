"""Says what needs care: when it begins to, and once a day for as long as it does."""

from collections.abc import Iterable

from attrs import Factory, field, frozen
from twisted.logger import Logger, LogLevel

#: Seconds after which the log says the same again.
_DAY = 86400


@frozen
class Alert:
    """Something that an operator has to see to; two of one cause are the same alert."""

    sentence: str = field(eq=False)
    level: LogLevel = field(default=LogLevel.error, eq=False)
    cause: str = Factory(lambda alert: alert.sentence, takes_self=True)


class AlertLog:
    """Keeps the log from being filled with one alert that is found at every look."""

    _log = Logger()

    def __init__(self) -> None:
        #: When each alert was last told of, in seconds since the epoch.
        self._told: dict[Alert, float] = {}

    def log(self, alerts: Iterable[Alert], now: float) -> None:
        """Tell of those that are new or were told of a day ago; one that comes back is new."""
        told, self._told = self._told, {}
        for alert in alerts:
            last = told.get(alert)
            # A clock that was set back must not silence it.
            if last is None or not 0 <= now - last < _DAY:
                self._log.emit(alert.level, "{sentence}", sentence=alert.sentence)
                last = now
            self._told[alert] = last
