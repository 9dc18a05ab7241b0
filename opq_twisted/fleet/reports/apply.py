"""Stores a batch of reports."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from attrs import evolve
from sqlalchemy import Connection

from opq_twisted.fleet.keys.replacement import Successor, replace_silent
from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.attempts import MAX_IN_DAY, contradicts, done, follow
from opq_twisted.fleet.reports.authentication import Authenticator
from opq_twisted.fleet.reports.clones import detect_clone
from opq_twisted.fleet.reports.enrolment import EnrolmentPolicy
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.reports.rows import Changes, StoredAttempt, StoredBox
from opq_twisted.fleet.reports.sequence import check_seq, digest, is_replay
from opq_twisted.fleet.reports.storage import (
    add_boxes,
    count_attempts,
    load_attempts,
    lock_boxes,
    save,
)
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.report.document import DEFAULT_NEXT_IN, Report

_DAY = 24 * 3600.0


def apply(
    connection: Connection, batch: Sequence[Incoming], enrolment: EnrolmentPolicy
) -> list[Answer]:
    """
    Verify and store reports in the order of the batch, and return the answer to each.

    The answers may be sent only after the commit; after it, call `enrolment.confirm`. A refused
    report changes nothing, and the others of the batch are stored.

    :raises SQLAlchemyError: if the database fails, or another server changes the same rows. Then
        nothing may be committed, and the same batch can be applied again.
    """
    boxes = lock_boxes(connection, {each.report.key for each in batch})
    authenticator = Authenticator(enrolment, boxes)
    refusals = [authenticator.check(each) for each in batch]
    boxes |= add_boxes(connection, authenticator.new)
    signed = [each for each, refusal in zip(batch, refusals, strict=True) if refusal is None]
    state = _BatchState(boxes)
    state.load(connection, signed)
    answers = [refusal or state.apply(each) for each, refusal in zip(batch, refusals, strict=True)]
    state.save(connection)
    enrolment.stage(authenticator.networks)
    return answers


class _BatchState:
    """The boxes and attempts of a batch, changed by each of its reports in turn."""

    def __init__(self, boxes: dict[str, StoredBox]) -> None:
        self._boxes = boxes
        self._attempts: defaultdict[int, dict[str, StoredAttempt]] = defaultdict(dict)
        self._stored: frozenset[tuple[int, str]] = frozenset()
        self._changed: dict[tuple[int, str], StoredAttempt] = {}
        #: The new attempts of the last day, by row.
        self._new: Counter[int] = Counter()
        self._accepted: dict[str, Incoming] = {}

    def load(self, connection: Connection, signed: Sequence[Incoming]) -> None:
        """Read the attempts that reports can change."""
        reported = {
            (self._boxes[each.report.key].row, attempt.id)
            for each in signed
            for attempt in each.report.attempts
        }
        rows = {self._boxes[each.report.key].row for each in signed}
        stored = load_attempts(connection, rows, {name for _, name in reported})
        for each in stored:
            self._attempts[each.box][each.attempt_id] = each
        self._stored = frozenset((each.box, each.attempt_id) for each in stored)
        new = {row for row, _ in reported - self._stored}
        since = min((each.received for each in signed), default=0.0) - _DAY
        self._new = count_attempts(connection, new, since)

    def apply(self, incoming: Incoming) -> Answer:
        """Apply a report whose signature is valid, and return the answer."""
        report = incoming.report
        box = self._boxes[report.key]
        if box.state == BoxState.DISTRUSTED:
            return Answer(403, "distrusted")
        if is_replay(box, incoming):
            return self._stored_answer(box.row, report, "replayed")
        if refusal := check_seq(box, incoming):
            return refusal
        self._boxes[report.key] = _after(box, incoming)
        self._accepted[report.key] = incoming
        result = self._apply_attempts(box.row, incoming)
        return self._stored_answer(box.row, report, result)

    def save(self, connection: Connection) -> None:
        """Write what has changed."""
        changes = Changes()
        for key, incoming in self._accepted.items():
            changes.boxes.append((self._boxes[key], incoming.report))
        for row, each in self._changed.items():
            is_old = row in self._stored
            (changes.old_attempts if is_old else changes.new_attempts).append(each)
        save(connection, changes)
        replace_silent(
            connection,
            [
                Successor(box.row, report.box, box.first_seen or 0.0, box.last_seen or 0.0)
                for box, report in changes.boxes
                if report.box
            ],
        )

    def _apply_attempts(self, row: int, incoming: Incoming) -> str:
        known, report = self._attempts[row], incoming.report
        result = "contradicted" if contradicts(known, report) else "stored"
        room = MAX_IN_DAY - self._new[row]
        changed = follow(known, row, report, incoming.received, room)
        self._new[row] += len(changed.keys() - known.keys())
        known |= changed
        self._changed |= {(row, name): each for name, each in changed.items()}
        return result

    def _stored_answer(self, row: int, report: Report, result: str) -> Answer:
        return Answer(200, result, {"seq": report.seq, "done": done(self._attempts[row], report)})


def _after(box: StoredBox, incoming: Incoming) -> StoredBox:
    """Return a box after a report was accepted."""
    report, received = incoming.report, incoming.received
    is_admitted = box.state == BoxState.ADMITTED
    return evolve(
        detect_clone(box, report.boot, received),
        # A key that was replaced or gone counts again as a box, so that an operator sees it.
        state=BoxState.ADMITTED if is_admitted else BoxState.KNOWN,
        replaced_by=None,
        seq=report.seq,
        digest=digest(incoming),
        first_seen=box.first_seen or received,
        last_seen=received,
        due=received + _promised(report),
    )


def _promised(report: Report) -> int:
    """
    Return the seconds within which a box has promised its next report.

    A longer promise than the default is shortened, so that no box can hide its silence by it.
    """
    return DEFAULT_NEXT_IN if report.next_in is None else min(report.next_in, DEFAULT_NEXT_IN)
