"""The changes of the database that `opq-fleet` and the page can make."""

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.control.answers import Content, RequestInvalid
from opq_twisted.fleet.control.fields import Fields
from opq_twisted.fleet.control.rollouts import describe
from opq_twisted.fleet.keys import admission, removal
from opq_twisted.fleet.keys.admission import Admission
from opq_twisted.fleet.rollouts import orders
from opq_twisted.fleet.rollouts.orders import Order
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.trust.pace import ALL

#: Changes the database; the note has the name of the user, and the reason.
Change = Callable[[Connection, AuditNote], Content]

#: Checks the fields of a request, and returns the change.
MakeChange = Callable[[Fields], Change]


class Changes:
    """Makes a change from the fields of a request, by the name of the command."""

    def __init__(self, now: Callable[[], float], pace_changed: Callable[[], bool]) -> None:
        """
        :param now: gives seconds since the epoch.
        :param pace_changed: called after the pace of a rollout was changed; returns whether this
            process will sign a new timestamp.
        """
        self._now = now
        self._pace_changed = pace_changed

    def sign_pace(self, content: Content) -> Content:
        """Let a changed pace be signed after its commit, and note whether this process does it."""
        return {**content, "signs_here": self._pace_changed()}

    def hold(self, fields: Fields) -> Change:
        """Let no box install a release by itself."""
        return self._order(fields, orders.hold)

    def resume(self, fields: Fields) -> Change:
        """Let boxes install a held release again."""
        at_bp = fields.number("at_bp", ALL)
        return self._order(fields, partial(orders.resume, at_bp=at_bp))

    def widen(self, fields: Fields) -> Change:
        """Let more boxes install a release."""
        to_bp = fields.number("to_bp", ALL)
        return self._order(fields, partial(orders.widen, to_bp=to_bp))

    def admit(self, fields: Fields) -> Change:
        """Trust keys."""
        wanted = [_admission(item) for item in fields.items("keys", admission.MAX_KEYS)]

        def change(connection: Connection, note: AuditNote) -> Content:
            done = admission.admit(connection, wanted, note, self._now())
            return {"admitted": done.keys, "replaced": done.replaced}

        return change

    def distrust(self, fields: Fields) -> Change:
        """Refuse all reports of a key from now on."""
        key = fields.text("key")

        def change(connection: Connection, note: AuditNote) -> Content:
            row = removal.distrust(connection, key, note, self._now())
            return {"key_id": row.key_id, "box_id": row.box_id, "state_before": row.state}

        return change

    def forget(self, fields: Fields) -> Change:
        """Delete a box, and its attempts."""
        name = fields.text("name")

        def change(connection: Connection, note: AuditNote) -> Content:
            done = removal.forget(connection, name, note, self._now())
            return {"box_id": done.box_id, "keys": done.keys, "attempts": done.attempts}

        return change

    def _order(self, fields: Fields, give: Callable[[Connection, Order], Rollout]) -> Change:
        release, channel = fields.required_number("release"), fields.word("channel")

        def change(connection: Connection, note: AuditNote) -> Content:
            order = Order(note=note, release=release, channel=channel, now=self._now())
            return describe(give(connection, order))

        return change


def _admission(item: object) -> Admission:
    if not isinstance(item, dict):
        raise RequestInvalid("A key is not a JSON object.")
    fields = Fields(item)
    key_id = fields.hexadecimal("key_id")
    if not key_id:
        raise RequestInvalid("The field 'key_id' is missing.")
    return Admission(fields.required_number("box_id"), key_id)
