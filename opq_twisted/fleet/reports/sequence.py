"""Judges the sequence number of a report."""

import hashlib

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.reports.rows import StoredBox

#: A number may be larger than the last one by at most this. Otherwise a damaged journal could use
#: the largest number that JSON can carry, and the box could never report again. A box with a larger
#: number gets 409 with the server's number, and continues after that.
MAX_AHEAD = 2**32


def check_seq(box: StoredBox, incoming: Incoming) -> Answer | None:
    """Return the refusal of a report because of its number; None if it follows the last one."""
    seq = incoming.report.seq
    is_newer = box.digest is None or seq > box.seq
    if is_newer and seq <= box.seq + MAX_AHEAD:
        return None
    return Answer(409, "sequence", {"seq": box.seq})


def is_replay(box: StoredBox, incoming: Incoming) -> bool:
    """Whether a report has the same bytes as the last one of its box."""
    return incoming.report.seq == box.seq and digest(incoming) == box.digest


def digest(incoming: Incoming) -> bytes:
    """Return the SHA-256 of a report."""
    return hashlib.sha256(incoming.body).digest()
