"""Tests of rollouts through any sequence of signatures and orders."""

from collections.abc import Callable
from random import Random
from threading import Barrier, Thread

from opq_twisted.fleet.rollouts.announce import announce
from opq_twisted.fleet.rollouts.orders import OrderRefused, hold, resume, widen
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.settings import Rollouts, begins_small
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.pace import ALL, HELD, ChannelRelease, Pace
from tests.helpers.store_case import on_each_database
from tests.unit.fleet.rollouts.test_orders import RELEASE, OrdersTestCase

_CEILINGS = (0, 50, 500, 2000, ALL)


class SequenceTests(OrdersTestCase):
    """What holds after each of many random steps."""

    def test_random(self) -> None:
        """A share is never over the signed one, grows by `widen` only, and a hold stays."""
        for seed in range(40):
            random = Random(seed)
            mode: Rollouts = random.choice(("off", "observe", "ask", "auto"))
            self.release = RELEASE + seed
            self.sign(random, mode)
            for _ in range(12):
                if random.random() < 0.4:
                    self.check_signature(random, mode)
                else:
                    self.check_order(random)

    def sign(self, random: Random, mode: Rollouts) -> Pace | None:
        """Let a timestamp name the release, whose terms may have changed."""
        self.signed = ChannelRelease(
            "stable", self.release, "ab" * 32, random.choice(_CEILINGS), False
        )
        return self.write(lambda store: announce(store, [self.signed], mode, 1.0)).get("stable")

    def current(self) -> Rollout:
        (found,) = (each for each in self.read(find) if not each.is_superseded)
        return found

    def check_signature(self, random: Random, mode: Rollouts) -> None:
        before = self.current()
        pace = self.sign(random, mode)
        after, ceiling = self.current(), self.signed.ceiling_bp
        self.assertEqual(after.ceiling_bp, ceiling)
        self.assertLessEqual(after.bp, ceiling)
        self.assertEqual(after.is_held, before.is_held)
        effective = min(ceiling, ALL if pace is None else pace.bp)
        self.assertEqual(effective, after.bp)
        if before.is_held:
            assert pace is not None
            self.assertEqual(pace.state, HELD)
        if before.state == RolloutState.BAKING or before.is_held:
            self.assertLessEqual(after.bp, before.bp)
        elif begins_small(mode):
            self.assertLessEqual(after.bp, max(before.bp, 100))

    def check_order(self, random: Random) -> None:
        before, rows = self.current(), len(self.audit())
        order = random.choice((hold, resume, widen))
        more = () if order is hold else (random.choice((None, -1, 0, 1, 300, 5000, ALL, ALL + 1)),)
        try:
            self.do(order, *more, release=self.release)
        except OrderRefused:
            self.assertEqual((self.current(), len(self.audit())), (before, rows))
            return
        after = self.current()
        self.assertEqual(len(self.audit()), rows + 1)
        self.assertLessEqual(after.bp, after.ceiling_bp)
        self.assertEqual(after.is_held, order is hold)
        if order is widen:
            self.assertGreater(after.bp, before.bp)
        else:
            self.assertLessEqual(after.bp, before.bp)


@on_each_database
class AtOnceTests(OrdersTestCase):
    """Orders of several people at the same moment."""

    def test_one_hold(self) -> None:
        """One of two holds is carried out, and the other one is refused."""
        self.announce()
        errors = self.at_once(lambda: self.do(hold), lambda: self.do(hold))
        self.assertEqual([type(each) for each in errors], [OrderRefused])
        self.assertEqual(len(self.audit()), 1)

    def at_once(self, *orders: Callable[[], object]) -> list[Exception]:
        """Run orders in threads; returns the errors."""
        barrier, errors = Barrier(len(orders)), list[Exception]()

        def run(order: Callable[[], object]) -> None:
            barrier.wait()
            try:
                order()
            except Exception as error:
                errors.append(error)

        threads = [Thread(target=run, args=(each,)) for each in orders]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return errors
