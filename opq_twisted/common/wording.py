"""How versions, times and sizes are worded for people."""

from datetime import datetime


def version(number: int | None) -> str:
    """Word a version: `1547860803 (2019-01-19 01:20)`, in local time."""
    return "unknown" if number is None else f"{number} ({moment(number)})"


def moment(seconds: float | None, never: str = "never") -> str:
    """
    Word a time of day, given in seconds since the epoch: `2019-01-19 01:20`, in local time.

    :param never: what None is.
    """
    if seconds is None:
        return never
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar has"


def duration(seconds: float) -> str:
    """Word a number of seconds: `3 min 20 s`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Word a number of bytes: `12.3 MB`."""
    return f"{count / 1e6:.1f} MB"
