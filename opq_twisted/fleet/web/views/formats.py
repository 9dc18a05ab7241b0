"""Formats numbers, times and names for the page."""

from datetime import UTC, datetime

from markupsafe import Markup

from opq_twisted.common import wording

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))

#: Digits of a fingerprint that are shown.
_SHORT = 12


def number(count: int | None) -> str:
    """Format a count: `4,310`."""
    return f"{count or 0:,}"


def boxes(count: int | None) -> str:
    """Format a number of boxes; None counts as 0."""
    return wording.boxes(count or 0)


def percent(bp: int) -> str:
    """Format hundredths of a percent, on one line: `5 %`, `0.25 %`."""
    return wording.percent(bp).replace(" ", "\N{NO-BREAK SPACE}")


def share(part: float) -> str:
    """Format a share from 0 to 1 as a percentage: `1.4`."""
    return f"{100 * part:.1f}".removesuffix(".0")


def span(seconds: float) -> str:
    """Format a time roughly, in its two largest units at most: `14 h`, `1 d 3 h`, `25 min`."""
    left = max(0, round(seconds))
    for place, (length, unit) in enumerate(_UNITS):
        if left >= length:
            whole, rest = divmod(left, length)
            smaller = _UNITS[place + 1 : place + 2]
            if not smaller or whole >= 3 or rest < smaller[0][0]:
                return f"{whole} {unit}"
            return f"{whole} {unit} {rest // smaller[0][0]} {smaller[0][1]}"
    return f"{left} s"


def moment(seconds: float | None, now: float) -> Markup:
    """Format a time as HTML: `11:02` if it is of today, and the date otherwise; it is in UTC."""
    time = None if seconds is None else _time(seconds)
    if time is None:
        return _no_time(seconds)
    today = _time(now)
    is_today = today is not None and today.date() == time.date()
    is_near = today is not None and today.year == time.year
    form = "%H:%M" if is_today else "%-d %b, %H:%M" if is_near else "%-d %b %Y"
    return _element(time, f"{time:{form}}")


def age(seconds: float | None, now: float) -> Markup:
    """Format the age of something as HTML: `3 minutes ago`."""
    time = None if seconds is None else _time(seconds)
    if seconds is None or time is None:
        return _no_time(seconds)
    return _element(time, wording.age(now - seconds))


def built(release: int | None) -> Markup:
    """Format the build time of a release, which is its version, as HTML; empty if it is no time."""
    time = None if release is None else _time(release)
    return Markup("") if time is None else _element(time, f"{time:%-d %b %Y}")


def clock(seconds: float) -> Markup:
    """Format the time of day, with seconds, as HTML."""
    time = _time(seconds)
    return Markup("") if time is None else _element(time, f"{time:%H:%M:%S} UTC")


def fingerprint(key_id: str) -> str:
    """Shorten a fingerprint."""
    return key_id[:_SHORT]


def _time(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _no_time(seconds: float | None) -> Markup:
    return Markup("never") if seconds is None else Markup("at a time that is wrong")


def _element(time: datetime, text: str) -> Markup:
    title = f"{time:%-d %B %Y, %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        f"{time:%Y-%m-%dT%H:%M:%SZ}", title, text
    )
