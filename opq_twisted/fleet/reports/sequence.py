"""Judges the sequence number of a report."""

import hashlib

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.reports.stored import StoredBox

#: A number may be ahead of the last one by so much. Otherwise one damaged journal would bring a box
#: to the last number that JSON can carry, after which it could report nothing more. A box that is
#: further ahead gets 409, and goes on after the number that the server has.
MAX_AHEAD = 2**32


def check_seq(box: StoredBox, incoming: Incoming) -> Answer | None:
    """Return the refusal of a report by its number; None if it is newer than the last one."""
    seq = incoming.report.seq
    is_newer = box.digest is None or seq > box.seq
    if is_newer and seq <= box.seq + MAX_AHEAD:
        return None
    return Answer(409, "sequence", {"seq": box.seq})


def is_replay(box: StoredBox, incoming: Incoming) -> bool:
    """Whether a report is the last one of its box once more, byte by byte."""
    return incoming.report.seq == box.seq and digest(incoming) == box.digest


def digest(incoming: Incoming) -> bytes:
    """Return the SHA-256 of a report."""
    return hashlib.sha256(incoming.body).digest()
