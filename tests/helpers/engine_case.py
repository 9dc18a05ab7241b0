"""A fleet on a clock of its own, whose rollouts an engine judges every few hours."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.engine.service import Engine
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.announce import announce
from opq_twisted.fleet.rollouts.orders import Order
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import attempt, audit, box
from opq_twisted.fleet.webhook.outbox import Event, Notice
from opq_twisted.fleet.widen_hours import WidenHours
from opq_twisted.trust.pace import ALL, ChannelRelease
from tests.helpers.fleet_rows import NEW, NOW, attempt_values, box_values
from tests.helpers.store_case import StoreCase

HOUR = 3600.0
DAY = 24 * HOUR

#: Hours between two runs: a test goes through days.
_STEP = 4

#: As in a server, but for that.
TIMING = Timing(period=_STEP * HOUR, gap=(2 * _STEP + 1) * HOUR)

NOTE = AuditNote(who="anna", because="it was the network of one school")


class EngineCase(StoreCase):
    """Forty boxes that report every few hours, and an engine."""

    mode: Rollouts = "auto"
    boxes = 40

    def setUp(self) -> None:
        super().setUp()
        self.time = NOW
        self.hours = WidenHours()
        self.problem: str | None = None
        self.is_away = False
        #: The events for the webhook, and what they say.
        self.told: list[tuple[Event, str]] = []
        #: How often a new timestamp was asked for.
        self.paces_changed = 0
        #: Called once after the engine has counted.
        self.meanwhile: Callable[[], object] | None = None
        #: The boxes that report no more.
        self.silent: set[int] = set()
        self.attempts = 0
        self.patch(self.database, "read", self.in_this_thread(self.database.read_now))
        self.patch(self.database, "write", self.in_this_thread(self.database.write_now))
        self.rows = self.write(self.add_boxes)
        self.engine = self.make_engine()

    def add_boxes(self, connection: Connection) -> dict[int, int]:
        """Add the boxes, which wait for their turn; returns their rows by their numbers."""
        columns = {"waiting": "turn", "last_seen": NOW, "due": NOW + _STEP * HOUR}
        rows = [box_values(number, **columns) for number in range(1, self.boxes + 1)]
        connection.execute(insert(box), rows)
        return {row.box_id: row.id for row in connection.execute(select(box.c.box_id, box.c.id))}

    def make_engine(self, clock: Clock | None = None, timing: Timing = TIMING) -> Engine:
        """
        Make the engine of another process.

        :param clock: starts its runs, if the service is started.
        """
        judge = Judge(
            mode=self.mode,
            timing=timing,
            hours=self.hours,
            metadata_problem=lambda: self.problem,
        )

        def assess(connection: Connection, now: float) -> Sequence[Assessment]:
            found = judge.assess(connection, now)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                meanwhile()
            return found

        return Engine(
            clock or Clock(),
            self.database,
            lambda: self.time,
            timing,
            self.mode,
            assess,
            notify=self.tell,
            pace_changed=self.pace_changed,
        )

    def in_this_thread(self, function: Any) -> Any:
        def run(question: Any) -> Deferred[Any]:
            if self.is_away:
                return maybeDeferred(self.fail_question)
            return maybeDeferred(function, question)

        return run

    def fail_question(self) -> None:
        raise StoreUnavailable("The database of the fleet cannot be used: it is away.")

    def tell(self, _connection: Connection, _now: float, told: Notice) -> None:
        """Note an event, as a `Notify`."""
        self.told.append((told.event, told.text))

    def pace_changed(self) -> None:
        """Stand in for what signs a timestamp."""
        self.paces_changed += 1

    def announce(self, release: int = NEW, ceiling: int = ALL, *, sha256: str = "ab" * 32) -> None:
        """Let the timestamp name a release."""
        named = ChannelRelease("stable", release, sha256, ceiling, False)
        self.write(lambda store: announce(store, [named], self.mode, self.time))

    def order(self, give: Any, *more: Any, release: int = NEW) -> Rollout:
        """Give an order as a person."""
        order = Order(note=NOTE, release=release, now=self.time)
        changed: Rollout = self.write(lambda store: give(store, order, *more))
        return changed

    def run_engine(self, engine: Engine | None = None) -> None:
        """Let the engine judge once."""
        self.successResultOf(Deferred.fromCoroutine((engine or self.engine).run()))

    def pass_hours(self, hours: int, engine: Engine | None = None) -> None:
        """Let boxes report, and the engine run, every few hours, and at the end."""
        while hours > 0:
            passed = min(_STEP, hours)
            hours -= passed
            self.time += passed * HOUR
            self.hear()
            self.run_engine(engine)

    def hear(self) -> None:
        """Let all boxes report that are not silent."""
        if self.is_away:
            return
        heard = {"last_seen": self.time, "due": self.time + _STEP * HOUR}
        condition = box.c.box_id.not_in(self.silent)
        self.write(lambda store: store.execute(update(box).where(condition).values(heard)))

    def install(
        self, boxes: Iterable[int], outcome: str | None, reason: str | None = None, *, to: int = NEW
    ) -> None:
        """Let boxes have an attempt now; without an outcome it has just begun."""
        chosen = tuple(boxes)

        def change(connection: Connection) -> None:
            attempts = []
            for number in chosen:
                self.attempts += 1
                columns = {"number": self.attempts, "release": to, "received": self.time}
                attempts.append(attempt_values(self.rows[number], outcome, reason, **columns))
            if attempts:
                connection.execute(insert(attempt), attempts)
            runs = {"release": to} if outcome == "updated" else {"waiting": None}
            connection.execute(update(box).where(box.c.box_id.in_(chosen)).values(runs))

        self.write(change)

    def update_drawn(self) -> None:
        """Let all boxes update whose turn it is, the first ones first."""
        share = self.rollout().bp / ALL
        drawn = range(1, int(self.boxes * share) + 1)
        query = select(box.c.box_id).where(box.c.release == NEW)
        done = set(self.read(lambda store: store.execute(query).scalars().all()))
        self.install([each for each in drawn if each not in done], "updated")

    def rollout(self, release: int = NEW) -> Rollout:
        """Return the rollout of a release."""
        [found] = [each for each in self.read(find) if each.release == release]
        return found

    def audit(self) -> list[Any]:
        """Return the rows of the audit."""
        return self.read(lambda store: list(store.execute(select(audit).order_by(audit.c.id))))

    def words(self) -> list[str]:
        """Return who did what, in the order of time."""
        return [f"{row.who}: {row.what}" for row in self.audit()]
