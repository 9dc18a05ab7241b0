"""Tests of storing a batch of reports."""

import json

from attrs import evolve

from opq_twisted.common.strict_json import MAX_NUMBER
from opq_twisted.fleet.reports.attempts import MAX_IN_DAY
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.report.document import Report
from opq_twisted.report.parse import ReportInvalid, parse
from tests.helpers.apply_case import ApplyCase
from tests.helpers.reporting_box import DAY, HOUR, NEW, NOW, OLD, ReportingBox, attempt
from tests.helpers.store_case import on_each_database

HOSTILE = (
    "'; DROP TABLE box; --",
    '" OR 1=1 --',
    "<script>alert(1)</script>",
    "&lt;b&gt;",
    "%(key)s",
    "{0}",
    "a\0b",
    "a\n",
    "\ud800",
)


@on_each_database
class TestStored(ApplyCase):
    """What a report leaves in the database."""

    def test_first(self) -> None:
        """The first report of a box is stored with its key."""
        box = ReportingBox(number=7, refused=(NEW,), waiting="held")
        [answer] = self.apply(box.send())
        self.assertEqual((answer.code, answer.content), (200, {"seq": 1, "done": []}))
        [row] = self.boxes()
        expected = {
            "key_id": box.key,
            "pubkey": box.public,
            "box_id": 7,
            "state": "known",
            "release": OLD,
            "waiting": "held",
            "boot": "5be1c0aa",
            "seq": 1,
            "first_seen": NOW,
            "last_seen": NOW,
            "cloned_at": None,
        }
        self.assertEqual({name: row[name] for name in expected}, expected)
        self.assertEqual(json.loads(row["refused"]), [NEW])

    def test_later(self) -> None:
        """A later report replaces all but the time when the box was first seen."""
        box = ReportingBox()
        self.apply(box.send())
        self.apply(box.send(NOW + 60, release=NEW, pubkey=None))
        [row] = self.boxes()
        self.assertEqual(
            (row["release"], row["first_seen"], row["last_seen"]), (NEW, NOW, NOW + 60)
        )

    def test_promise(self) -> None:
        """The next report is due when the box says, or a day later, and never after more."""
        box = ReportingBox()
        for next_in, seconds in (
            (3 * 3600, 3 * HOUR),
            (None, DAY),
            (0, 0.0),
            (24 * 3600 + 1, DAY),
            (MAX_NUMBER, DAY),
        ):
            self.apply(box.send(next_in=next_in))
            [row] = self.boxes()
            self.assertEqual(row["due"], NOW + seconds)

    def test_impossible_promise(self) -> None:
        """A promise that is no number is no report, and one of an older agent may be missing."""
        for text in (b"-1", b"1e9", b"true", b'"soon"', b"[]"):
            with self.subTest(text=text):
                body = ReportingBox().report.to_json()
                with self.assertRaises(ReportInvalid):
                    parse(body.replace(b'"next_in":null', b'"next_in":' + text))
        body = ReportingBox().report.to_json().replace(b'"next_in":null,', b"")
        self.assertIsNone(parse(body).next_in)

    def test_many(self) -> None:
        """Several reports of several boxes in one batch are applied in their order."""
        boxes = [ReportingBox(number=number, release=number) for number in range(1, 11)]
        batch = [box.send(network=box.key) for box in boxes]
        batch += [box.send(release=100 + number) for number, box in enumerate(boxes, start=1)]
        self.assertEqual({each.code for each in self.apply(*batch)}, {200})
        stored = {
            row["key_id"]: (row["box_id"], row["release"], row["seq"]) for row in self.boxes()
        }
        self.assertEqual(stored, {box.key: (n, 100 + n, 2) for n, box in enumerate(boxes, start=1)})

    def test_empty(self) -> None:
        """An empty batch is no error."""
        self.assertEqual(self.apply(), [])

    def test_bad_among_good(self) -> None:
        """Refused reports do not disturb the others of their batch."""
        good, other, forger = ReportingBox(), ReportingBox(), ReportingBox()
        self.apply(good.send())
        forged = forger.sign(evolve(good.report, seq=2))
        batch = [
            forged,
            good.send(),
            other.send(pubkey=None),
            good.sign(good.report),
            forger.send(),
        ]
        self.assertEqual(
            self.results(*batch),
            [
                (401, "forged"),
                (200, "stored"),
                (401, "unknown-key"),
                (200, "replayed"),
                (200, "stored"),
            ],
        )
        self.assertEqual({row["key_id"] for row in self.boxes()}, {good.key, forger.key})

    def test_largest(self) -> None:
        """The largest numbers that a report can have are no error, and stored as far as needed."""
        most = MAX_NUMBER
        box = ReportingBox(number=most, release=most, root=most, snapshot=most, last_good=most)
        large = attempt(
            release=most, previous=most, began=most, took=most, tries=most, fetched=most, size=most
        )
        self.assertEqual(self.results(box.send(attempts=(large,))), [(200, "stored")])
        [row] = self.attempts()
        self.assertEqual({row[name] for name in ("release", "from_release", "began")}, {most})
        small = {row[name] for name in ("took", "tries", "fetched", "size")}
        self.assertEqual(small, {2**31 - 1})

    def test_many_attempts(self) -> None:
        """A box cannot fill the database: its further attempts have to wait for the next day."""
        box = ReportingBox()
        ended = [attempt(outcome="failed") for _ in range(MAX_IN_DAY + 1)]
        reports = [
            box.send(attempts=tuple(ended[first : first + 20]))
            for first in range(0, MAX_IN_DAY, 20)
        ]
        answers = [*self.apply(*reports[:2]), *self.apply(*reports[2:])]
        self.assertEqual({len(each.content["done"]) for each in answers}, {20})
        last = (ended[0], ended[-1])
        [answer] = self.apply(box.send(NOW + HOUR, attempts=last))
        self.assertEqual((answer.code, answer.content["done"]), (200, [ended[0].id]))
        self.assertEqual(len(self.attempts()), MAX_IN_DAY)
        [answer] = self.apply(box.send(NOW + DAY + HOUR, attempts=last))
        self.assertEqual(answer.content["done"], [ended[0].id, ended[-1].id])

    def test_hostile_strings(self) -> None:
        """SQL and HTML do not get past the format; the strings that do are stored as they are."""
        report = json.loads(ReportingBox().report.to_json())
        strings = [name for name, value in report.items() if isinstance(value, str)]
        self.assertIn("agent", strings)
        for name in (*strings, "waiting", "proof"):
            for hostile in HOSTILE:
                body = json.dumps({**report, name: hostile}).encode()
                self.assertRaises(ReportInvalid, parse, body)
        box = ReportingBox(
            agent="0--.+_",
            arch="NULL",
            python="0x27",
            waiting="or-1",
            install="null",
            boot="0" * 32,
        )
        ended = attempt(stage="drop-table-box", outcome="select", reason="0--")
        self.assertEqual(self.results(box.send(attempts=(ended,))), [(200, "stored")])
        [row], [stored] = self.everything()
        self.assertEqual((row["agent"], row["arch"], row["install"]), ("0--.+_", "NULL", "null"))
        self.assertEqual((stored["outcome"], stored["reason"]), ("select", "0--"))

    def test_clock_of_box(self) -> None:
        """The clock of the box, in 1970 or in 2100, is stored and judges nothing."""
        for began in (0, 4_102_444_800):
            box = ReportingBox()
            ended = attempt(began=began, outcome="updated")
            self.assertEqual(self.results(box.send(attempts=(ended,))), [(200, "stored")])
            row = next(row for row in self.attempts() if row["attempt_id"] == ended.id)
            self.assertEqual((row["began"], row["received"], row["ended_at"]), (began, NOW, NOW))


@on_each_database
class TestSequence(ApplyCase):
    """Reports that come again, too late, or from the future."""

    def setUp(self) -> None:
        super().setUp()
        self.box = ReportingBox()
        self.first = self.box.send(attempts=(attempt(outcome="updated"),))
        [self.answer] = self.apply(self.first)

    def test_again(self) -> None:
        """The same bytes again get the same answer, and change nothing."""
        before = self.everything()
        [again] = self.apply(evolve(self.first, received=NOW + DAY))
        self.assertEqual((again.code, again.content), (200, self.answer.content))
        self.assertEqual(self.everything(), before)

    def test_batch_again(self) -> None:
        """A batch whose answers were lost doubles nothing when it comes again."""
        other = ReportingBox()
        batch = [
            self.box.send(attempts=(attempt(), attempt(outcome="failed"))),
            other.send(attempts=(attempt(),)),
        ]
        answers = self.apply(*batch)
        before = self.everything()
        again = self.apply(*batch)
        self.assertEqual([each.content for each in again], [each.content for each in answers])
        self.assertEqual(self.everything(), before)

    def test_two_of_a_box_again(self) -> None:
        """Two reports of a box that come again in one batch change nothing."""
        batch = [self.box.send(), self.box.send(attempts=(attempt(outcome="failed"),))]
        self.apply(*batch)
        before = self.everything()
        self.assertEqual([each.code for each in self.apply(*batch)], [409, 200])
        self.assertEqual(self.everything(), before)

    def test_too_late(self) -> None:
        """An older report, or another one with the same number, is told the number."""
        self.apply(self.box.send())
        before = self.everything()
        other = self.box.sign(evolve(self.box.report, release=NEW))
        for late in (self.first, other):
            [answer] = self.apply(late)
            self.assertEqual((answer.code, answer.content), (409, {"seq": 2}))
        self.assertEqual(self.everything(), before)

    def test_future(self) -> None:
        """A number far ahead is refused, so that the box never comes to the last one."""
        before = self.everything()
        [answer] = self.apply(self.box.send(seq=MAX_NUMBER))
        self.assertEqual((answer.code, answer.content), (409, {"seq": 1}))
        self.assertEqual(self.everything(), before)
        self.assertEqual(
            self.results(self.box.send(seq=answer.content["seq"] + 1)), [(200, "stored")]
        )

    def test_ahead(self) -> None:
        """A number that is ahead as after a restored database is accepted."""
        self.assertEqual(self.results(self.box.send(seq=5_000_000)), [(200, "stored")])

    def test_first_from_the_future(self) -> None:
        """A new key with a number far ahead is told to begin at 1, and leaves nothing."""
        before = self.everything()
        [answer] = self.apply(ReportingBox().send(seq=MAX_NUMBER))
        self.assertEqual((answer.code, answer.content), (409, {"seq": 0}))
        self.assertEqual(self.everything(), before)

    def test_zero(self) -> None:
        """A box may begin at 0."""
        self.assertEqual(self.results(ReportingBox().send(seq=0)), [(200, "stored")])


@on_each_database
class TestForged(ApplyCase):
    """Reports that the box of their key did not sign."""

    def setUp(self) -> None:
        super().setUp()
        self.box = ReportingBox()
        self.apply(self.box.send())
        self.before = self.everything()

    def refuse(self, *batch: Incoming) -> None:
        """Expect that reports are refused, learn no number, and leave no trace."""
        for answer in self.apply(*batch):
            self.assertEqual((answer.code, answer.result, answer.content), (401, "forged", {}))
        self.assertEqual(self.everything(), self.before)

    def test_signature(self) -> None:
        """A signature by another key, of another body, or of any shape is refused."""
        next_one = self.box.send(NOW + DAY)
        other = ReportingBox()
        self.refuse(
            other.sign(self.box.report, NOW + DAY),
            evolve(next_one, body=next_one.body.replace(b"stable", b"danger")),
            evolve(next_one, signature=""),
            evolve(next_one, signature="é"),
            evolve(next_one, signature="'; DROP TABLE box; --"),
        )

    def test_other_pubkey(self) -> None:
        """A public key in the report never replaces the one that is stored."""
        other = ReportingBox()
        self.refuse(other.sign(evolve(self.box.report, seq=2, pubkey=other.public.hex())))

    def test_pubkey_of_another_id(self) -> None:
        """A new key whose id is not that of the public key is refused."""
        other = ReportingBox()
        self.refuse(other.sign(evolve(other.report, key="0" * 32)))

    def test_late_and_forged(self) -> None:
        """A forged report does not learn the number of the last one."""
        self.refuse(ReportingBox().sign(evolve(self.box.report, seq=0)))

    def test_pubkey_of_somebody(self) -> None:
        """Nobody enrols a key whose private part another box has."""
        owner: Report = ReportingBox().report
        self.refuse(ReportingBox().sign(owner))
