"""Says in good time that signed metadata is about to expire, and what to do about it."""

from collections.abc import Iterator, Mapping
from typing import Any

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
from twisted.logger import LogLevel

from opq_twisted.server.timestamp.alerts import Alert
from opq_twisted.server.timestamp.store import Document

_DAY = 86400

#: Days before the end of each role's metadata from which on it is warned of. A timestamp has three
#: and a half left when it is renewed; half a day of those is for copying it to other servers.
_WARNING = {Root.type: 14.0, Targets.type: 14.0, Snapshot.type: 14.0, Timestamp.type: 3.0}

_REMEDY = {
    Root.type: "Renew it with: opq-release renew-root",
    Targets.type: "Sign it again with: opq-release resign",
    Snapshot.type: "Sign it again with: opq-release resign",
    Timestamp.type: "It should have been signed again by now: see what the log of the server says "
    "that has the timestamp's key, and copy tuf/ from there",
}


def days_left(document: Document[Any], now: float) -> float:
    """Say how many days metadata is valid for, less than 0 when it has expired."""
    left: float = document.signed.expires.timestamp() - now
    return left / _DAY


def warnings(documents: Mapping[str, Document[Any]], now: float) -> Iterator[Alert]:
    """Warn of what expires soon."""
    for role, document in documents.items():
        left = days_left(document, now)
        if left > _WARNING[role]:
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
