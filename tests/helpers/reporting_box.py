"""A box that makes signed reports."""

import random
from typing import Any

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.report.document import AttemptReport, Report
from opq_twisted.report.signature import key_id, proof_of, sign
from tests.helpers.example_report import REPORT

#: The releases of the tests, the older one first.
OLD, NEW = 1547860803, 1547947203

#: The time of the first report.
NOW = 1_790_000_000.0

HOUR = 3600.0
DAY = 24 * HOUR


class ReportingBox:
    """Has a key, and makes reports with growing sequence numbers."""

    def __init__(self, number: int = 7, **fields: Any) -> None:
        """:param fields: values of `Report` other than the usual ones."""
        self.private = Ed25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()
        self.key = key_id(self.public)
        own = {"key": self.key, "seq": 0, "box": number, "pubkey": self.public.hex()}
        self.report = evolve(REPORT, **{**own, **fields})

    def prove(self, token: str) -> None:
        """Let the reports have the proof of a token."""
        self.report = evolve(self.report, proof=proof_of(token, self.public))

    def send(self, received: float = NOW, network: str = "192.0.2.1", **fields: Any) -> Incoming:
        """Make the next report, as it comes in; the fields stay for those after it."""
        self.report = evolve(self.report, **{"seq": self.report.seq + 1, **fields})
        return self.sign(self.report, received, network)

    def sign(self, report: Report, received: float = NOW, network: str = "192.0.2.1") -> Incoming:
        """Sign a report, as it comes in."""
        body = report.to_json()
        return Incoming(
            report=report,
            body=body,
            signature=sign(self.private, body),
            network=network,
            received=received,
        )


def attempt(**fields: Any) -> AttemptReport:
    """Make an attempt that is about to install the new release."""
    usual = AttemptReport(
        id=f"{random.getrandbits(128):032x}",
        release=NEW,
        previous=OLD,
        began=int(NOW),
        took=60,
        automatic=True,
        stage="installing",
        fetched=1000,
        size=2000,
    )
    return evolve(usual, **fields)
