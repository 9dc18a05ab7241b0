"""A report on its way into the database."""

from attrs import frozen

from opq_twisted.report.document import Report


@frozen(kw_only=True)
class Incoming:
    """A report that is in the right format; its signature has not been verified yet."""

    report: Report
    #: The bytes that were signed.
    body: bytes
    signature: str
    #: The network of the sender, for the limit of new keys; it is never stored. For a program on
    #: this machine it is empty, and there is no limit.
    network: str
    #: Seconds since the epoch.
    received: float
