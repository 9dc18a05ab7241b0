"""A report on its way into the database, and the answer to it."""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen

from opq_twisted.report.document import Report


@frozen(kw_only=True)
class Incoming:
    """A report that is in the right format; its signature has not been verified yet."""

    report: Report
    #: The bytes that were signed.
    body: bytes
    signature: str
    #: The network of the sender, which bounds how many new keys it may bring; never stored. It is
    #: empty, and nothing is bounded, for a program on this machine.
    network: str
    #: Seconds since the epoch.
    received: float


@frozen
class Answer:
    """The status and the JSON of an answer, and what it is counted as in the metrics."""

    code: int
    #: The label `result` of `opq_reports_total`, such as `stored`, `unknown-key`, `replayed`.
    result: str
    content: Mapping[str, Any] = Factory(dict)
    #: Seconds; None for no `Retry-After`.
    retry_after: float | None = None
