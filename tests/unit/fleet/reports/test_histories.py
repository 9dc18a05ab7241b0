"""Tests of reports that come again, late, in another order, and to several servers."""

from threading import Thread

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from twisted.internet import reactor

from opq_twisted.common.strict_json import MAX_NUMBER
from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.apply import apply
from opq_twisted.fleet.reports.enrolment import EnrolmentPolicy
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.store.database import Database
from opq_twisted.report.document import AttemptReport
from tests.helpers.apply_case import ApplyCase
from tests.helpers.reporting_box import NEW, OLD, ReportingBox, attempt
from tests.helpers.store_case import on_each_database

#: What can happen next: the box goes on, or the network delivers one of the reports on their way,
#: once, or as a copy, or the answer is lost, or somebody on the way answers with a wrong number.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["go on", "report", "deliver", "copy", "lose the answer", "restart", "forge an answer"]
        ),
        st.integers(0, 10),
    ),
    max_size=40,
)


class History:
    """
    A box with its journal.

    It reports the attempts whose outcome was not acknowledged, as the protocol says.
    """

    def __init__(self) -> None:
        self.box = ReportingBox()
        self.journal: list[AttemptReport] = []
        self.acknowledged: set[str] = set()
        self.release = OLD
        self._saved_seq = 0

    def go_on(self, number: int) -> None:
        """Begin an attempt, or let the one under way reach its next stage, or its end."""
        last = self.journal[-1] if self.journal else None
        if last is None or last.outcome:
            self.journal.append(attempt(release=NEW + len(self.journal), previous=self.release))
        elif last.stage == "installing":
            self.journal[-1] = evolve(last, stage="confirming")
            self.release = last.release or 0
        else:
            outcome = ("updated", "returned", "failed")[number % 3]
            self.journal[-1] = evolve(last, stage="idle", outcome=outcome)
            if outcome != "updated":
                self.release = last.previous or 0

    def report(self) -> Incoming:
        """Make a report of all that is not acknowledged."""
        waiting = [each for each in self.journal if each.id not in self.acknowledged]
        return self.box.send(attempts=tuple(waiting[-20:]), release=self.release)

    def hear(self, answer: Answer) -> None:
        """Take the answer to a report."""
        if answer.code == 409:
            self.box.report = evolve(self.box.report, seq=answer.content["seq"])
        elif answer.content["done"]:
            self.acknowledged.update(answer.content["done"])
            self._saved_seq = self.box.report.seq

    def restart(self) -> None:
        """Go on with the sequence number of the journal, which is an old one."""
        self.box.report = evolve(self.box.report, seq=self._saved_seq)


@on_each_database
class TestHistories(ApplyCase):
    """A true history, through a network that repeats and reorders."""

    @settings(
        max_examples=60,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(STEPS)
    def test_any_order(self, steps: list[tuple[str, int]]) -> None:
        """The attempts are stored once, as they were, whatever the network does with reports."""
        self.policy = EnrolmentPolicy()
        history = History()
        under_way: list[Incoming] = []
        for step, number in steps:
            if step == "go on":
                history.go_on(number)
            elif step == "report":
                under_way.append(history.report())
            elif step == "restart":
                history.restart()
            elif step == "forge an answer":
                history.hear(Answer(409, "", {"seq": (MAX_NUMBER - 1) * number // 10}))
            elif under_way:
                index = number % len(under_way)
                incoming = under_way[index] if step == "copy" else under_way.pop(index)
                [answer] = self.apply(incoming)
                if step != "lose the answer":
                    history.hear(answer)
        # One that was made before a restart can have a larger number than those after it.
        self.apply(*under_way)
        self.bring_home(history)
        self.apply(*under_way)
        self.check(history)

    def bring_home(self, history: History) -> None:
        """Let the box report until it is accepted; a 409 comes at most once."""
        for _ in range(2):
            [answer] = self.apply(history.report())
            history.hear(answer)
            if answer.code == 200:
                return
        self.fail("The box was locked out.")

    def check(self, history: History) -> None:
        """Compare the database with the journal."""
        row = next(row["id"] for row in self.boxes() if row["key_id"] == history.box.key)
        stored = {
            each["attempt_id"]: (each["outcome"], each["inferred"], each["stage"])
            for each in self.attempts()
            if each["box"] == row
        }
        true = {each.id: (each.outcome, False, each.stage) for each in history.journal[-20:]}
        self.assertEqual({name: stored.get(name) for name in true}, true)
        self.assertEqual(stored.keys() - {each.id for each in history.journal}, set())


@on_each_database
class TestSeveralServers(ApplyCase):
    """Servers with connections of their own to one database."""

    def serve(self, batch: list[Incoming], answers: list[Answer]) -> None:
        """Apply a batch as another server does, and add the answers to a list."""
        database = Database(reactor, self.url)
        try:
            answers += database.write_now(
                lambda connection: apply(connection, batch, EnrolmentPolicy())
            )
        finally:
            database.engine.dispose()

    def at_once(self, *batches: list[Incoming]) -> list[list[Answer]]:
        """Apply batches on as many servers at the same time."""
        answers: list[list[Answer]] = [[] for _ in batches]
        pairs = zip(batches, answers, strict=True)
        threads = [Thread(target=self.serve, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return answers

    def wait_for_lock(self, thread: Thread) -> None:
        """Wait until a server waits for another one; SQLite cannot tell."""
        query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        while self.on_postgresql and thread.is_alive():
            if self.read(lambda connection: connection.execute(query).scalar()):
                return

    def test_overtaken(self) -> None:
        """A server that meets a box in the transaction of another one waits for its end."""
        known, new = ReportingBox(), ReportingBox()
        self.apply(known.send())
        for box in (known, new):
            batch = [box.send(attempts=(attempt(outcome="failed"),))]
            answers: list[Answer] = []
            thread = Thread(target=self.serve, args=(batch, answers))
            with self.database.engine.begin() as connection:
                first = apply(connection, batch, self.policy)
                thread.start()
                self.wait_for_lock(thread)
            thread.join(60)
            self.assertEqual([each.result for each in (*first, *answers)], ["stored", "replayed"])
        self.assertEqual(len(self.attempts()), 2)

    def test_same_new_box(self) -> None:
        """A report of a new key that reaches several servers at once is stored once."""
        box = ReportingBox()
        incoming = box.send(attempts=(attempt(outcome="failed"),))
        answers = self.at_once(*([incoming] for _ in range(4)))
        self.assertEqual({each.code for [each] in answers}, {200})
        self.assertEqual(sorted(each.result for [each] in answers), ["replayed"] * 3 + ["stored"])
        self.assertEqual((len(self.boxes()), len(self.attempts())), (1, 1))

    def test_opposite_orders(self) -> None:
        """Batches with the same boxes in opposite orders do not block each other."""
        boxes = [ReportingBox(number) for number in range(15)]
        for known in (False, True):
            first = [box.send(attempts=(attempt(),)) for box in boxes]
            second = [box.send(attempts=(attempt(),)) for box in reversed(boxes)]
            one, other = self.at_once(first, second)
            self.assertEqual({each.code for each in other}, {200}, known)
            self.assertEqual({each.code for each in one} - {200, 409}, set(), known)
        self.assertEqual({row["seq"] for row in self.boxes()}, {4})

    def test_one_fails(self) -> None:
        """A batch whose transaction fails at its end leaves nothing, and can be applied again."""
        box = ReportingBox()
        batch = [box.send(attempts=(attempt(outcome="updated"),))]
        with self.database.engine.begin() as connection:
            apply(connection, batch, self.policy)
            connection.rollback()
        self.assertEqual(self.everything(), ([], []))
        self.assertEqual([each.result for each in self.apply(*batch)], ["stored"])
