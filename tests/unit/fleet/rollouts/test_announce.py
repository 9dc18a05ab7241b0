"""Tests of rollouts when the timestamp names releases."""

from sqlalchemy import select

from opq_twisted.fleet.rollouts.announce import announce, look_up
from opq_twisted.fleet.rollouts.orders import hold, resume, widen
from opq_twisted.fleet.rollouts.rollout import find
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.schema import audit, rollout
from opq_twisted.fleet.store.states import BoxState, RolloutState
from opq_twisted.trust.pace import ALL, HELD, UNKNOWN, ChannelRelease, Pace
from tests.helpers.store_case import on_each_database
from tests.unit.fleet.rollouts.test_orders import NOTE, RELEASE, OrdersTestCase

SHA, OTHER_SHA = "ab" * 32, "cd" * 32


class AnnounceTestCase(OrdersTestCase):
    """A database that is asked for paces."""

    mode: Rollouts = "off"

    def paces(self, *releases: ChannelRelease, now: float = 10.0) -> dict[str, Pace]:
        """Return the paces; a second question changes nothing, and has the same answer."""
        found = self.write(lambda store: announce(store, releases, self.mode, now))
        rows = self.read(find)
        self.assertEqual(self.read(lambda store: look_up(store, releases, self.mode)), found)
        self.write(lambda store: announce(store, releases, self.mode, now + 1))
        self.assertEqual(self.read(find), rows)
        return dict(found)

    def pace(
        self,
        version: int = RELEASE,
        ceiling: int = ALL,
        *,
        sha256: str = SHA,
        critical: bool = False,
        last: Pace | None = None,
    ) -> Pace | None:
        """Return the pace of a release in the channel `stable`."""
        release = ChannelRelease("stable", version, sha256, ceiling, critical, last)
        return self.paces(release).get("stable")

    def states(self) -> dict[int, tuple[str, int]]:
        return {each.release: (each.state.value, each.bp) for each in self.read(find)}


@on_each_database
class OffTests(AnnounceTestCase):
    """`--rollouts off`: a release goes as it was signed, until an operator changes that."""

    def test_new(self) -> None:
        """A new release has no entry, and goes as far as it was signed."""
        self.assertIsNone(self.pace(ceiling=2000))
        self.assertEqual(self.states(), {RELEASE: ("done", 2000)})
        self.assertIsNone(self.pace(ceiling=ALL))
        self.assertEqual(self.states(), {RELEASE: ("done", ALL)})

    def test_unknown_to_the_database(self) -> None:
        """A question that would change the database has no answer from a reader."""
        release = ChannelRelease("stable", RELEASE, SHA, ALL, False)
        self.assertIsNone(self.read(lambda store: look_up(store, [release], "off")))
        self.paces(release)
        other = ChannelRelease("stable", RELEASE, SHA, 2000, False)
        self.assertIsNone(self.read(lambda store: look_up(store, [other], "off")))

    def test_held(self) -> None:
        """A held release has an entry, until it is resumed as it was."""
        self.pace()
        self.do(hold)
        self.assertEqual(self.pace(), Pace(RELEASE, ALL, HELD))
        self.do(resume)
        self.assertIsNone(self.pace())

    def test_held_and_signed_again(self) -> None:
        """A hold outlasts another signature of the release, whatever that allows."""
        self.pace(ceiling=2000)
        self.do(hold)
        self.assertEqual(self.pace(ceiling=ALL), Pace(RELEASE, 2000, HELD))
        self.assertEqual(self.pace(ceiling=500, critical=False), Pace(RELEASE, 500, HELD))
        self.assertEqual(self.pace(critical=True), Pace(RELEASE, 500, HELD))

    def test_slowed(self) -> None:
        """A release that was slowed stays slowed when its ceiling falls and rises again."""
        self.pace()
        self.do(hold)
        self.do(resume, 2000)
        self.assertEqual(self.pace(), Pace(RELEASE, 2000))
        self.assertEqual(self.pace(ceiling=500), Pace(RELEASE, 500))
        self.assertEqual(self.pace(), Pace(RELEASE, 500))

    def test_backup(self) -> None:
        """A hold outlasts a backup from before it; the audit says why."""
        held = Pace(RELEASE, ALL, HELD)
        self.pace()
        self.assertEqual(self.pace(last=held), held)
        [row] = self.read(lambda store: store.execute(select(audit)).all())
        self.assertEqual((row.who, row.what, row.release), ("opq-update-server", "hold", RELEASE))
        self.assertIn("backup", row.because)
        self.do(resume)
        self.assertIsNone(self.pace(last=held))

    def test_resumed_elsewhere(self) -> None:
        """The last timestamp may hold a release that an operator has resumed since."""
        self.pace()
        self.do(hold)
        self.do(resume, 2000)
        self.assertEqual(self.pace(last=Pace(RELEASE, ALL, HELD)), Pace(RELEASE, 2000))

    def test_superseded(self) -> None:
        """A newer release supersedes the older one, and begins without its hold."""
        self.pace()
        self.do(hold)
        self.assertIsNone(self.pace(RELEASE + 1))
        self.assertEqual(self.states()[RELEASE][0], RolloutState.SUPERSEDED)

    def test_withdrawn_and_published_again(self) -> None:
        """A release that was held when it was withdrawn comes back held."""
        self.pace(RELEASE - 1)
        self.pace()
        self.do(hold)
        for sha256 in (SHA, OTHER_SHA):
            self.assertIsNone(self.pace(RELEASE - 1))
            self.assertEqual(self.pace(sha256=sha256), Pace(RELEASE, ALL, HELD))
        self.do(resume)
        self.assertIsNone(self.pace(RELEASE - 1))
        self.assertIsNone(self.pace())

    def test_other_bytes(self) -> None:
        """Another archive under the version of a held release is held, too."""
        self.pace()
        self.do(hold)
        self.assertEqual(self.pace(sha256=OTHER_SHA), Pace(RELEASE, ALL, HELD))
        (row,) = self.read(find)
        self.assertEqual(row.sha256, OTHER_SHA)

    def test_why_and_since_when(self) -> None:
        """The reason of a hold comes back with it; the outcomes of other bytes do not count."""
        self.pace(RELEASE - 1)
        self.pace()
        self.do(hold)
        self.pace(RELEASE - 1)
        self.pace()
        (again,) = self.read(lambda store: find(store, rollout.c.release == RELEASE))
        self.assertEqual((again.sentence, again.acknowledged_at), (NOTE.because, None))
        self.do(resume, now=20.0)
        self.paces(ChannelRelease("stable", RELEASE, OTHER_SHA, ALL, False), now=30.0)
        (other,) = self.read(lambda store: find(store, rollout.c.release == RELEASE))
        self.assertEqual(other.acknowledged_at, 30)

    def test_dropped(self) -> None:
        """The releases of a channel that ended are superseded; other channels go on."""
        stable = ChannelRelease("stable", RELEASE, SHA, ALL, False)
        beta = ChannelRelease("beta", RELEASE, SHA, ALL, False)
        self.paces(stable, beta)
        self.do(hold, channel="beta")
        self.assertEqual(self.paces(stable, beta), {"beta": Pace(RELEASE, ALL, HELD)})
        self.assertEqual(self.paces(stable), {})
        self.assertEqual(
            [each.state for each in self.read(find)], [RolloutState.SUPERSEDED, RolloutState.DONE]
        )
        self.assertEqual(self.paces(stable, beta), {"beta": Pace(RELEASE, ALL, HELD)})

    def test_new_database(self) -> None:
        """A hold and a share in the timestamp outlast the loss of the database."""
        self.assertEqual(self.pace(last=Pace(RELEASE, 2000, HELD)), Pace(RELEASE, 2000, HELD))
        self.assertEqual(self.pace(5, last=Pace(5, 500)), Pace(5, 500))
        self.assertIsNone(self.pace(6, last=Pace(6, ALL)))
        self.assertEqual(self.pace(7, last=Pace(7, 0, UNKNOWN)), Pace(7, 0))

    def test_times(self) -> None:
        """The times of the announcement and of the state are kept."""
        self.pace()
        self.do(hold, now=20.0)
        self.pace(ceiling=500)
        (row,) = self.read(find)
        self.assertEqual((row.announced_at, row.since), (10, 20))


@on_each_database
class AskTests(AnnounceTestCase):
    """`--rollouts ask`: a new release begins at the first step."""

    mode: Rollouts = "ask"

    def test_first_step(self) -> None:
        """The first step is 1 % of the boxes of the channel, or 5 boxes."""
        self.assertEqual(self.pace(1), Pace(1, 100))
        self.boxes(999, "beta")
        self.boxes(999, "stable", BoxState.GONE.value)
        self.boxes(999, "stable", BoxState.DISTRUSTED.value)
        self.boxes(3)
        self.assertEqual(self.pace(2), Pace(2, ALL))
        self.boxes(27, state=BoxState.ADMITTED.value)
        self.assertEqual(self.pace(3), Pace(3, 1667))

    def test_large_fleet(self) -> None:
        """From 500 boxes on, the first step is 1 %."""
        self.boxes(600)
        self.assertEqual(self.pace(), Pace(RELEASE, 100))

    def test_small_ceiling(self) -> None:
        """The first step is not over the ceiling; a larger ceiling does not widen the rollout."""
        self.assertEqual(self.pace(ceiling=50), Pace(RELEASE, 50))
        self.assertEqual(self.pace(), Pace(RELEASE, 100))
        self.do(widen, 2000)
        self.assertEqual(self.pace(ceiling=2000), Pace(RELEASE, 2000))
        self.assertEqual(self.pace(), Pace(RELEASE, 2000))

    def test_done(self) -> None:
        """A rollout that ended at its ceiling does not follow when that rises."""
        self.pace(ceiling=2000)
        self.do(widen, 2000)
        self.assertEqual(self.states(), {RELEASE: ("done", 2000)})
        self.assertEqual(self.pace(ceiling=ALL), Pace(RELEASE, 2000))
        self.assertEqual(self.states(), {RELEASE: ("baking", 2000)})

    def test_critical(self) -> None:
        """A critical release is for all boxes at once."""
        self.assertEqual(self.pace(critical=True), Pace(RELEASE, ALL))
        self.assertEqual(self.pace(5), Pace(5, 100))
        self.assertEqual(self.pace(5, critical=True), Pace(5, ALL))

    def test_other_bytes(self) -> None:
        """Another archive under the same version begins at the first step again."""
        self.pace()
        self.do(widen, 5000)
        self.assertEqual(self.pace(sha256=OTHER_SHA), Pace(RELEASE, 100))

    def test_out_already(self) -> None:
        """A release that went as signed before the server asked goes on so."""
        self.assertEqual(self.pace(last=Pace(RELEASE, ALL)), Pace(RELEASE, ALL))
        self.assertEqual(self.states(), {RELEASE: ("done", ALL)})

    def test_other_mode(self) -> None:
        """A rollout goes on as it is when the server is started with `off` or `ask`."""
        self.pace()
        self.mode = "off"
        self.assertEqual(self.pace(), Pace(RELEASE, 100))
        self.assertIsNone(self.pace(RELEASE + 1))
        self.mode = "ask"
        self.assertEqual(self.pace(RELEASE + 1), Pace(RELEASE + 1, ALL))
