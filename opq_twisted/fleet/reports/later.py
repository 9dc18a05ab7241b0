"""The answers to reports that are not stored now, and come again."""

import random

from twisted.web.http import SERVICE_UNAVAILABLE

from opq_twisted.fleet.reports.incoming import Answer

#: Minimum and maximum of the seconds after which a box that was turned away may try again. The
#: number is random, so that not all boxes come back at once.
_RETRY_AFTER = (10, 60)


def retry_after() -> float:
    """Choose after how many seconds a box may try again."""
    return random.uniform(*_RETRY_AFTER)  # noqa: S311


def turned_away(result: str) -> Answer:
    """Make the answer to a report that cannot be stored now."""
    return Answer(SERVICE_UNAVAILABLE, result, retry_after=retry_after())
