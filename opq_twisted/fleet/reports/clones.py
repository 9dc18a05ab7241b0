"""Notices that two boxes use one key, by the starts of their machines."""

from attrs import evolve

from opq_twisted.fleet.reports.stored import StoredBox

#: Earlier starts that are remembered.
MAX_BOOTS = 8

#: Seconds after the last sign of a second machine until the box is no longer shown as cloned.
CLONE_AGE = 30 * 24 * 3600.0


def detect_clone(box: StoredBox, boot: str, received: float) -> StoredBox:
    """
    Return a box after a report that came from this start of its machine.

    Each start has a random number of its own, so one machine never comes back to an earlier one. A
    cloned card does, as soon as both machines report in turn.
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
