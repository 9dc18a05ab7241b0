"""Formats versions, times, shares, sizes and suggestions for people."""

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo

_SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_NO_DATE = "a time after the year 9999"
_AGES = ((31_557_600, "year"), (2_629_800, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def version(number: int | None) -> str:
    """Format a version: `1547860803 (2019-01-19 02:20 CET)`, in local time."""
    return "unknown" if number is None else f"{number} ({moment(number)})"


def moment(seconds: float | None, never: str = "never") -> str:
    """
    Format a time: `2019-01-19 02:20 CET`, in local time.

    :param seconds: since the epoch.
    :param never: the text for None.
    """
    return never if seconds is None else _date(seconds, None)


def utc(seconds: float) -> str:
    """Format a time, given in seconds since the epoch: `2019-01-19 01:20 UTC`."""
    return _date(seconds, UTC)


def long_utc(seconds: float) -> str:
    """Format a time in words: `19 January 2019, 01:20 UTC`."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return _NO_DATE
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _date(seconds: float, zone: tzinfo | None) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC).astimezone(zone):%Y-%m-%d %H:%M %Z}"
    except (ValueError, OverflowError, OSError):
        return _NO_DATE


def duration(seconds: float) -> str:
    """Format a number of seconds exactly: `3 min 20 s`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def about(seconds: float) -> str:
    """Format a number of seconds roughly: `about 3 minutes`."""
    number, unit = seconds, "second"
    for length, name in ((60, "minute"), (3600, "hour")):
        if seconds >= 1.5 * length:
            number, unit = seconds / length, name
    return f"about {count(max(1, round(number)), unit)}"


def age(seconds: float) -> str:
    """Format the time since something happened, in its largest whole unit: `3 minutes ago`."""
    if seconds < 0:
        return "in the future"
    for length, unit in _AGES:
        if number := int(seconds // length):
            return f"{count(number, unit)} ago"
    return "just now"


def count(number: int, one: str, many: str = "") -> str:
    """
    Format a number of things: `1 key`, `4,310 boxes`.

    :param many: the noun for another number than 1; empty to append an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def boxes(number: int) -> str:
    """Format a number of boxes: `1 box`, `4,310 boxes`."""
    return count(number, "box", "boxes")


def percent(bp: int) -> str:
    """Format a share, given in hundredths of a percent: `5 %`, `0.25 %`."""
    return f"{bp / 100:.2f}".rstrip("0").rstrip(".") + " %"


def ordinal(number: int) -> str:
    """Format a place in a row: `1st`, `9th`, `22nd`."""
    last = number % 10 if number % 100 not in (11, 12, 13) else 0
    return f"{number:,}" + {1: "st", 2: "nd", 3: "rd"}.get(last, "th")


def size(count: float) -> str:
    """Format a number of bytes that is compared with others: `12.3 MB`, `0.5 MB`, `0.08 MB`."""
    digits = 1 if count >= 95_000 else 2
    return f"{count / 1e6:.{digits}f} MB"


def part_of(count: float, total: float | None) -> str:
    """Format a number of bytes and their total, unless they are all: `0.08 MB of 12.3 MB`."""
    if total is None or count >= total:
        return size(count)
    return f"{size(count) if count else '0'} of {size(total)}"


def download_progress(received: float, total: float | None, rate: float, here: float = 0) -> str:
    """
    Describe the progress of a download: `3.2 MB of 12.3 MB, 1.0 MB a second`.

    :param received: bytes.
    :param total: the number of bytes that have to be downloaded; None if unknown.
    :param rate: bytes per second.
    :param here: the number of other bytes, which are copied from a file on this disk.
    """
    speed = f"{size(rate)} a second"
    if total is None:
        return f"{size(received)}, {speed}"
    if not here:
        return f"{size(received)} of {size(total)}, {speed}"
    others = f"the other {size(here)} are here already"
    if received >= total:
        return f"{size(total)} downloaded, {others}"
    if not received:
        return f"{size(total)} of {size(total + here)} to download, the rest is here already"
    return f"{size(received)} of {size(total)}, {speed}; {others}"


def short_size(count: int) -> str:
    """Format a number of bytes in its largest unit: `1.2 GB`, `512 B`."""
    for length, unit in _SIZES:
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def mebibytes(count: int) -> str:
    """Format a number of bytes that are needed or allowed, rounded up: `64 MiB`."""
    return f"{-(-count >> 20)} MiB"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the most similar known word, or nothing."""
    # Imported late: only a mistake needs it.
    from difflib import get_close_matches

    similar = get_close_matches(word, known, 1)
    return f": did you mean {similar[0]}?" if similar else ""


def wrong_command_line(command: str, mistake: str) -> str:
    """Describe a mistake in a command line; `command` is the program, and its command if any."""
    sentence = mistake[:1].upper() + mistake[1:].rstrip(".")
    mark = "" if sentence.endswith("?") else "."
    return f"{command.partition(' ')[0]}: {sentence}{mark} Try: {command} --help"
