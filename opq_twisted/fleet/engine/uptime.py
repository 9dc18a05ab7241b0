"""Computes the time in which the server could hear its boxes."""

from collections.abc import Iterable

from attrs import field, frozen


def _merge(outages: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    merged: list[tuple[float, float]] = []
    for began, ended in sorted(outages):
        if merged and began <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], ended)
        elif ended > began:
            merged.append((began, ended))
    return tuple(merged)


@frozen
class Uptime:
    """The time without outages."""

    #: The beginning and the end of each, in seconds since the epoch, in order, without overlaps.
    outages: tuple[tuple[float, float], ...] = field(default=(), converter=_merge)

    def between(self, start: float, end: float) -> float:
        """Return the seconds of a period that lie in no outage."""
        lost = (max(0.0, min(end, ended) - max(start, began)) for began, ended in self.outages)
        return max(0.0, end - start - sum(lost))

    def before(self, end: float, seconds: float) -> float:
        """Return the latest time from which there are `seconds` without outages until `end`."""
        start = end - seconds
        for began, ended in reversed(self.outages):
            if ended <= start:
                break
            if began < end:
                start -= min(end, ended) - began
        return start

    def is_settled(self, now: float, seconds: float) -> bool:
        """Whether the last outage ended at least so many seconds ago."""
        return not self.outages or now - self.outages[-1][1] >= seconds
