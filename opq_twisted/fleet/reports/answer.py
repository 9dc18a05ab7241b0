"""The answer to a report."""

import random
from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen
from twisted.web.http import SERVICE_UNAVAILABLE

#: Minimum and maximum of the seconds after which a box may try again. The number is random, so
#: that not all boxes come back at once.
_RETRY_AFTER = (10, 60)


@frozen
class Answer:
    """The status and the JSON of an answer, and its name in the metrics."""

    code: int
    #: The label `result` of `opq_reports_total`, such as `stored`, `unknown-key`, `replayed`.
    result: str
    content: Mapping[str, Any] = Factory(dict)
    #: Seconds; None for no `Retry-After`.
    retry_after: float | None = None


def choose_retry_after() -> float:
    """Choose the number of seconds after which a box may try again."""
    return random.uniform(*_RETRY_AFTER)  # noqa: S311


def refuse_for_now(result: str) -> Answer:
    """Make the answer to a report that cannot be stored now."""
    return Answer(SERVICE_UNAVAILABLE, result, retry_after=choose_retry_after())
