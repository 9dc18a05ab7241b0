"""Logs problems for the operator when they begin, and once a day while they last."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import Factory, field, frozen
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
from twisted.logger import Logger, LogLevel

from opq_twisted.trust.expiry import days_left, is_urgent
from opq_twisted.trust.repository_reader import Document

#: Seconds after which the same alert is logged again.
_DAY = 86400

_REMEDY = {
    Root.type: "Renew it with: opq-release renew-root",
    Targets.type: "Sign it again with: opq-release resign",
    Snapshot.type: "Sign it again with: opq-release resign",
    Timestamp.type: "It should have been signed again by now: read the log of the server that has "
    "the timestamp key, and copy tuf/ from there",
}


@frozen
class Alert:
    """A problem that the operator must solve; two alerts with the same cause are equal."""

    sentence: str = field(eq=False)
    level: LogLevel = field(default=LogLevel.error, eq=False)
    cause: str = Factory(lambda alert: alert.sentence, takes_self=True)
    #: A sentence for the log alone: everybody can see the others on the page of `/ls`.
    detail: str = field(eq=False, default="")


class AlertLog:
    """Logs an alert that is found at every check only once a day."""

    _log = Logger()

    def __init__(self) -> None:
        #: When each alert was last logged, in seconds since the epoch.
        self._logged: dict[Alert, float] = {}

    def log(self, alerts: Iterable[Alert], now: float) -> None:
        """Log the alerts that were not there last time, or were last logged a day ago."""
        logged, self._logged = self._logged, {}
        for alert in alerts:
            last = logged.get(alert)
            # A clock that was set back must not silence an alert.
            if last is None or not 0 <= now - last < _DAY:
                sentence = f"{alert.sentence} {alert.detail}".strip()
                self._log.emit(alert.level, "{sentence}", sentence=sentence)
                last = now
            self._logged[alert] = last


def expiry_alerts(documents: Mapping[str, Document[Any]], now: float) -> Iterator[Alert]:
    """Warn of metadata, given by role, that expires soon."""
    for role, document in documents.items():
        left = days_left(document.signed, now)
        if not is_urgent(role, left):
            continue
        if left > 0:
            when, since = f"expires in {left:.1f} days", "from then on"
        else:
            when, since = f"expired {-left:.1f} days ago", "any more"
        yield Alert(
            f"{document.name} {when}: boxes install nothing new {since}. {_REMEDY[role]}.",
            LogLevel.warn,
            f"the expiry of {role}",
        )
