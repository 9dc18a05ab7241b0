"""Decides within which time a report promises the next one."""

from collections.abc import Iterable

from opq_twisted.box.state.records import Attempt
from opq_twisted.report.codes import Waiting
from opq_twisted.report.document import DEFAULT_NEXT_IN

#: Seconds: the promise while a release is on its way to the boxes.
SOON = 3 * 3600

#: Seconds after the end of an attempt for which the box promises its reports soon.
_AFTER_ATTEMPT = 24 * 3600.0


def choose_promise(waiting: Waiting | None, attempts: Iterable[Attempt], now: float) -> int:
    """
    Return the seconds within which the box reports again.

    The server has to hear soon whether a box that has just been updated is still there, and
    compares it with boxes that wait for their turn: if those are silent as well, it is the network.

    :param attempts: the attempts that have ended.
    :param now: the time of day, in seconds since the epoch.
    """
    # The clock of the box may have been set since: an end in the future says nothing.
    is_recent = any(0 <= now - each.ended < _AFTER_ATTEMPT for each in attempts)
    return SOON if waiting is Waiting.TURN or is_recent else DEFAULT_NEXT_IN
