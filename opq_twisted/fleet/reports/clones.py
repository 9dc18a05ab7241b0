"""Notices that two boxes use one key: a box reports the random id of its machine's last start."""

from attrs import evolve

from opq_twisted.fleet.reports.rows import StoredBox

#: Earlier starts that are remembered.
MAX_BOOTS = 8

#: If nothing shows two machines for so many seconds, the box no longer counts as cloned.
CLONE_AGE = 30 * 24 * 3600.0


def detect_clone(box: StoredBox, boot: str, received: float) -> StoredBox:
    """
    Return a box after a report, with a mark if two machines seem to use its key.

    Each start of a machine has a new random id, so one machine never reports an earlier id again.
    If a card was cloned, and both machines report in turn, an earlier id comes back.

    :param boot: the id of the machine's last start.
    """
    cloned_at = box.cloned_at
    # The server's clock may have been ahead.
    if cloned_at is not None and abs(received - cloned_at) > CLONE_AGE:
        cloned_at = None
    if boot == box.boot or box.boot is None:
        return evolve(box, boot=boot, cloned_at=cloned_at)
    if boot in box.boots:
        cloned_at = received
    boots = (*(each for each in box.boots if each != boot), box.boot)[-MAX_BOOTS:]
    return evolve(box, boot=boot, boots=boots, cloned_at=cloned_at)
