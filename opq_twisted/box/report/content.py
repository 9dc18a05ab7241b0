"""Tells whether a report has something new to say."""

from attrs import define, evolve

from opq_twisted.report.document import Report

#: Seconds after which a report that was refused is sent again.
_DAY = 24 * 3600.0


@define
class LastContent:
    """The content that the server accepted last, and the one that it refused last."""

    _accepted: Report | None = None
    #: When a report with the same content is to be sent, by the clock.
    _renew_at: float = 0.0
    _refused: Report | None = None
    _refused_at: float = 0.0

    def is_to_be_sent(self, content: Report, now: float) -> bool:
        """Whether a content is new, or has to be renewed, or was refused a day ago."""
        if content == self._refused and now - self._refused_at < _DAY:
            return False
        return content != self._accepted or now >= self._renew_at

    def accept(self, content: Report | None, renew_at: float) -> None:
        """Remember what the server has accepted; None if the box has more to say already."""
        self._accepted, self._renew_at, self._refused = content, renew_at, None

    def refuse(self, content: Report, now: float) -> None:
        """Remember what the server has refused."""
        self._refused, self._refused_at = content, now


def content_of(report: Report) -> Report:
    """Return a report without the fields that always change."""
    attempts = (
        attempt if attempt.outcome is not None else evolve(attempt, took=0)
        for attempt in report.attempts
    )
    return evolve(report, seq=0, next_in=None, pubkey=None, proof=None, attempts=tuple(attempts))
