"""Tests of letting new keys in."""

from collections import Counter

from attrs import evolve
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.reports import enrolment
from opq_twisted.fleet.reports.apply import apply
from opq_twisted.fleet.reports.enrolment import (
    MAX_FROM_NETWORK,
    MAX_NETWORKS,
    EnrolmentPolicy,
    NewKeyCounts,
)
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import box as box_table
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.apply_case import ApplyCase
from tests.helpers.reporting_box import DAY, HOUR, NOW, ReportingBox
from tests.helpers.store_case import on_each_database

TOKEN = "correct horse"


class TestNewcomers(SynchronousTestCase):
    """The count of new keys in memory."""

    def setUp(self) -> None:
        self.new_keys = NewKeyCounts()

    def is_full(self, network: str, now: float = NOW) -> bool:
        """Whether a network may bring no more."""
        return self.new_keys.is_full(network, now, Counter())

    def test_network(self) -> None:
        """Each network has its own count, with the keys that are about to be added."""
        self.new_keys.add(Counter(a=MAX_FROM_NETWORK - 1, b=1), NOW)
        self.assertFalse(self.is_full("a"))
        self.assertTrue(self.new_keys.is_full("a", NOW, Counter(a=1)))
        self.new_keys.add(Counter(a=1), NOW)
        self.assertTrue(self.is_full("a"))
        self.assertFalse(self.is_full("b"))

    def test_day(self) -> None:
        """The next day begins at 0; so does a clock that was set back."""
        self.new_keys.add(Counter(a=MAX_FROM_NETWORK), NOW)
        self.assertFalse(self.is_full("a", NOW + DAY))
        self.new_keys.add(Counter(a=MAX_FROM_NETWORK), NOW)
        self.assertFalse(self.is_full("a", 0))

    def test_all_networks(self) -> None:
        """All networks together have a bound, too."""
        self.patch(enrolment, "MAX_IN_DAY", 10)
        self.new_keys.add(Counter(map(str, range(9))), NOW)
        self.assertFalse(self.is_full("a"))
        self.new_keys.add(Counter(a=1), NOW)
        self.assertTrue(self.is_full("b"))
        self.assertTrue(self.is_full(""))

    def test_no_network(self) -> None:
        """Boxes behind a proxy that names no client are bounded with all others only."""
        self.new_keys.add(Counter({"": 10 * MAX_FROM_NETWORK}), NOW)
        self.assertFalse(self.is_full(""))

    def test_memory(self) -> None:
        """The networks in memory are bounded; the first ones are given up."""
        self.new_keys.add(Counter({"first": MAX_FROM_NETWORK}), NOW)
        self.new_keys.add(Counter(map(str, range(MAX_NETWORKS - 1))), NOW)
        self.assertTrue(self.is_full("first"))
        self.new_keys.add(Counter(last=1), NOW)
        self.assertFalse(self.is_full("first"))


class EnrolmentCase(ApplyCase):
    """Lets an operator admit keys."""

    def admit(self, key: str, number: int = 7) -> None:
        """Add the row of a key that has not reported yet."""
        row = {"key_id": key, "box_id": number, "state": BoxState.ADMITTED, "seq": 0}
        self.write(lambda connection: connection.execute(box_table.insert(), [row]))


@on_each_database
class TestModes(EnrolmentCase):
    """The three modes."""

    def test_open(self) -> None:
        """With `open`, the first use of a key is trusted, as soon as the box sends it."""
        box = ReportingBox()
        self.assertEqual(self.results(box.send(pubkey=None)), [(401, "unknown-key")])
        self.assertEqual(self.boxes(), [])
        self.assertEqual(self.results(box.send(pubkey=box.public.hex())), [(200, "stored")])
        self.assertEqual(self.results(box.send(pubkey=None)), [(200, "stored")])

    def test_token(self) -> None:
        """With `token`, a new key needs the proof that its box knows the token."""
        self.policy = EnrolmentPolicy("token", TOKEN)
        box, other = ReportingBox(), ReportingBox()
        self.assertEqual(self.results(box.send(pubkey=None)), [(401, "unknown-key")])
        box.report = evolve(box.report, pubkey=box.public.hex())
        self.assertEqual(self.results(box.send()), [(403, "no-proof")])
        box.prove("wrong")
        other.prove(TOKEN)
        stolen = box.send(proof=other.report.proof)
        self.assertEqual(self.results(box.send(), stolen), [(403, "no-proof")] * 2)
        self.assertEqual(self.boxes(), [])
        box.prove(TOKEN)
        self.assertEqual(self.results(box.send()), [(200, "stored")])
        self.assertEqual(self.results(box.send(pubkey=None, proof=None)), [(200, "stored")])

    def test_closed(self) -> None:
        """With `closed`, only admitted keys get in, and their first report brings the key."""
        self.policy = EnrolmentPolicy("closed")
        box, stranger = ReportingBox(), ReportingBox()
        self.admit(box.key)
        reports = [stranger.send(), stranger.send(pubkey=None), box.send(pubkey=None)]
        self.assertEqual(
            self.results(*reports), [(403, "closed"), (403, "closed"), (401, "unknown-key")]
        )
        self.assertEqual(self.results(box.send(pubkey=box.public.hex())), [(200, "stored")])
        [row] = self.boxes()
        self.assertEqual(
            (row["state"], row["pubkey"], row["first_seen"]), ("admitted", box.public, NOW)
        )

    def test_admitted_is_not_taken(self) -> None:
        """Nobody else gets an admitted fingerprint, and a forged report brings no key."""
        box, other = ReportingBox(), ReportingBox()
        self.admit(box.key)
        before = self.everything()
        reports = [
            other.sign(evolve(other.report, key=box.key)),
            other.sign(evolve(box.report)),
        ]
        self.assertEqual(self.results(*reports), [(401, "forged")] * 2)
        self.assertEqual(self.everything(), before)

    def test_admitted_again_in_a_batch(self) -> None:
        """The key that a report brings counts for the next report of the batch already."""
        box = ReportingBox()
        self.admit(box.key)
        self.assertEqual(self.results(box.send(), box.send(pubkey=None)), [(200, "stored")] * 2)

    def test_admitted_from_the_future(self) -> None:
        """A refused first report of an admitted key leaves it as it was."""
        box = ReportingBox()
        self.admit(box.key)
        before = self.everything()
        self.assertEqual(
            self.results(box.send(seq=2**50), box.send(seq=2**51)), [(409, "sequence")] * 2
        )
        self.assertEqual(self.everything(), before)

    def test_known_before(self) -> None:
        """A key that is in the database stays, whatever the mode has become."""
        box = ReportingBox()
        self.apply(box.send())
        for policy in (EnrolmentPolicy("closed"), EnrolmentPolicy("token", TOKEN)):
            self.policy = policy
            self.assertEqual(self.results(box.send()), [(200, "stored")])


@on_each_database
class TestStates(EnrolmentCase):
    """Keys that an operator, or time, has put into another state."""

    def test_distrusted(self) -> None:
        """A report of a distrusted key changes nothing, in every mode."""
        box = ReportingBox()
        self.apply(box.send())
        self.change(box.key, state=BoxState.DISTRUSTED)
        before = self.everything()
        for policy in (EnrolmentPolicy(), EnrolmentPolicy("closed")):
            self.policy = policy
            self.assertEqual(
                self.results(box.send(), box.sign(evolve(box.report, seq=1))),
                [(403, "distrusted")] * 2,
            )
        self.assertEqual(self.everything(), before)

    def test_comes_back(self) -> None:
        """A key that was replaced, or gone, is a box again when it reports."""
        box, other = ReportingBox(), ReportingBox(number=8)
        self.apply(box.send(), other.send())
        successor = next(row["id"] for row in self.boxes() if row["key_id"] == other.key)
        for state in (BoxState.REPLACED, BoxState.GONE):
            self.change(box.key, state=state, replaced_by=successor)
            self.apply(box.send())
            row = next(row for row in self.boxes() if row["key_id"] == box.key)
            self.assertEqual((row["state"], row["replaced_by"]), ("known", None))


@on_each_database
class TestTooMany(ApplyCase):
    """One network that brings many keys."""

    def test_network(self) -> None:
        """The 21st key of a network is told to come later, and costs the database nothing."""
        boxes = [ReportingBox(number) for number in range(25)]
        first = self.apply(*(box.send() for box in boxes[:15]))
        second = self.apply(*(box.send() for box in boxes[15:]))
        codes = [each.code for each in (*first, *second)]
        self.assertEqual(codes, [200] * MAX_FROM_NETWORK + [429] * 5)
        for answer in second[5:]:
            assert answer.retry_after is not None
            self.assertTrue(HOUR <= answer.retry_after <= 4 * HOUR)
        self.assertEqual(len(self.boxes()), MAX_FROM_NETWORK)

    def test_this_machine(self) -> None:
        """A program on this machine, such as a simulation, may bring as many as it wants."""
        batch = [ReportingBox(number).send(network="") for number in range(2 * MAX_FROM_NETWORK)]
        self.assertEqual({each.code for each in self.apply(*batch)}, {200})

    def test_flood(self) -> None:
        """Further 10,000 keys from one network leave no trace; known boxes go on."""
        boxes = [ReportingBox(number) for number in range(MAX_FROM_NETWORK)]
        self.apply(*(box.send() for box in boxes))
        before = self.everything()
        # Signatures of new keys are not looked at any more, so one with many names does.
        stranger = ReportingBox().send()
        for first in range(0, 10_000, 500):
            names = (f"{number:032x}" for number in range(first, first + 500))
            reports = [evolve(stranger.report, key=name) for name in names]
            answers = self.apply(*(evolve(stranger, report=report) for report in reports))
            self.assertEqual({each.code for each in answers}, {429})
        self.assertEqual(self.everything(), before)
        self.assertEqual(self.results(boxes[0].send()), [(200, "stored")])

    def test_jitter(self) -> None:
        """Boxes that are told to come later do not come at the same time."""
        boxes = [ReportingBox(number) for number in range(40)]
        answers = self.apply(*(box.send() for box in boxes))
        self.assertGreater(len({each.retry_after for each in answers}), 15)

    def test_refused_do_not_count(self) -> None:
        """Reports that are not stored use up nothing of the bound."""
        box = ReportingBox()
        forged = [evolve(ReportingBox().send(), signature="") for _ in range(30)]
        self.assertEqual({each.code for each in self.apply(*forged)}, {401})
        self.assertEqual(self.results(box.send()), [(200, "stored")])

    def test_same_key_in_a_batch(self) -> None:
        """A key counts once, however many reports of it are in the batch."""
        box = ReportingBox()
        self.assertEqual(
            {each.code for each in self.apply(*(box.send() for _ in range(30)))}, {200}
        )
        self.assertEqual(len(self.boxes()), 1)

    def test_failed_transaction(self) -> None:
        """Keys of a transaction that failed are not counted, whenever it did."""
        boxes = [ReportingBox(number) for number in range(MAX_FROM_NETWORK)]
        batch = [box.send() for box in boxes]

        def fail_at_the_end(connection: Connection) -> None:
            apply(connection, batch, self.policy)
            raise KeyError

        for _ in range(2):
            self.assertRaises(KeyError, self.write, fail_at_the_end)
        self.assertEqual(self.results(*batch), [(200, "stored")] * MAX_FROM_NETWORK)
        self.assertEqual(self.results(ReportingBox(99).send()), [(429, "too-many-keys")])


@on_each_database
class TestBrokenTables(ApplyCase):
    """A database that fails in the middle of a transaction."""

    changes_tables = True

    def test_not_counted(self) -> None:
        """Keys of a transaction that failed before its end are not counted."""
        batch = [ReportingBox(number).send() for number in range(MAX_FROM_NETWORK)]
        self.write(lambda connection: connection.exec_driver_sql("DROP TABLE attempt"))
        for _ in range(2):
            self.assertRaises(StoreUnavailable, self.apply, *batch)
        self.flushLoggedErrors(SQLAlchemyError)
        self.assertFalse(self.policy.new_keys.is_full("192.0.2.1", NOW, Counter()))
