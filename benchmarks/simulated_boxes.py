"""Boxes that exist only as keys: they sign the reports of a fleet."""

import hashlib
import uuid

from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from opq_twisted.report.document import AttemptReport, Report
from opq_twisted.report.signature import HEADER, key_id, sign


@define
class SimulatedBox:
    """A box with a key that follows from its number."""

    #: The number in its configuration, and of its row; from 1.
    number: int
    #: The number of its last report.
    seq: int = 0
    _key: Ed25519PrivateKey = field(init=False)
    public: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        seed = hashlib.sha256(b"box %d" % self.number).digest()
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def address(self) -> str:
        """An address of its own, as a proxy would pass it on."""
        number = self.number
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def report(self, release: int, before: int) -> Report:
        """Make the report of a box that has just updated to a release from the one before."""
        self.seq += 1
        return Report(
            key=key_id(self.public),
            seq=self.seq,
            box=self.number,
            agent="0.3",
            release=release,
            channel="stable",
            install="automatic",
            root=3,
            snapshot=14,
            boot=f"{self.number:08x}",
            arch="aarch64",
            python="3.11",
            waiting=None,
            last_good=release,
            attempts=(
                AttemptReport(
                    id=uuid.uuid5(uuid.NAMESPACE_OID, f"{self.number} {release}").hex,
                    release=release,
                    previous=before,
                    began=release + 3600,
                    took=240,
                    automatic=True,
                    stage="idle",
                    outcome="updated",
                    fetched=141_500,
                    size=12_300_000,
                ),
            ),
        )

    def request(self, report: Report) -> bytes:
        """Sign a report; returns the HTTP request, as a proxy would pass it on."""
        body = report.to_json()
        head = (
            f"POST /report HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
            f"X-Forwarded-For: {self.address}\r\n{HEADER}: {sign(self._key, body)}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body
