"""Says what needs care: when it begins to, and once a day for as long as it does."""

from collections.abc import Iterable

from attrs import Factory, field, frozen
from twisted.logger import Logger, LogLevel

#: Seconds after which the log says the same again.
_DAY = 86400


@frozen
class Trouble:
    """Something that an operator has to see to; two of one cause are the same trouble."""

    sentence: str = field(eq=False)
    level: LogLevel = field(default=LogLevel.error, eq=False)
    cause: str = Factory(lambda trouble: trouble.sentence, takes_self=True)


class Reminders:
    """Keeps the log from being filled with one trouble that is found at every look."""

    _log = Logger()

    def __init__(self) -> None:
        #: When each trouble was last told of, in seconds since the epoch.
        self._told: dict[Trouble, float] = {}

    def tell(self, troubles: Iterable[Trouble], now: float) -> None:
        """Tell of those that are new or were told of a day ago; one that comes back is new."""
        told, self._told = self._told, {}
        for trouble in troubles:
            last = told.get(trouble)
            # A clock that was set back must not silence it.
            if last is None or not 0 <= now - last < _DAY:
                self._log.emit(trouble.level, "{sentence}", sentence=trouble.sentence)
                last = now
            self._told[trouble] = last
