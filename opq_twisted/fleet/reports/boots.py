"""Notices that two boxes use one key, by the starts of their machines."""

from attrs import evolve

from opq_twisted.fleet.store.reported import StoredBox

#: Earlier starts that are remembered.
MAX_BOOTS = 8


def follow_boot(box: StoredBox, boot: str, received: float) -> StoredBox:
    """
    Return a box after a report that came from this start of its machine.

    Each start has a random number of its own, so one machine never comes back to an earlier one. A
    cloned card does, as soon as both machines report in turn.
    """
    if boot == box.boot or box.boot is None:
        return evolve(box, boot=boot)
    cloned_at = received if boot in box.boots else box.cloned_at
    boots = (*(each for each in box.boots if each != boot), box.boot)[-MAX_BOOTS:]
    return evolve(box, boot=boot, boots=boots, cloned_at=cloned_at)
