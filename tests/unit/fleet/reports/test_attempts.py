"""Tests of following the attempts of a box."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.reports.attempts import contradicts, done, follow
from opq_twisted.fleet.reports.rows import StoredAttempt
from opq_twisted.report.document import AttemptReport
from tests.helpers.reporting_box import NEW, NOW, OLD, ReportingBox, attempt


class AttemptsCase(SynchronousTestCase):
    """Follows the attempts of one box."""

    def setUp(self) -> None:
        self.known: dict[str, StoredAttempt] = {}
        self.received = NOW
        self.report = ReportingBox().report

    def follow(
        self, *attempts: AttemptReport, release: int | None = OLD, room: int = 100
    ) -> dict[str, StoredAttempt]:
        """Take a report, a minute after the last one."""
        self.received += 60
        self.report = evolve(self.report, attempts=attempts, release=release)
        changed = follow(self.known, 5, self.report, self.received, room)
        self.known |= changed
        return changed


class TestReported(AttemptsCase):
    """What the box says of an attempt."""

    def test_new(self) -> None:
        """A new attempt is stored as it is reported."""
        begun = attempt()
        self.follow(begun)
        self.assertEqual(
            self.known[begun.id],
            StoredAttempt(
                box=5,
                attempt_id=begun.id,
                release=NEW,
                from_release=OLD,
                began=int(NOW),
                took=60,
                automatic=True,
                stage="installing",
                outcome=None,
                reason=None,
                inferred=False,
                tries=1,
                fetched=1000,
                size=2000,
                received=NOW + 60,
                ended_at=None,
            ),
        )

    def test_progress(self) -> None:
        """While it is under way, the last report of it counts."""
        begun = attempt(release=None, size=None, stage="checking")
        self.follow(begun)
        self.follow(evolve(begun, release=NEW, size=2000, stage="rebooting"))
        stored = self.known[begun.id]
        self.assertEqual((stored.release, stored.size, stored.stage), (NEW, 2000, "rebooting"))
        self.assertEqual((stored.received, stored.ended_at), (NOW + 60, None))

    def test_outcome(self) -> None:
        """The outcome is stored with the time when it was received first."""
        begun = attempt()
        self.follow(begun)
        ended = evolve(begun, outcome="returned", reason="unhealthy-service", stage="idle")
        self.follow(ended)
        self.assertEqual(self.follow(ended), {})
        stored = self.known[begun.id]
        self.assertEqual((stored.outcome, stored.reason), ("returned", "unhealthy-service"))
        self.assertEqual((stored.received, stored.ended_at), (NOW + 60, NOW + 120))
        self.assertFalse(stored.inferred)

    def test_outcome_stays(self) -> None:
        """Another outcome, or none, changes nothing once there is one; another one is noticed."""
        ended = attempt(outcome="returned", reason="fell-over")
        self.follow(ended)
        for other in (
            evolve(ended, outcome="updated", reason=None),
            evolve(ended, outcome=None, reason=None),
            evolve(ended, reason="archive", took=7),
        ):
            self.assertEqual(self.follow(other), {})
        again = evolve(self.report, attempts=(evolve(ended, outcome="updated"),))
        self.assertTrue(contradicts(self.known, again))
        for same in (ended, evolve(ended, outcome=None), attempt(outcome="failed")):
            self.assertFalse(contradicts(self.known, evolve(self.report, attempts=(same,))))

    def test_twice_in_a_report(self) -> None:
        """Of an attempt that is twice in a report, the first outcome counts."""
        ended = attempt(outcome="failed")
        self.follow(ended, evolve(ended, outcome="updated"))
        self.assertEqual(self.known[ended.id].outcome, "failed")

    def test_unknown_words(self) -> None:
        """The words of a newer agent are stored."""
        self.follow(attempt(outcome="postponed", reason="moon-phase", stage="dreaming"))
        [stored] = self.known.values()
        self.assertEqual((stored.outcome, stored.stage), ("postponed", "dreaming"))

    def test_too_many(self) -> None:
        """New attempts beyond the bound are left out, and known ones are still followed."""
        begun, *others = (attempt() for _ in range(4))
        self.follow(begun, room=1)
        ended = evolve(begun, outcome="updated")
        self.follow(*others, ended, room=2)
        self.assertEqual(len(self.known), 3)
        self.assertEqual(self.known[begun.id].outcome, "updated")

    def test_done(self) -> None:
        """Acknowledged is what has an outcome in the report, and is stored."""
        begun, ended, left_out = attempt(), attempt(outcome="failed"), attempt(outcome="failed")
        self.follow(begun, ended)
        self.follow(evolve(begun, outcome="updated"))
        report = evolve(self.report, attempts=(begun, ended, left_out))
        self.assertEqual(done(self.known, report), [ended.id])


class TestInferred(AttemptsCase):
    """The outcome of an attempt that the box has lost."""

    def setUp(self) -> None:
        super().setUp()
        self.lost = attempt()
        self.follow(self.lost)

    def expect(self, outcome: str | None) -> None:
        """Expect this inferred outcome of the lost attempt."""
        stored = self.known[self.lost.id]
        self.assertEqual((stored.outcome, stored.inferred), (outcome, outcome is not None))

    def test_about_to_install(self) -> None:
        """Nothing is inferred while the box reports the attempt, whatever it runs."""
        self.expect(None)
        for stage, release in (("installing", OLD), ("rebooting", NEW), ("confirming", NEW)):
            self.follow(evolve(self.lost, stage=stage), release=release)
            self.expect(None)

    def test_from(self) -> None:
        """A box that runs the release from before has returned."""
        self.follow(release=OLD)
        self.expect("returned")
        self.assertEqual(self.known[self.lost.id].ended_at, NOW + 120)

    def test_release(self) -> None:
        """A box that runs the release of the attempt has updated."""
        self.follow(release=NEW)
        self.expect("updated")

    def test_neither(self) -> None:
        """Nothing follows from a third release, or from none."""
        for release in (1, None):
            self.follow(release=release)
            self.expect(None)

    def test_same_release(self) -> None:
        """Nothing follows where a release was installed over itself, or one is not known."""
        again, unknown = attempt(release=OLD), attempt(release=None, previous=None)
        self.follow(self.lost, again, unknown)
        self.follow(self.lost, release=OLD)
        self.assertEqual({each.outcome for each in self.known.values()}, {None})

    def test_next_attempt(self) -> None:
        """The next attempt tells by its `from`, and not by what it has installed since."""
        self.follow(attempt(outcome="updated"), release=NEW)
        self.expect("returned")

    def test_next_attempt_under_way(self) -> None:
        """A next attempt that is being confirmed does not make the lost one a success."""
        following = attempt(stage="confirming")
        self.follow(following, release=NEW)
        self.expect("returned")
        self.assertIsNone(self.known[following.id].outcome)

    def test_next_attempt_after_success(self) -> None:
        """A next attempt that began at the release of the lost one makes that a success."""
        self.follow(attempt(release=NEW + 1, previous=NEW), release=NEW)
        self.expect("updated")

    def test_unknown_beginning(self) -> None:
        """Nothing follows while a next attempt is under way whose `from` is not known."""
        following = attempt(previous=None)
        self.follow(following, release=NEW)
        self.follow(following, release=NEW)
        self.expect(None)
        self.follow(evolve(following, outcome="failed"), release=OLD)
        self.expect("returned")

    def test_reported_after_all(self) -> None:
        """A reported outcome takes the place of an inferred one, once."""
        self.follow(release=OLD)
        ended = evolve(self.lost, outcome="failed", reason="disk")
        self.assertFalse(contradicts(self.known, evolve(self.report, attempts=(ended,))))
        self.follow(ended)
        stored = self.known[self.lost.id]
        self.assertEqual(
            (stored.outcome, stored.reason, stored.inferred), ("failed", "disk", False)
        )
        self.assertEqual(stored.ended_at, NOW + 120)
        self.assertEqual(self.follow(evolve(self.lost, outcome="updated")), {})

    def test_under_way_after_all(self) -> None:
        """An attempt that is under way after all has no inferred outcome any more."""
        self.follow(release=OLD)
        self.follow(evolve(self.lost, stage="rebooting"))
        self.expect(None)
        self.assertIsNone(self.known[self.lost.id].ended_at)

    def test_ended_before(self) -> None:
        """An attempt with an outcome is not touched when the box no longer reports it."""
        self.follow(evolve(self.lost, outcome="failed"))
        self.assertEqual(self.follow(release=NEW), {})
