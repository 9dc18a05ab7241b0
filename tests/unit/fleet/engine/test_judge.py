"""When the engine's last judgement is repeated, and when the rollouts are judged anew."""

from collections.abc import Collection

from sqlalchemy import update

from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_rollout
from tests.helpers.store_case import on_each_database
from tests.unit.fleet.engine.test_gather import GatherCase

_DAY = 86400.0


@on_each_database
class ForShowTests(GatherCase):
    """The judge of the engine, and the one that is made of it for the page and the metrics."""

    def setUp(self) -> None:
        super().setUp()
        self.judge = Judge(mode="auto")
        self.add(1, ("updated", None))
        self.assert_boxes(1, self.judge)
        self.add(1, ("updated", None))

    def assert_boxes(
        self, boxes: int, judge: Judge, now: float = NOW, only: Collection[int] | None = None
    ) -> None:
        """A judge sees so many boxes with the release."""
        (found,) = self.read(lambda store: judge.assess(store, now, only))
        self.assertEqual(found.evidence.boxes, boxes)

    def change(self, **columns: object) -> None:
        """Change the rollout."""
        self.write(lambda store: store.execute(update(rollout).values(columns)))

    def test_repeated(self) -> None:
        """What the engine has said is repeated until it says something else."""
        self.assert_boxes(1, self.judge.for_show, NOW + 29)
        self.assert_boxes(1, self.judge.for_show, NOW, only=(NEW,))
        self.assert_boxes(2, self.judge, NOW + 20)
        self.assert_boxes(2, self.judge.for_show, NOW + 20)

    def test_old(self) -> None:
        """It is judged anew when that was long ago, as in a process without the engine."""
        for_show = self.judge.for_show
        self.assert_boxes(2, for_show, NOW + 30)
        self.add(1, ("updated", None))
        self.assert_boxes(2, for_show, NOW + 35)
        self.assert_boxes(3, for_show, NOW + 29)

    def test_changed(self) -> None:
        """It is judged anew when the rollout is another one, or in another state."""
        self.change(state=RolloutState.HELD)
        self.assert_boxes(2, self.judge.for_show)
        self.add(1, ("updated", None))
        self.assert_boxes(2, self.judge.for_show)
        self.change(release=NEW + 1)
        self.assert_boxes(0, self.judge.for_show)

    def test_others(self) -> None:
        """The judgement of other releases than those asked for is not repeated."""
        for_show = self.judge.for_show
        self.assertEqual(list(self.read(lambda store: for_show.assess(store, NOW, (OLD,)))), [])

    def test_engine(self) -> None:
        """For decisions it is always judged anew."""
        self.assert_boxes(2, self.judge)


@on_each_database
class BeforesTests(GatherCase):
    """The release before, which is counted now and then."""

    def setUp(self) -> None:
        super().setUp()
        self.judge = Judge(mode="auto")
        self.add_before(OLD)
        self.assert_before(OLD, 1)
        self.add(1, ("updated", None), release=OLD)

    def add_before(self, release: int, since: float = NOW - 2 * _DAY) -> None:
        """Add a superseded rollout, and a box that has got it."""
        columns = {"state": RolloutState.SUPERSEDED, "announced_at": NOW - 9 * _DAY}
        self.write(lambda store: add_rollout(store, release=release, since=since, **columns))
        self.add(1, ("updated", None), release=release)

    def assert_before(self, release: int, boxes: int, now: float = NOW) -> None:
        """The rollout is compared with so many boxes of a release."""
        (found,) = self.read(lambda store: self.judge.assess(store, now))
        before = found.before
        assert before is not None
        self.assertEqual((before.release, before.boxes), (release, boxes))

    def test_kept(self) -> None:
        """It is counted once an hour, also after the clock was ahead."""
        self.assert_before(OLD, 1, NOW + 3599)
        self.assert_before(OLD, 2, NOW + 3600)
        self.add(1, ("updated", None), release=OLD)
        self.assert_before(OLD, 3, NOW)

    def test_another(self) -> None:
        """Another release before is counted at once."""
        self.add_before(OLD + 1, since=NOW - _DAY)
        self.assert_before(OLD + 1, 1)
