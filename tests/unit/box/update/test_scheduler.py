"""When a box checks for an update, and when it installs one without a click."""

from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.offers.long_poll import LongPoll
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.update.scheduler import Scheduler
from opq_twisted.common.errors import (
    ClockBehind,
    InstallFailed,
    NoWaiting,
    OlderCopy,
    ServerFailed,
    Stale,
    Untrusted,
)
from opq_twisted.trust.offer import Offer, Rollout
from tests.helpers.box_fakes import NEW, OLD, Bench, logged
from tests.helpers.memory_network import WaitingServer
from tests.helpers.time_zones import EUROPE, at, move_to

HOUR = 3600.0


class SchedulerCase(SynchronousTestCase):
    """A scheduler whose random numbers come from the test."""

    def setUp(self) -> None:
        self.start()

    def start(
        self, chance: float = 0.5, began: float = NEW, waits: bool = False, **settings: Any
    ) -> None:
        self.bench = Bench(Path(self.mktemp()), **settings).start()
        self.clock = self.bench.clock
        self.clock.advance(began - NEW)
        self.chance = chance
        #: Seconds by which the time of day is behind the timers.
        self.behind = 0.0
        #: The end of `Retry-After`.
        self.alone_until = 0.0
        self.server = WaitingServer()
        self.server.older = not waits
        self.scheduler = Scheduler(
            evolve(self.bench.deps, now=self.now),
            self.bench.updater,
            LongPoll(self.clock, self.server, 30.0, lambda: self.chance),
            lambda: self.chance,
            lambda: max(0.0, self.alone_until - self.clock.seconds()),
        )
        self.scheduler.startService()

    def now(self) -> float:
        return self.clock.seconds() - self.behind

    def busy(self, seconds: float) -> ServerFailed:
        """Make the error of a server that sends `Retry-After`."""
        self.alone_until = self.clock.seconds() + seconds
        return ServerFailed("Busy.", retry_after=seconds)

    def checks(self) -> int:
        return self.bench.steps.names.count("newest")

    def assert_checks_after(self, seconds: float) -> None:
        """The next check comes after so many seconds, as published, and not before."""
        self.assertEqual(self.bench.status.next_check, self.now() + seconds)
        before = self.checks()
        self.clock.advance(seconds - 0.001)
        self.assertEqual(self.checks(), before)
        self.clock.advance(0.001)
        self.assertEqual(self.checks(), before + 1)


class ScheduleTests(SchedulerCase):
    """When a box checks."""

    def test_schedule(self) -> None:
        """The first check comes soon after the start, later ones after about the interval."""
        for chance, first, later in ((0.0, 12.0, 2880.0), (0.5, 60.0, 3600.0)):
            with self.subTest(chance=chance):
                self.start(chance)
                self.assert_checks_after(first)
                for _ in range(3):
                    self.bench.steps.succeed(OLD)
                    self.assert_checks_after(later)

    def test_limits(self) -> None:
        """The first check comes after 108 seconds at most, the next after 120 % of the interval."""
        self.start(1.0)
        self.assertAlmostEqual(self.bench.status.next_check or 0, NEW + 108)
        self.clock.advance(108)
        self.bench.steps.succeed(OLD)
        self.assertAlmostEqual(self.bench.status.next_check or 0, NEW + 108 + 1.2 * HOUR)

    def test_interval(self) -> None:
        """The interval comes from the configuration."""
        self.start(check_every=100.0)
        self.assert_checks_after(50)
        self.bench.steps.succeed(None)
        self.assert_checks_after(100)

    def test_backoff(self) -> None:
        """Failures double the pause up to the interval; a random part of it passes."""
        self.assert_checks_after(60)
        for longest in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600):
            self.bench.steps.fail(ServerFailed("Nobody is there."))
            self.assert_checks_after(longest / 2)
        # A success ends that.
        self.bench.steps.succeed(OLD)
        self.assert_checks_after(3600)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_checks_after(15)

    def test_full_jitter(self) -> None:
        """Even if the random part is 0, a second passes."""
        self.assert_checks_after(60)
        self.chance = 0.0
        for _ in range(3):
            self.bench.steps.fail(ServerFailed("Nobody is there."))
            self.assert_checks_after(1)

    def test_long_failure(self) -> None:
        """The pauses stay the same while a server is gone for years."""
        self.assert_checks_after(60)
        for _ in range(2000):
            self.bench.steps.fail(ServerFailed("Nobody is there."))
            self.clock.advance(1800)
        self.assertEqual(self.checks(), 2001)

    def test_retry_after(self) -> None:
        """The box never checks before `Retry-After` is over."""
        self.assert_checks_after(60)
        for asked, pause in ((7.0, 15), (1000.0, 1000), (7000.0, 7000)):
            self.bench.steps.fail(self.busy(asked))
            self.assert_checks_after(pause)

    def test_retry_after_of_a_download(self) -> None:
        """A `Retry-After` of a download counts for the next check, too."""
        self.assert_checks_after(60)
        self.bench.steps.succeed(OLD)
        self.clock.advance(10)
        self.busy(5000.0)
        self.clock.advance(3590)
        self.assertEqual(self.checks(), 1)
        self.assert_checks_after(1410)

    def test_clock_behind(self) -> None:
        """A box whose clock is behind checks again soon, but not all boxes at once."""
        self.assert_checks_after(60)
        for chance, pause in ((0.0, 15), (0.5, 30), (1.0, 45), (0.5, 30)):
            self.chance = chance
            self.bench.steps.fail(ClockBehind("Waiting for the clock."))
            self.assert_checks_after(pause)
        # That was no failure: the next failure is the first one.
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_checks_after(15)

    def test_clock_in_between(self) -> None:
        """A clock that is behind does not reset the back-off."""
        self.assert_checks_after(60)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_checks_after(15)
        self.bench.steps.fail(ClockBehind("Waiting for the clock."))
        self.assert_checks_after(30)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_checks_after(30)

    def test_not_believed(self) -> None:
        """Metadata that cannot be trusted make the box back off."""
        self.assert_checks_after(60)
        for error, pause in ((Stale("Expired."), 15), (Untrusted("Another."), 30)):
            self.bench.steps.fail(error)
            self.assert_checks_after(pause)

    def test_older_copy(self) -> None:
        """After an older copy of the metadata it checks in a minute, later if that goes on."""
        self.assert_checks_after(60)
        for chance, pause in ((0.0, 30), (0.5, 60), (0.5, 60), (0.5, 120), (0.5, 240)):
            self.chance = chance
            self.bench.steps.fail(OlderCopy("An older copy."))
            self.assert_checks_after(pause)
        self.bench.steps.succeed(OLD)
        self.chance = 0.5
        self.assert_checks_after(3600)
        self.start(check_every=40.0)
        self.assert_checks_after(20)
        for _ in range(3):
            self.bench.steps.fail(OlderCopy("An older copy."))
            self.assert_checks_after(40)

    def test_logged(self) -> None:
        """Expected errors are logged as a sentence."""
        said = logged(self)
        self.assert_checks_after(60)
        errors = (ClockBehind("Wait."), Stale("Expired."), Untrusted("Another."), OSError("Full"))
        for error in errors:
            self.bench.steps.fail(error)
            self.clock.advance(120)
        self.assertEqual(said, ["Wait.", "Expired.", "Another.", "The box's disk fails: Full"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_result_is_logged(self) -> None:
        """The log gets the result of a check, but not the same one again."""
        said = logged(self)
        current, new = "The box is up to date.", f"Release {NEW} is available."
        self.assert_checks_after(60)
        self.bench.steps.succeed(OLD)
        self.assertEqual(said, [f"Checked for an update. {current}"])
        self.assert_checks_after(HOUR)
        self.bench.steps.succeed(OLD)
        self.assertEqual(len(said), 1)
        self.assert_checks_after(HOUR)
        self.bench.steps.succeed(NEW)
        self.assertEqual(said[1:], [f"Checked for an update. {new}"])
        self.assert_checks_after(HOUR)
        self.bench.steps.fail(Stale("Expired."))
        self.assert_checks_after(15)
        self.bench.steps.succeed(NEW)
        self.assertEqual(said[2:], ["Expired.", f"Checked for an update. {new}"])

    def test_unforeseen(self) -> None:
        """An unforeseen error is logged, and the box checks again."""
        self.assert_checks_after(60)
        self.bench.steps.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_checks_after(15)

    def test_busy(self) -> None:
        """The box does not check during an update, but does afterwards."""
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.clock.advance(1800)
        self.assertEqual(self.checks(), 1)
        self.bench.steps.fail(ServerFailed("It is gone."))
        self.assertEqual(self.bench.status.stage, Stage.FAILED)
        self.assert_checks_after(60)


class StopTests(SchedulerCase):
    """When the checks end."""

    def assert_stops(self) -> None:
        self.scheduler.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(10 * HOUR)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_between_checks(self) -> None:
        """Stopping the service ends a pause."""
        self.assert_stops()
        self.assertEqual(self.checks(), 0)

    def test_during_check(self) -> None:
        """Stopping the service ends a check."""
        self.assert_checks_after(60)
        self.assert_stops()
        self.assertEqual(self.checks(), 1)

    def test_wrapped(self) -> None:
        """If a cancelled check fails with another error, no check follows."""
        self.assert_checks_after(60)
        self.scheduler.running = 0
        self.bench.steps.fail(ServerFailed("The request was aborted."))
        self.clock.advance(10 * HOUR)
        self.assertEqual(self.checks(), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AutomaticTests(SchedulerCase):
    """When a box installs without a click."""

    def setUp(self) -> None:
        self.start(install="automatic")

    def find(self, newest: Offer | int | None) -> None:
        """Check, and find a release."""
        self.assert_checks_after(60)
        self.bench.steps.succeed(newest)

    def test_click(self) -> None:
        """A box that installs after a click only shows the release."""
        self.start(install="click")
        self.find(NEW)
        self.assertEqual(self.bench.status.available, NEW)
        self.clock.advance(1000)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_automatic(self) -> None:
        """An automatic box installs a release after a random part of the spread."""
        self.find(NEW)
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])
        self.bench.steps.succeed(NEW)
        self.clock.advance(149.999)
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])
        self.clock.advance(0.001)
        self.assertEqual(self.bench.steps.names, ["newest", "newest", "fetch"])

    def test_nothing_newer(self) -> None:
        """The box begins no update if there is no newer release."""
        for newest in (OLD, OLD - 1, None):
            with self.subTest(newest=newest):
                self.start(install="automatic")
                self.find(newest)
                self.assertEqual(self.bench.steps.names, ["newest"])

    def test_not_its_turn(self) -> None:
        """A box whose turn has not come begins no update, and goes on checking."""
        # The number of box 7 is 5228, as test_trust has it.
        self.find(Offer(NEW, rollout=Rollout(52, "x1")))
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertTrue(self.bench.status.update_available)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_checks_after(3600)
        self.bench.steps.succeed(Offer(NEW, rollout=Rollout(100, "x1")))
        self.assertEqual(self.bench.steps.names, ["newest", "newest", "newest"])

    def test_critical(self) -> None:
        """A critical release is installed by every box at once."""
        self.find(Offer(NEW, critical=True, rollout=Rollout(0, "x1")))
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])

    def test_click_came_first(self) -> None:
        """A click during a check begins one update, and the checks go on."""
        self.assert_checks_after(60)
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.clock.advance(0)
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_checks_after(3600)

    def test_refused(self) -> None:
        """A release that failed is found again and again, but not installed."""
        self.find(NEW)
        self.bench.steps.succeed(NEW)
        self.clock.advance(150)
        for _ in ("fetch", "verify", "unpack"):
            self.bench.steps.succeed()
        self.bench.steps.fail(InstallFailed("It does not work here."))
        self.clock.advance(3600 - 150)
        for _ in range(3):
            self.bench.steps.succeed(NEW)
            self.assertEqual(
                self.bench.status.message, f"Release {NEW} is blocked: It does not work here."
            )
            self.assert_checks_after(3600)
        self.assertEqual(self.bench.steps.names.count("fetch"), 1)


class WindowTests(SchedulerCase):
    """When a box with a window installs."""

    #: A quarter past midnight, when the first check comes.
    FIRST = at("2026-01-15", "00:15")

    def setUp(self) -> None:
        move_to(self, EUROPE)
        self.open("02:00-04:00")

    def open(self, window: str, **settings: Any) -> None:
        """Start a box with a window, whose first check comes at a quarter past midnight."""
        settings = {"install": "automatic", "window": DailyWindow.parse(window), **settings}
        self.start(began=self.FIRST - 60, **settings)
        self.assert_checks_after(60)

    def assert_begun(self, delay: float) -> None:
        """The update has begun, and downloads after so many seconds."""
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)
        self.bench.steps.succeed(NEW)
        self.clock.advance(delay - 0.001)
        self.assertNotIn("fetch", self.bench.steps.names)
        self.clock.advance(0.001)
        self.assertEqual(self.bench.steps.names[-1], "fetch")

    def test_opens(self) -> None:
        """A release that is found before the window opens is installed then."""
        self.bench.steps.succeed(NEW)
        self.assertEqual(
            self.bench.status.message,
            f"Release {NEW} is available; it is installed between 02:00 and 04:00.",
        )
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_checks_after(3600)
        self.bench.steps.succeed(NEW)
        # The next scheduled check would come at a quarter past two.
        self.assert_checks_after(2700 + 150)
        self.bench.steps.succeed(NEW)
        self.assert_begun(150)

    def test_open(self) -> None:
        """A release that is found in the window is installed at once."""
        self.open("00:00-04:00")
        self.bench.steps.succeed(NEW)
        self.assert_begun(150)

    def test_spread(self) -> None:
        """The random delay ends before the window closes."""
        self.open("00:20-00:22")
        self.bench.steps.succeed(NEW)
        self.assert_checks_after(300 + 60)
        self.bench.steps.succeed(NEW)
        self.assert_begun(30)
        self.open("23:00-00:17")
        self.bench.steps.succeed(NEW)
        self.assert_begun(60)

    def test_short_spread(self) -> None:
        """The random delay is not longer than the box's spread."""
        self.open("00:20-04:00", spread=10)
        self.bench.steps.succeed(NEW)
        self.assert_checks_after(300 + 5)
        self.bench.steps.succeed(NEW)
        self.assert_begun(5)

    def test_no_spread(self) -> None:
        """Without a spread the box checks as soon as the window opens."""
        self.open("00:20-04:00", spread=0)
        self.bench.steps.succeed(NEW)
        self.assert_checks_after(300)

    def test_far_away(self) -> None:
        """A box whose window opens much later goes on checking."""
        self.open("23:00-23:30")
        for _ in range(5):
            self.bench.steps.succeed(NEW)
            self.assert_checks_after(3600)
        self.bench.steps.succeed(OLD)
        self.assertEqual(self.bench.status.message, "The box is up to date.")

    def test_over(self) -> None:
        """A box that checks after the window waits for the next one."""
        self.open("23:30-00:15")
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_checks_after(3600)

    def test_not_due(self) -> None:
        """A release that is not due does not wait for the window."""
        for offer in (OLD, None, Offer(NEW, rollout=Rollout(0, "x1"))):
            with self.subTest(offer=offer):
                self.open("00:20-04:00")
                self.bench.steps.succeed(offer)
                self.assert_checks_after(3600)

    def test_click(self) -> None:
        """A click does not wait for the window."""
        self.bench.steps.succeed(NEW)
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.clock.advance(0)
        self.assertEqual(self.bench.steps.names[-1], "fetch")

    def test_only_clicks(self) -> None:
        """A window has no effect on a box that installs after a click only."""
        self.open("00:20-04:00", install="click")
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.message, f"Release {NEW} is available.")
        self.assert_checks_after(3600)

    def test_almost(self) -> None:
        """If the clock is slightly behind the timers, the box does not check again and again."""
        self.open("00:20-04:00", spread=0)
        self.bench.steps.succeed(NEW)
        self.clock.advance(299.9)
        self.behind = 0.2
        self.clock.advance(0.1)
        self.bench.steps.succeed(NEW)
        self.assert_checks_after(1)


class WaitingCase(SchedulerCase):
    """A scheduler whose server answers long polls."""

    #: Seconds from an announcement until the check.
    SOON = 30 / 2

    #: Seconds after a start, or a check, until the long poll.
    BEFORE = 2 + SOON

    def setUp(self) -> None:
        self.start(waits=True)

    def wait(self, tag: str = "old") -> None:
        """Let the scheduler begin a long poll with this tag."""
        self.clock.advance(self.BEFORE)
        if self.server.asked[-1][0] is None:
            self.assert_announced(tag)
            self.bench.steps.succeed(OLD)
            self.clock.advance(self.BEFORE)
        self.assertIsNotNone(self.server.waiting)

    def assert_announced(self, tag: str = "new", after: float = SOON) -> None:
        """The server announces another tag, and the scheduler checks soon after."""
        self.server.answer(tag)
        self.assertIsNone(self.server.waiting)
        self.assert_checks_after(after)

    def assert_waits_no_more(self, seconds: float) -> None:
        """The next check comes after so many seconds, and no request before it."""
        asked = len(self.server.asked)
        self.assert_checks_after(seconds)
        self.assertEqual(len(self.server.asked), asked)


class WaitingTests(WaitingCase):
    """Between two checks the box long-polls."""

    def test_first_tag(self) -> None:
        """The first tag causes a check: the last check may be older than the tag."""
        self.clock.advance(self.BEFORE - 0.001)
        self.assertEqual(self.server.asked, [])
        self.clock.advance(0.001)
        self.assertEqual(self.server.asked, [(None, 43)])
        # A page checks in between, and the release appears only with the tag.
        self.bench.updater.check()
        self.bench.steps.succeed(OLD)
        self.assert_announced("first")
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.available, NEW)
        self.clock.advance(self.BEFORE)
        self.assertEqual(self.server.asked[1:], [("first", 300)])

    def test_asked(self) -> None:
        """It long-polls for another tag until the next scheduled check."""
        self.wait()
        for _ in range(11):
            self.assertEqual(self.server.asked[-1], ("old", 300))
            self.clock.advance(300)
            self.server.answer("old")
        self.assertEqual(self.server.asked[-1], ("old", 3600 - 17 - 11 * 300))
        self.assertEqual(self.checks(), 1)
        self.clock.advance(3600 - 17 - 11 * 300)
        self.server.answer("old")
        self.clock.advance(0)
        self.assertEqual(self.checks(), 2)
        self.assertEqual(len(self.server.asked), 13)

    def test_announced(self) -> None:
        """After another tag it checks soon, but not all boxes at once."""
        for chance, soon in ((0.0, 0.0), (0.1, 3.0), (0.5, 15.0)):
            with self.subTest(chance=chance):
                self.start(chance, waits=True)
                self.clock.advance(2 + soon)
                self.assert_announced("old", after=soon)
                self.bench.steps.succeed(OLD)
                self.clock.advance(2 + soon)
                self.clock.advance(100)
                self.assert_announced(after=soon)
                self.bench.steps.succeed(NEW)
                self.assertEqual(self.bench.status.available, NEW)

    def test_short_spread(self) -> None:
        """A smaller `spread` makes this delay smaller."""
        for spread, soon in ((10, 5), (0, 0)):
            with self.subTest(spread=spread):
                self.start(waits=True, spread=spread)
                self.clock.advance(2 + soon)
                self.assert_announced(after=soon)

    def test_nothing_new(self) -> None:
        """If a check finds nothing new, the box long-polls again."""
        self.wait()
        self.clock.advance(3600 - 100)
        self.assert_announced()
        self.bench.steps.succeed(OLD)
        self.wait()
        self.assertEqual(self.checks(), 2)
        self.assertEqual(self.server.asked[-1], ("new", 300))

    def test_installs(self) -> None:
        """An automatic box installs an announced release at once."""
        self.start(waits=True, install="automatic")
        self.wait()
        self.assert_announced()
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)

    def test_window(self) -> None:
        """If its window is closed, it checks when the window opens."""
        move_to(self, EUROPE)
        window = DailyWindow.parse("02:00-04:00")
        began = at("2026-01-15", "01:00")
        self.start(waits=True, began=began, install="automatic", window=window, check_every=10800)
        self.wait()
        self.assert_announced()
        self.bench.steps.succeed(NEW)
        self.assert_checks_after(3600 - 2 * 17 - 2 * 15 + 150)

    def test_busy(self) -> None:
        """An announcement during an update causes a check a minute after its end."""
        self.wait()
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.checks(), 2)
        self.server.answer("new")
        self.clock.advance(self.SOON)
        for _ in range(3):
            self.clock.advance(60)
            self.assertEqual(self.checks(), 2)
        self.bench.steps.fail(ServerFailed("It is gone."))
        self.assert_waits_no_more(60)

    def test_short_interval(self) -> None:
        """An interval may be shorter than a long poll, or than the delay before it."""
        self.start(waits=True, check_every=100)
        self.wait()
        self.assertEqual(self.server.asked[-1], ("old", 83))
        self.clock.advance(83)
        self.server.answer("old")
        self.clock.advance(0)
        self.assertEqual(self.checks(), 2)
        for every in (1.0, 10.0, 16.0):
            self.start(waits=True, check_every=every)
            for _ in range(5):
                self.clock.advance(every)
                self.bench.steps.succeed(OLD)
            self.assertEqual(self.server.asked, [])

    def test_rarely_woken(self) -> None:
        """While it long-polls, no timer is due soon."""
        self.wait()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped(self) -> None:
        """Stopping the service ends the long poll."""
        for until in (self.BEFORE - 1, self.BEFORE):
            with self.subTest(until=until):
                self.start(waits=True)
                self.clock.advance(until)
                self.scheduler.stopService()
                self.assertIsNone(self.server.waiting)
                self.assertEqual(self.clock.getDelayedCalls(), [])
                self.clock.advance(10 * HOUR)
                self.assertEqual(self.checks(), 0)

    def test_stopped_between(self) -> None:
        """A service that is stopped after an announcement neither checks nor polls again."""
        self.wait()
        self.server.answer("new")
        self.scheduler.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.start(waits=True)
        self.wait()
        self.server.fail(ServerFailed("The connection broke."))
        self.scheduler.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(10 * HOUR)
        self.assertEqual(self.checks(), 1)
        self.assertIsNone(self.server.waiting)


class NotWaitingTests(WaitingCase):
    """When the box does not long-poll."""

    def test_older_server(self) -> None:
        """A server without long polls is asked once after each check."""
        self.start()
        for number in range(1, 4):
            self.clock.advance(self.BEFORE)
            self.assertEqual(len(self.server.asked), number)
            self.assertEqual(self.server.asked[-1], (None, 43 if number == 1 else 300))
            self.assert_waits_no_more((60 if number == 1 else 3600) - self.BEFORE)
            self.bench.steps.succeed(OLD)

    def test_older_again(self) -> None:
        """So is a server that has ended its long polls."""
        self.wait()
        self.clock.advance(83)
        self.server.fail(NoWaiting("It lets nobody wait any more."))
        self.assert_waits_no_more(3600 - 100)
        self.bench.steps.succeed(OLD)
        self.wait()

    def test_restart(self) -> None:
        """After a restart of the server the box polls again soon, and gets its news."""
        self.wait()
        self.clock.advance(85)
        self.server.fail(ServerFailed("The connection broke."))
        self.clock.advance(19.999)
        self.assertIsNone(self.server.waiting)
        self.clock.advance(0.001)
        self.assertEqual(self.server.asked[-1], ("old", 300))
        self.assert_announced()

    def test_no_failed_check(self) -> None:
        """A long poll that fails is not a failed check."""
        said = logged(self)
        self.wait()
        shown = self.bench.status
        self.server.fail(ServerFailed("The connection broke."))
        self.assertEqual(self.bench.status, shown)
        self.assertEqual(said[-1], "The connection broke.")

    def test_unforeseen(self) -> None:
        """An unforeseen error of a long poll is logged, and the checks go on."""
        self.wait()
        self.server.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_waits_no_more(3600 - 17)

    def test_after_a_failure(self) -> None:
        """After a failed check the box does not long-poll, but backs off."""
        self.assert_checks_after(60)
        for error, pause in (
            (ServerFailed("Nobody is there."), 15),
            (None, 5000),
            (ClockBehind("Wait."), 30),
            (Stale("Expired."), 60),
        ):
            self.bench.steps.fail(error or self.busy(5000))
            self.assert_waits_no_more(pause)
        self.bench.steps.succeed(OLD)
        self.wait()

    def test_announced_check_fails(self) -> None:
        """An announced check that fails makes the box back off, too."""
        self.wait()
        self.assert_announced()
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_waits_no_more(15)

    def test_retry_after(self) -> None:
        """A `Retry-After` of a long poll is obeyed."""
        for asked in (3700.0, 5000.0):
            with self.subTest(asked=asked):
                self.start(waits=True)
                self.wait()
                self.server.fail(self.busy(asked))
                self.assert_waits_no_more(asked)
                self.bench.steps.succeed(OLD)
                self.wait()

    def test_retry_after_of_a_check(self) -> None:
        """A `Retry-After` of another request delays the long poll."""
        self.wait()
        self.assert_announced()
        self.busy(200)
        self.bench.steps.succeed(OLD)
        asked = len(self.server.asked)
        self.clock.advance(199)
        self.assertEqual(len(self.server.asked), asked)
        self.clock.advance(1)
        self.assertIsNotNone(self.server.waiting)

    def test_at_once(self) -> None:
        """A server that answers long polls at once is not asked again and again."""
        self.wait()
        self.clock.advance(9)
        self.server.answer("old")
        self.assert_waits_no_more(3600 - 17 - 9)

    def tell(self, number: int) -> None:
        """Let the server announce another tag."""
        self.assert_announced(str(number))

    def test_often_another(self) -> None:
        """A server that always has another tag causes a few checks only."""
        self.wait("0")
        for number in range(1, 6):
            self.tell(number)
            self.bench.steps.succeed(None)
            if number < 5:
                self.wait()
        self.assert_waits_no_more(3600)
        self.bench.steps.succeed(OLD)
        # From then on the limit starts at 0 again.
        self.wait()
        self.tell(6)

    def test_often_failing(self) -> None:
        """Failures in between do not reset this limit."""
        self.wait("0")
        for number in range(1, 6):
            self.tell(number)
            self.bench.steps.fail(ServerFailed("Not now."))
            self.assert_waits_no_more(15)
            self.bench.steps.succeed(OLD + number)
            if number < 5:
                self.wait()
        self.assert_waits_no_more(3600)
        self.bench.steps.succeed(OLD)
        self.wait()
