"""Tells which attempts have fallen silent."""

from sqlalchemy import ColumnElement, and_

from opq_twisted.fleet.store.schema import attempt, box

#: Seconds without a report after which a box that was about to install is silent.
SILENT_AFTER = 6 * 3600.0

#: The stages from the installation to the end of an attempt, as boxes report them.
_INSTALLING = ("installing", "rebooting", "confirming", "returning")


def fell_silent(start: float, end: float) -> ColumnElement[bool]:
    """
    Return the condition that an attempt, joined with its box, fell silent in a period.

    :param start: seconds since the epoch, as the end; 0 for all that are silent at the end.
    """
    return and_(
        attempt.c.outcome.is_(None),
        attempt.c.stage.in_(_INSTALLING),
        box.c.last_seen >= start - SILENT_AFTER,
        box.c.last_seen < end - SILENT_AFTER,
    )
