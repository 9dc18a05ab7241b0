"""Verifies the signature of each report of a batch."""

from collections import Counter
from collections.abc import MutableMapping

from attrs import evolve

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.enrolment import EnrolmentPolicy
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.reports.rows import StoredBox
from opq_twisted.fleet.reports.sequence import check_seq
from opq_twisted.report.document import Report
from opq_twisted.report.signature import is_signed, key_id


class Authenticator:
    """Accepts the reports with a valid signature, and collects the new keys."""

    def __init__(self, enrolment: EnrolmentPolicy, boxes: MutableMapping[str, StoredBox]) -> None:
        """
        Begin a batch.

        :param boxes: the rows of the keys of the batch. A row without a public key gets it from a
            report.
        """
        self._enrolment = enrolment
        self._boxes = boxes
        #: The keys to add.
        self.new: dict[str, StoredBox] = {}
        #: The number of keys to add, by network.
        self.networks: Counter[str] = Counter()

    def check(self, incoming: Incoming) -> Answer | None:
        """Return the refusal of a report; None if its signature is that of its key."""
        report = incoming.report
        box = self._boxes.get(report.key) or self.new.get(report.key)
        if box is None and (refusal := self._enrolment.refuse(incoming, self.networks)):
            return refusal
        public = (box and box.pubkey) or _given(report)
        if public is None:
            return Answer(401, "unknown-key")
        if key_id(public) != report.key or not is_signed(public, incoming.body, incoming.signature):
            return Answer(401, "forged")
        if box is None:
            return self._enrol(incoming, public)
        if box.pubkey is None:
            self._boxes[report.key] = evolve(box, pubkey=public)
        return None

    def _enrol(self, incoming: Incoming, public: bytes) -> Answer | None:
        report = incoming.report
        if not self._enrolment.is_proved(public, report.proof):
            return Answer(403, "no-proof")
        new = StoredBox(key_id=report.key, pubkey=public, first_seen=incoming.received)
        if refusal := check_seq(new, incoming):
            return refusal
        self.new[report.key] = new
        self.networks[incoming.network] += 1
        return None


def _given(report: Report) -> bytes | None:
    return bytes.fromhex(report.pubkey) if report.pubkey else None
