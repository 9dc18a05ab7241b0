"""Admits the keys that an operator names, each with a row in the audit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from attrs import frozen
from sqlalchemy import Connection, insert, or_, select, update

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.audit import AuditNote, record_boxes
from opq_twisted.fleet.keys.replacement import replace
from opq_twisted.fleet.store.schema import box
from opq_twisted.fleet.store.states import BoxState

_T = TypeVar("_T")

#: The limit of keys in one admission.
MAX_KEYS = 10_000

#: The number of values in one statement, which databases limit.
_AT_ONCE = 1000

#: In these states, a key is replaced when another key of the same box is admitted.
_GIVES_WAY = (BoxState.KNOWN, BoxState.ADMITTED, BoxState.GONE)


class NotAdmitted(OpqError):
    """At least one key cannot be admitted, so none was."""

    def __init__(self, mistakes: Mapping[int, str]) -> None:
        """:param mistakes: sentences by the position of the key, from 0."""
        super().__init__("No key was admitted.")
        self.mistakes = mistakes


@frozen
class Admission:
    """A key that an operator trusts, and the number of its box; 0 if that has none."""

    box_id: int
    key_id: str


@frozen
class Admitted:
    """The result of an admission."""

    keys: int
    #: The number of other keys of the same boxes, which were replaced.
    replaced: int


def admit(
    connection: Connection, wanted: Sequence[Admission], note: AuditNote, now: float
) -> Admitted:
    """
    Trust keys; each replaces the other keys with the same `box_id`.

    :param now: seconds since the epoch.
    :raises NotAdmitted: if a key is named twice or reports another `box_id`, or if two keys are for
        the same `box_id`.
    """
    rows = list(_lock(connection, wanted))
    known = {row.key_id: row for row in rows}
    if mistakes := _mistakes(wanted, known):
        raise NotAdmitted(mistakes)
    admitted = _admit(connection, wanted, known)
    replaced = _replace(connection, {each.box_id: admitted[each.key_id] for each in wanted}, rows)
    changes = {
        admitted[each.key_id]: f"A key of {name_of(each.box_id)} is admitted." for each in wanted
    }
    record_boxes(connection, note, now, what="admit", changes=changes)
    return Admitted(len(wanted), replaced)


def name_of(box_id: int) -> str:
    """Name a box in a sentence."""
    return f"box {box_id}" if box_id else "a box without a number"


def _lock(connection: Connection, wanted: Sequence[Admission]) -> Iterator[Any]:
    """Yield the rows of the keys, and of the others with the same numbers, each once."""
    seen = set()
    for part in _parts(wanted):
        query = (
            select(box.c.id, box.c.key_id, box.c.box_id, box.c.state, box.c.last_seen)
            .where(
                or_(
                    box.c.key_id.in_([each.key_id for each in part]),
                    box.c.box_id.in_([each.box_id for each in part if each.box_id]),
                )
            )
            # Reports lock their rows in the same order, so that there is no deadlock.
            .order_by(box.c.key_id)
            .with_for_update()
        )
        for row in connection.execute(query):
            if row.id not in seen:
                seen.add(row.id)
                yield row


def _mistakes(wanted: Sequence[Admission], known: Mapping[str, Any]) -> Mapping[int, str]:
    keys, numbers, found = set(), set(), {}
    for position, each in enumerate(wanted):
        row = known.get(each.key_id)
        if each.key_id in keys:
            found[position] = "This key is named twice."
        elif each.box_id in numbers:
            found[position] = f"Another line admits a key for {name_of(each.box_id)}."
        elif row is not None and row.last_seen is not None and row.box_id != each.box_id:
            found[position] = f"This key has sent reports of {name_of(row.box_id)}."
        keys.add(each.key_id)
        numbers |= {each.box_id} - {0}
    return found


def _admit(
    connection: Connection, wanted: Sequence[Admission], known: Mapping[str, Any]
) -> Mapping[str, int]:
    """Write the keys, and return their row numbers."""
    numbers = {each.key_id: known[each.key_id].id for each in wanted if each.key_id in known}
    changes = {"state": BoxState.ADMITTED, "replaced_by": None}
    for part in _parts(list(numbers.values())):
        connection.execute(update(box).where(box.c.id.in_(part)).values(changes))
    new = [
        {"key_id": each.key_id, "box_id": each.box_id, "state": BoxState.ADMITTED, "seq": 0}
        for each in wanted
        if each.key_id not in known
    ]
    if new:
        made = connection.execute(insert(box).returning(box.c.key_id, box.c.id), new)
        numbers |= {row.key_id: row.id for row in made}
    return numbers


def _replace(connection: Connection, successors: Mapping[int, int], rows: Sequence[Any]) -> int:
    """Mark keys as replaced by their `successors`: the row of the new key by `box_id`."""
    replaced = [
        (row.id, successors[row.box_id])
        for row in rows
        if row.box_id
        and successors.get(row.box_id) not in (None, row.id)
        and row.state in _GIVES_WAY
    ]
    replace(connection, replaced)
    return len(replaced)


def _parts(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
