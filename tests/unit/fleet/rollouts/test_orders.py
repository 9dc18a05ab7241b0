"""Tests of holding, resuming and widening a rollout."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.audit import AuditNote, AuditNoteInvalid
from opq_twisted.fleet.rollouts.announce import announce
from opq_twisted.fleet.rollouts.orders import Order, RolloutUnknown, hold, resume, widen
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.schema import audit, box
from opq_twisted.fleet.store.states import BoxState, RolloutState
from opq_twisted.trust.pace import ALL, ChannelRelease, Pace
from tests.helpers.store_case import StoreCase, on_each_database

RELEASE = 1_547_947_203
NOTE = AuditNote(who="anna", because="boxes lose the network")


def named(
    channel: str = "stable",
    version: int = RELEASE,
    ceiling: int = ALL,
    *,
    critical: bool = False,
    last: Pace | None = None,
) -> ChannelRelease:
    return ChannelRelease(channel, version, "ab" * 32, ceiling, critical, last)


class OrdersTestCase(StoreCase):
    """A database in which a timestamp has named releases."""

    def announce(self, *releases: ChannelRelease, mode: Rollouts = "off") -> None:
        self.write(lambda store: announce(store, releases or (named(),), mode, 10.0))

    def do(self, order: Callable[..., Rollout], *more: Any, **which: Any) -> Rollout:
        which = {"release": RELEASE, "note": NOTE, "now": 20.0, **which}
        return self.write(lambda store: order(store, Order(**which), *more))

    def assertRefused(self, sentence: str, order: Callable[..., Rollout], *more: Any) -> None:
        """An order is refused with a sentence, and changes nothing."""
        before = self.read(find), self.audit()
        error = self.assertRaises(OpqError, self.do, order, *more)
        self.assertIn(sentence, str(error))
        self.assertEqual((self.read(find), self.audit()), before)

    def assertAt(self, state: RolloutState, bp: int) -> None:
        """The only rollout that is not superseded is at this state and share."""
        (current,) = (each for each in self.read(find) if not each.is_superseded)
        self.assertEqual((current.state, current.bp), (state, bp))

    def audit(self) -> list[Any]:
        return self.read(lambda store: list(store.execute(select(audit).order_by(audit.c.id))))

    def boxes(self, count: int, channel: str = "stable", state: str = BoxState.KNOWN.value) -> None:
        rows = [
            {
                "key_id": f"{channel}-{state}-{number}",
                "box_id": number,
                "state": state,
                "channel": channel,
                "seq": 1,
            }
            for number in range(count)
        ]
        self.write(lambda store: store.execute(box.insert(), rows))


@on_each_database
class OrderTests(OrdersTestCase):
    """The orders, their errors, and the rows of the audit."""

    def test_hold_and_resume(self) -> None:
        """A held release is resumed at the share that it had."""
        self.announce()
        self.assertTrue(self.do(hold).is_held)
        self.assertAt(RolloutState.HELD, ALL)
        self.do(resume)
        self.assertAt(RolloutState.DONE, ALL)

    def test_slow(self) -> None:
        """A held release is resumed at a smaller share, and widened from there, step by step."""
        self.announce()
        self.do(hold)
        self.do(resume, 300)
        self.assertAt(RolloutState.BAKING, 300)
        for bp in (500, 2000, 5000):
            self.do(widen)
            self.assertAt(RolloutState.BAKING, bp)
        self.do(widen)
        self.assertAt(RolloutState.DONE, ALL)

    def test_widen_to(self) -> None:
        """A share may be given; the last step ends at the ceiling."""
        self.announce(named(ceiling=3000), mode="ask")
        self.do(widen, 750)
        self.assertAt(RolloutState.BAKING, 750)
        self.do(widen)
        self.do(widen)
        self.assertAt(RolloutState.DONE, 3000)

    def test_audit(self) -> None:
        """Each order leaves a row: who, what, why, and what changed."""
        self.announce()
        self.do(hold)
        self.do(resume, 2000, note=AuditNote(who="bert", because="only old boxes are affected"))
        rows = [
            (row.at, row.who, row.what, row.channel, row.release, row.box, row.because)
            for row in self.audit()
        ]
        self.assertEqual(
            rows,
            [
                (20, "anna", "hold", "stable", RELEASE, None, "boxes lose the network"),
                (20, "bert", "resume", "stable", RELEASE, None, "only old boxes are affected"),
            ],
        )
        self.assertEqual(
            [row.change for row in self.audit()],
            ["From done at 100 % to held at 100 %.", "From held at 100 % to baking at 20 %."],
        )

    def test_sentence(self) -> None:
        """The rollout keeps the last reason; what was reported before `resume` is acknowledged."""
        self.announce()
        self.do(hold)
        (held,) = self.read(find)
        self.assertEqual((held.sentence, held.acknowledged_at), ("boxes lose the network", None))
        note = AuditNote(who="bert", because="only old boxes are affected")
        self.do(resume, 2000, note=note, now=30.0)
        self.do(widen, now=40.0)
        (widened,) = self.read(find)
        self.assertEqual((widened.since, widened.acknowledged_at), (40, 30))
        self.assertEqual(widened.sentence, "boxes lose the network")

    def test_unknown(self) -> None:
        """A release that no channel has named cannot be held."""
        self.assertRefused("No channel has named release ", hold)
        self.announce()
        self.assertRaises(RolloutUnknown, self.do, hold, channel="beta")
        for release in (5, 0, -1, 2**63, 10**30):
            self.assertRaises(RolloutUnknown, self.do, hold, release=release)
        for channel in ("", "\0", "\ud800", "x" * 10_000, "'; DROP TABLE rollout; --"):
            self.assertRaises(RolloutUnknown, self.do, hold, channel=channel)

    def test_ambiguous(self) -> None:
        """A release in two channels needs the name of one of them; the other goes on."""
        self.announce(named("beta"), named("stable"))
        self.assertRefused("is in the channels beta, stable: name one with --channel", hold)
        self.do(hold, channel="beta")
        self.assertEqual([each.is_held for each in self.read(find)], [True, False])

    def test_promoted(self) -> None:
        """A channel that names a newer release by now does not make a release ambiguous."""
        self.announce(named("beta"))
        self.announce(named("beta", RELEASE + 1), named("stable"))
        self.assertEqual(self.do(hold).channel, "stable")

    def test_superseded(self) -> None:
        """A superseded release cannot be changed."""
        self.announce()
        self.announce(named(version=RELEASE + 1))
        for order in (hold, resume, widen):
            self.assertRefused("is superseded: the channel names another release", order)

    def test_wrong_state(self) -> None:
        """An order that does not fit the state is refused."""
        self.announce(mode="ask")
        self.assertRefused("is not held", resume)
        self.do(hold)
        self.assertRefused("is held already", hold)
        self.assertRefused("is held: resume it first", widen)

    def test_never_wider_than_signed(self) -> None:
        """Nothing goes over the share that the release key has signed."""
        self.announce(named(ceiling=2000), mode="ask")
        self.assertRefused("may go to 20 % of the boxes, and not to 20.01 %", widen, 2001)
        self.do(widen, 2000)
        self.assertRefused("is offered to all boxes that the release key allows (20 %)", widen)
        self.assertRefused("sign a larger share with: opq-release publish --rollout", widen)
        self.do(hold)
        self.assertRefused("may go to 20 % of the boxes, and not to 50 %", resume, 5000)

    def test_never_smaller(self) -> None:
        """Widening makes a share larger, resuming leaves it or makes it smaller."""
        self.announce(mode="ask")
        self.do(widen, 1000)
        for bp in (1000, 999, 0, -1):
            self.assertRefused("is at 10 %, and widen cannot make the share smaller", widen, bp)
        self.do(hold)
        self.assertRefused("was at 10 %: resume it first, then widen it", resume, 1001)
        for bp in (0, -1):
            self.assertRefused("would go to no box at this share", resume, bp)

    def test_critical(self) -> None:
        """A critical release can be held and resumed, but not slowed."""
        self.announce(named(critical=True), mode="ask")
        self.assertAt(RolloutState.DONE, ALL)
        self.do(hold)
        self.assertRefused("is critical: boxes install it whatever its share is", resume, 500)
        self.do(resume)
        self.assertAt(RolloutState.DONE, ALL)

    def test_signed_down(self) -> None:
        """A release whose ceiling was lowered to its share cannot be widened."""
        self.announce(mode="ask")
        self.do(widen, 5000)
        self.announce(named(ceiling=1000), mode="ask")
        self.assertAt(RolloutState.BAKING, 1000)
        self.assertRefused("is offered to all boxes that the release key allows (10 %)", widen)

    def test_first_step_late(self) -> None:
        """A share below the first step is widened to the first step."""
        self.boxes(20)
        self.announce()
        self.do(hold)
        self.do(resume, 100)
        self.do(widen)
        self.assertAt(RolloutState.BAKING, 2500)


class DeedTests(SynchronousTestCase):
    """What the audit keeps of a person and a reason."""

    def test_refused(self) -> None:
        """Empty, long and unprintable texts are refused."""
        wrong = ("", "  ", "x" * 501, "two\nlines", "\x1b[2J", "nul\0", "\u202eleft", "\ud800")
        for because in wrong:
            self.assertRaises(AuditNoteInvalid, AuditNote, who="anna", because=because)
        for who in ("", " ", "x" * 65, "a\tb"):
            self.assertRaises(AuditNoteInvalid, AuditNote, who=who, because="a reason")

    def test_any_language(self) -> None:
        """A reason may be in any language, and may look like SQL or HTML."""
        for because in ("Boîtes muettes — 停止", "'; DROP TABLE audit; --", "<script>"):
            self.assertEqual(AuditNote(who="anna", because=because).because, because)
