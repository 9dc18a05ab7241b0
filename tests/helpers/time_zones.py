"""Puts a test into another time zone."""

import os
import time
from datetime import UTC, datetime
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

#: Central Europe: an hour is left out on 2026-03-29 at 02:00, and comes twice on 2026-10-25.
EUROPE = "CET-1CEST,M3.5.0,M10.5.0/3"


def move_to(case: SynchronousTestCase, zone: str) -> None:
    """Set the machine's time zone until the end of a test."""
    case.addCleanup(time.tzset)
    case.enterContext(patch.dict(os.environ, {"TZ": zone}))
    time.tzset()


def at(day: str, shown: str, ahead: float = 1) -> float:
    """Return the seconds since the epoch of a local time, so many hours ahead of UTC."""
    return datetime.fromisoformat(f"{day}T{shown}").replace(tzinfo=UTC).timestamp() - ahead * 3600
