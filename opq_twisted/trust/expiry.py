"""When the expiry of signed metadata becomes urgent."""

from tuf.api.metadata import Root, Signed, Snapshot, Targets, Timestamp

_DAY = 86400

#: Days before its expiry from which on each role has to be signed again. A timestamp has three and
#: a half days left when the server renews it; half a day of those is for copying it to mirrors.
_URGENT = {Root.type: 14.0, Targets.type: 14.0, Snapshot.type: 14.0, Timestamp.type: 3.0}


def days_left(signed: Signed, now: float) -> float:
    """Return the days from `now` (seconds since the epoch) to the expiry; less than 0 after it."""
    left: float = signed.expires.timestamp() - now
    return left / _DAY


def is_urgent(role: str, days: float) -> bool:
    """Whether metadata of this role has to be signed again when it has so many days left."""
    return days <= _URGENT[role]
