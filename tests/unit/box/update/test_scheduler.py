"""When a box looks for an update, and when it installs what it finds by itself."""

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.offers.long_poll import LongPoll
from opq_twisted.box.state.records import Stage
from opq_twisted.box.update.scheduler import Scheduler
from opq_twisted.box.window import DailyWindow
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
from tests.helpers.box_fakes import NEW, OLD, Bench, WaitingServer, logged
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
        #: Seconds that the time of day is behind what the timers go by.
        self.behind = 0.0
        #: Until when the server wants to be left alone.
        self.alone_until = 0.0
        self.server = WaitingServer()
        self.server.older = not waits
        self.scheduler = Scheduler(
            self.clock,
            self.bench.config,
            self.bench.updater,
            LongPoll(self.clock, self.server, 30.0, lambda: self.chance),
            self.bench.board,
            lambda: self.chance,
            self.now,
            lambda: max(0.0, self.alone_until - self.clock.seconds()),
        )
        self.scheduler.startService()

    def now(self) -> float:
        return self.clock.seconds() - self.behind

    def busy(self, seconds: float) -> ServerFailed:
        """What a server says that wants to be left alone for so many seconds."""
        self.alone_until = self.clock.seconds() + seconds
        return ServerFailed("Busy.", retry_after=seconds)

    def looks(self) -> int:
        return self.bench.steps.names.count("newest")

    def assert_looks_after(self, seconds: float) -> None:
        """The next look comes after so many seconds, as it was announced, and not before."""
        self.assertEqual(self.bench.status.next_check, self.now() + seconds)
        before = self.looks()
        self.clock.advance(seconds - 0.001)
        self.assertEqual(self.looks(), before)
        self.clock.advance(0.001)
        self.assertEqual(self.looks(), before + 1)


class ScheduleTests(SchedulerCase):
    """When it looks."""

    def test_schedule(self) -> None:
        """The first look comes after 10 to 90 % of the interval, the next after 80 to 120 %."""
        for chance, first, later in ((0.0, 360.0, 2880.0), (0.5, 1800.0, 3600.0)):
            with self.subTest(chance=chance):
                self.start(chance)
                self.assert_looks_after(first)
                for _ in range(3):
                    self.bench.steps.succeed(OLD)
                    self.assert_looks_after(later)

    def test_limits(self) -> None:
        """Nor does it come later."""
        self.start(1.0)
        self.assertAlmostEqual(self.bench.status.next_check or 0, NEW + 0.9 * HOUR)
        self.clock.advance(0.9 * HOUR)
        self.bench.steps.succeed(OLD)
        self.assertAlmostEqual(self.bench.status.next_check or 0, NEW + (0.9 + 1.2) * HOUR)

    def test_interval(self) -> None:
        """The interval is the configuration's."""
        self.start(check_every=100.0)
        self.assert_looks_after(50)
        self.bench.steps.succeed(None)
        self.assert_looks_after(100)

    def test_backoff(self) -> None:
        """Failures double the pause, of which a random part passes, up to the interval."""
        self.assert_looks_after(1800)
        for longest in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600):
            self.bench.steps.fail(ServerFailed("Nobody is there."))
            self.assert_looks_after(longest / 2)
        # A success ends that.
        self.bench.steps.succeed(OLD)
        self.assert_looks_after(3600)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_looks_after(15)

    def test_full_jitter(self) -> None:
        """The random part may be none of it; but the box never looks without a pause."""
        self.assert_looks_after(1800)
        self.chance = 0.0
        for _ in range(3):
            self.bench.steps.fail(ServerFailed("Nobody is there."))
            self.assert_looks_after(1)

    def test_long_failure(self) -> None:
        """A server may be gone for years."""
        self.assert_looks_after(1800)
        for _ in range(2000):
            self.bench.steps.fail(ServerFailed("Nobody is there."))
            self.clock.advance(1800)
        self.assertEqual(self.looks(), 2001)

    def test_retry_after(self) -> None:
        """The box never looks sooner than the server asked for."""
        self.assert_looks_after(1800)
        for asked, pause in ((7.0, 15), (1000.0, 1000), (7000.0, 7000)):
            self.bench.steps.fail(self.busy(asked))
            self.assert_looks_after(pause)

    def test_retry_after_of_a_download(self) -> None:
        """Nor when it asked for that when an archive was fetched, between two looks."""
        self.assert_looks_after(1800)
        self.bench.steps.succeed(OLD)
        self.clock.advance(10)
        self.busy(5000.0)
        self.clock.advance(3590)
        self.assertEqual(self.looks(), 1)
        self.assert_looks_after(1410)

    def test_clock_behind(self) -> None:
        """A box that waits for its clock looks again soon, not at the same moment as others."""
        self.assert_looks_after(1800)
        for chance, pause in ((0.0, 15), (0.5, 30), (1.0, 45), (0.5, 30)):
            self.chance = chance
            self.bench.steps.fail(ClockBehind("Waiting for the clock."))
            self.assert_looks_after(pause)
        # That was no failure: the pause after the first one is that of the first one.
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_looks_after(15)

    def test_clock_in_between(self) -> None:
        """Nor does it make earlier failures forgotten."""
        self.assert_looks_after(1800)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_looks_after(15)
        self.bench.steps.fail(ClockBehind("Waiting for the clock."))
        self.assert_looks_after(30)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_looks_after(30)

    def test_not_believed(self) -> None:
        """What cannot be believed is asked for ever more rarely."""
        self.assert_looks_after(1800)
        for error, pause in ((Stale("Expired."), 15), (Untrusted("Another."), 30)):
            self.bench.steps.fail(error)
            self.assert_looks_after(pause)

    def test_older_copy(self) -> None:
        """After an older copy of the metadata it looks again in a minute, later if that goes on."""
        self.assert_looks_after(1800)
        for chance, pause in ((0.0, 30), (0.5, 60), (0.5, 60), (0.5, 120), (0.5, 240)):
            self.chance = chance
            self.bench.steps.fail(OlderCopy("An older copy."))
            self.assert_looks_after(pause)
        self.bench.steps.succeed(OLD)
        self.chance = 0.5
        self.assert_looks_after(3600)
        self.start(check_every=40.0)
        self.assert_looks_after(20)
        for _ in range(3):
            self.bench.steps.fail(OlderCopy("An older copy."))
            self.assert_looks_after(40)

    def test_logged(self) -> None:
        """What can be foreseen is logged as its sentence."""
        said = logged(self)
        self.assert_looks_after(1800)
        errors = (ClockBehind("Wait."), Stale("Expired."), Untrusted("Another."), OSError("Full"))
        for error in errors:
            self.bench.steps.fail(error)
            self.clock.advance(120)
        self.assertEqual(said, ["Wait.", "Expired.", "Another.", "The box's disk fails: Full"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_result_is_logged(self) -> None:
        """The log says in one line what a look found, again only after another or a failure."""
        said = logged(self)
        current, new = "The box is up to date.", f"Release {NEW} is available."
        self.assert_looks_after(1800)
        self.bench.steps.succeed(OLD)
        self.assertEqual(said, [f"Looked for an update. {current}"])
        self.assert_looks_after(HOUR)
        self.bench.steps.succeed(OLD)
        self.assertEqual(len(said), 1)
        self.assert_looks_after(HOUR)
        self.bench.steps.succeed(NEW)
        self.assertEqual(said[1:], [f"Looked for an update. {new}"])
        self.assert_looks_after(HOUR)
        self.bench.steps.fail(Stale("Expired."))
        self.assert_looks_after(15)
        self.bench.steps.succeed(NEW)
        self.assertEqual(said[2:], ["Expired.", f"Looked for an update. {new}"])

    def test_unforeseen(self) -> None:
        """What nobody foresaw is logged, and the box looks again."""
        self.assert_looks_after(1800)
        self.bench.steps.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_looks_after(15)

    def test_busy(self) -> None:
        """During an update it does not look, but does afterwards."""
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.clock.advance(1800)
        self.assertEqual(self.looks(), 1)
        self.bench.steps.fail(ServerFailed("It is gone."))
        self.assertEqual(self.bench.status.stage, Stage.FAILED)
        self.assert_looks_after(60)


class StopTests(SchedulerCase):
    """When it looks no more."""

    def assert_stops(self) -> None:
        self.scheduler.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(10 * HOUR)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_between_looks(self) -> None:
        """A pause ends with the service."""
        self.assert_stops()
        self.assertEqual(self.looks(), 0)

    def test_while_looking(self) -> None:
        """So does a look."""
        self.assert_looks_after(1800)
        self.assert_stops()
        self.assertEqual(self.looks(), 1)

    def test_wrapped(self) -> None:
        """A look that fails with what a cancelled request becomes is not followed by another."""
        self.assert_looks_after(1800)
        self.scheduler.running = 0
        self.bench.steps.fail(ServerFailed("The request was aborted."))
        self.clock.advance(10 * HOUR)
        self.assertEqual(self.looks(), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AutomaticTests(SchedulerCase):
    """When it installs."""

    def setUp(self) -> None:
        self.start(install="automatic")

    def find(self, newest: Offer | int | None) -> None:
        """Look, and find a release."""
        self.assert_looks_after(1800)
        self.bench.steps.succeed(newest)

    def test_click(self) -> None:
        """A box whose owner wants to click shows what there is, and waits."""
        self.start(install="click")
        self.find(NEW)
        self.assertEqual(self.bench.status.available, NEW)
        self.clock.advance(1000)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_automatic(self) -> None:
        """A box that may installs what it finds, after a random part of the spread."""
        self.find(NEW)
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])
        self.bench.steps.succeed(NEW)
        self.clock.advance(149.999)
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])
        self.clock.advance(0.001)
        self.assertEqual(self.bench.steps.names, ["newest", "newest", "fetch"])

    def test_nothing_newer(self) -> None:
        """It begins nothing when there is nothing newer."""
        for newest in (OLD, OLD - 1, None):
            with self.subTest(newest=newest):
                self.start(install="automatic")
                self.find(newest)
                self.assertEqual(self.bench.steps.names, ["newest"])

    def test_not_its_turn(self) -> None:
        """A box whose turn it is not begins nothing, and looks again as ever."""
        # The number of box 7 is 5228, as test_trust has it.
        self.find(Offer(NEW, rollout=Rollout(52, "x1")))
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertTrue(self.bench.status.update_available)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_looks_after(3600)
        self.bench.steps.succeed(Offer(NEW, rollout=Rollout(100, "x1")))
        self.assertEqual(self.bench.steps.names, ["newest", "newest", "newest"])

    def test_critical(self) -> None:
        """A critical release is for every box at once."""
        self.find(Offer(NEW, critical=True, rollout=Rollout(0, "x1")))
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])

    def test_click_came_first(self) -> None:
        """A click while the box looks is one update, and the checker goes on."""
        self.assert_looks_after(1800)
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.clock.advance(0)
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_looks_after(3600)

    def test_refused(self) -> None:
        """A release that failed is found again and again, and not tried again."""
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
                self.bench.status.message, f"Release {NEW} is refused: It does not work here."
            )
            self.assert_looks_after(3600)
        self.assertEqual(self.bench.steps.names.count("fetch"), 1)


class WindowTests(SchedulerCase):
    """When it installs on a box whose owner named a part of the day for it."""

    #: A quarter past midnight, when the first look comes.
    FIRST = at("2026-01-15", "00:15")

    def setUp(self) -> None:
        move_to(self, EUROPE)
        self.open("02:00-04:00")

    def open(self, window: str, **settings: Any) -> None:
        """Start a box with a window, whose first look comes at a quarter past midnight."""
        settings = {"install": "automatic", "window": DailyWindow.parse(window), **settings}
        self.start(began=self.FIRST - 1800, **settings)
        self.assert_looks_after(1800)

    def assert_begun(self, delay: float) -> None:
        """It has begun, and fetches after so many seconds."""
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)
        self.bench.steps.succeed(NEW)
        self.clock.advance(delay - 0.001)
        self.assertNotIn("fetch", self.bench.steps.names)
        self.clock.advance(0.001)
        self.assertEqual(self.bench.steps.names[-1], "fetch")

    def test_opens(self) -> None:
        """A release that is found before is installed when the window opens."""
        self.bench.steps.succeed(NEW)
        self.assertEqual(
            self.bench.status.message,
            f"Release {NEW} is available; it is installed between 02:00 and 04:00.",
        )
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_looks_after(3600)
        self.bench.steps.succeed(NEW)
        # The next scheduled look would come at a quarter past two.
        self.assert_looks_after(2700 + 150)
        self.bench.steps.succeed(NEW)
        self.assert_begun(150)

    def test_open(self) -> None:
        """One that is found meanwhile is installed as ever."""
        self.open("00:00-04:00")
        self.bench.steps.succeed(NEW)
        self.assert_begun(150)

    def test_spread(self) -> None:
        """All that is random ends before the window does."""
        self.open("00:20-00:22")
        self.bench.steps.succeed(NEW)
        self.assert_looks_after(300 + 60)
        self.bench.steps.succeed(NEW)
        self.assert_begun(30)
        self.open("23:00-00:17")
        self.bench.steps.succeed(NEW)
        self.assert_begun(60)

    def test_short_spread(self) -> None:
        """Nor is it longer than the box's spread."""
        self.open("00:20-04:00", spread=10)
        self.bench.steps.succeed(NEW)
        self.assert_looks_after(300 + 5)
        self.bench.steps.succeed(NEW)
        self.assert_begun(5)

    def test_no_spread(self) -> None:
        """Without one it looks as soon as the window opens."""
        self.open("00:20-04:00", spread=0)
        self.bench.steps.succeed(NEW)
        self.assert_looks_after(300)

    def test_far_away(self) -> None:
        """A window that opens much later keeps no box from looking as ever."""
        self.open("23:00-23:30")
        for _ in range(5):
            self.bench.steps.succeed(NEW)
            self.assert_looks_after(3600)
        self.bench.steps.succeed(OLD)
        self.assertEqual(self.bench.status.message, "The box is up to date.")

    def test_over(self) -> None:
        """A box that looks when the window is over waits for the next."""
        self.open("23:30-00:15")
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_looks_after(3600)

    def test_not_due(self) -> None:
        """What is not to be installed by itself needs no window."""
        for offer in (OLD, None, Offer(NEW, rollout=Rollout(0, "x1"))):
            with self.subTest(offer=offer):
                self.open("00:20-04:00")
                self.bench.steps.succeed(offer)
                self.assert_looks_after(3600)

    def test_click(self) -> None:
        """A click does not wait for the window."""
        self.bench.steps.succeed(NEW)
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.clock.advance(0)
        self.assertEqual(self.bench.steps.names[-1], "fetch")

    def test_only_clicks(self) -> None:
        """Nor does one matter where only clicks install."""
        self.open("00:20-04:00", install="click")
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.message, f"Release {NEW} is available.")
        self.assert_looks_after(3600)

    def test_almost(self) -> None:
        """A clock that is a moment behind the pause is no reason to look again and again."""
        self.open("00:20-04:00", spread=0)
        self.bench.steps.succeed(NEW)
        self.clock.advance(299.9)
        self.behind = 0.2
        self.clock.advance(0.1)
        self.bench.steps.succeed(NEW)
        self.assert_looks_after(1)


class WaitingCase(SchedulerCase):
    """A checker whose server lets boxes wait, and says when there is something new."""

    #: Seconds from the moment that it is told until it looks.
    SOON = 30 / 2

    #: Seconds after a start, or a look, until it waits.
    BEFORE = 2 + SOON

    def setUp(self) -> None:
        self.start(waits=True)

    def wait(self, tag: str = "old") -> None:
        """Let the checker come to wait, which knows this tag then."""
        self.clock.advance(self.BEFORE)
        if self.server.asked[-1][0] is None:
            self.assert_told(tag)
            self.bench.steps.succeed(OLD)
            self.clock.advance(self.BEFORE)
        self.assertIsNotNone(self.server.waiting)

    def assert_told(self, tag: str = "new", after: float = SOON) -> None:
        """The server tells of something new, and the checker looks soon after."""
        self.server.answer(tag)
        self.assertIsNone(self.server.waiting)
        self.assert_looks_after(after)

    def assert_waits_no_more(self, seconds: float) -> None:
        """The next look comes after so many seconds, and it asks nothing before."""
        asked = len(self.server.asked)
        self.assert_looks_after(seconds)
        self.assertEqual(len(self.server.asked), asked)


class WaitingTests(WaitingCase):
    """Between two looks it waits at the server."""

    def test_first_tag(self) -> None:
        """The first tag makes it look: it may have looked before that became the tag."""
        self.clock.advance(self.BEFORE - 0.001)
        self.assertEqual(self.server.asked, [])
        self.clock.advance(0.001)
        self.assertEqual(self.server.asked, [(None, 300)])
        # A page asks in between, and the release that it misses is there when the tag comes.
        self.bench.updater.check()
        self.bench.steps.succeed(OLD)
        self.assert_told("first")
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.available, NEW)
        self.clock.advance(self.BEFORE)
        self.assertEqual(self.server.asked[1:], [("first", 300)])

    def test_asked(self) -> None:
        """It waits for another tag, for minutes and until its pause is over."""
        self.wait()
        for _ in range(11):
            self.assertEqual(self.server.asked[-1], ("old", 300))
            self.clock.advance(300)
            self.server.answer("old")
        self.assertEqual(self.server.asked[-1], ("old", 3600 - 17 - 11 * 300))
        self.assertEqual(self.looks(), 1)
        self.clock.advance(3600 - 17 - 11 * 300)
        self.server.answer("old")
        self.clock.advance(0)
        self.assertEqual(self.looks(), 2)
        self.assertEqual(len(self.server.asked), 13)

    def test_told(self) -> None:
        """When there is another tag it looks soon, and not with all others at once."""
        for chance, soon in ((0.0, 0.0), (0.1, 3.0), (0.5, 15.0)):
            with self.subTest(chance=chance):
                self.start(chance, waits=True)
                self.clock.advance(2 + soon)
                self.assert_told("old", after=soon)
                self.bench.steps.succeed(OLD)
                self.clock.advance(2 + soon)
                self.clock.advance(100)
                self.assert_told(after=soon)
                self.bench.steps.succeed(NEW)
                self.assertEqual(self.bench.status.available, NEW)

    def test_short_spread(self) -> None:
        """The boxes of a small fleet need no more than their spread."""
        for spread, soon in ((10, 5), (0, 0)):
            with self.subTest(spread=spread):
                self.start(waits=True, spread=spread)
                self.clock.advance(2 + soon)
                self.assert_told(after=soon)

    def test_nothing_new(self) -> None:
        """When there is nothing new for this box it waits again."""
        self.wait()
        self.clock.advance(3600 - 100)
        self.assert_told()
        self.bench.steps.succeed(OLD)
        self.wait()
        self.assertEqual(self.looks(), 2)
        self.assertEqual(self.server.asked[-1], ("new", 300))

    def test_installs(self) -> None:
        """A box that may installs at once what it is told of."""
        self.start(waits=True, install="automatic")
        self.wait()
        self.assert_told()
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)

    def test_window(self) -> None:
        """One whose window is shut knows then that it has to look when that opens."""
        move_to(self, EUROPE)
        window = DailyWindow.parse("02:00-04:00")
        began = at("2026-01-15", "01:00")
        self.start(waits=True, began=began, install="automatic", window=window, check_every=10800)
        self.wait()
        self.assert_told()
        self.bench.steps.succeed(NEW)
        self.assert_looks_after(3600 - 2 * 17 - 2 * 15 + 150)

    def test_busy(self) -> None:
        """What it is told during an update is looked at a minute after the update has ended."""
        self.wait()
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.looks(), 2)
        self.server.answer("new")
        self.clock.advance(self.SOON)
        for _ in range(3):
            self.clock.advance(60)
            self.assertEqual(self.looks(), 2)
        self.bench.steps.fail(ServerFailed("It is gone."))
        self.assert_waits_no_more(60)

    def test_short_interval(self) -> None:
        """An interval may be shorter than a wait, or than what passes before it."""
        self.start(waits=True, check_every=100)
        self.wait()
        self.assertEqual(self.server.asked[-1], ("old", 83))
        self.clock.advance(83)
        self.server.answer("old")
        self.clock.advance(0)
        self.assertEqual(self.looks(), 2)
        for every in (1.0, 10.0, 16.0):
            self.start(waits=True, check_every=every)
            for _ in range(5):
                self.clock.advance(every)
                self.bench.steps.succeed(OLD)
            self.assertEqual(self.server.asked, [])

    def test_rarely_woken(self) -> None:
        """While it waits no timer is near."""
        self.wait()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped(self) -> None:
        """A service that is stopped waits no more."""
        for until in (self.BEFORE - 1, self.BEFORE):
            with self.subTest(until=until):
                self.start(waits=True)
                self.clock.advance(until)
                self.scheduler.stopService()
                self.assertIsNone(self.server.waiting)
                self.assertEqual(self.clock.getDelayedCalls(), [])
                self.clock.advance(10 * HOUR)
                self.assertEqual(self.looks(), 0)

    def test_stopped_between(self) -> None:
        """Nor does it look when it is stopped between the news and the look, or connect again."""
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
        self.assertEqual(self.looks(), 1)
        self.assertIsNone(self.server.waiting)


class NotWaitingTests(WaitingCase):
    """When it does not wait, and when no more."""

    def test_older_server(self) -> None:
        """A server that lets nobody wait is asked once for each look."""
        self.start()
        for number in range(1, 4):
            self.clock.advance(self.BEFORE)
            self.assertEqual(self.server.asked, [(None, 300)] * number)
            self.assert_waits_no_more((1800 if number == 1 else 3600) - self.BEFORE)
            self.bench.steps.succeed(OLD)

    def test_older_again(self) -> None:
        """Nor is one asked again that has let boxes wait before."""
        self.wait()
        self.clock.advance(83)
        self.server.fail(NoWaiting("It lets nobody wait any more."))
        self.assert_waits_no_more(3600 - 100)
        self.bench.steps.succeed(OLD)
        self.wait()

    def test_restart(self) -> None:
        """A server that was restarted has the box back soon, which is told of what came since."""
        self.wait()
        self.clock.advance(85)
        self.server.fail(ServerFailed("The connection broke."))
        self.clock.advance(19.999)
        self.assertIsNone(self.server.waiting)
        self.clock.advance(0.001)
        self.assertEqual(self.server.asked[-1], ("old", 300))
        self.assert_told()

    def test_no_failed_look(self) -> None:
        """That is no failed look."""
        said = logged(self)
        self.wait()
        shown = self.bench.status
        self.server.fail(ServerFailed("The connection broke."))
        self.assertEqual(self.bench.status, shown)
        self.assertEqual(said[-1], "The connection broke.")

    def test_unforeseen(self) -> None:
        """What nobody foresaw is logged, and ends nothing."""
        self.wait()
        self.server.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_waits_no_more(3600 - 17)

    def test_after_a_failure(self) -> None:
        """After a look that failed it does not wait at the server, but backs off."""
        self.assert_looks_after(1800)
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

    def test_look_after_told_fails(self) -> None:
        """A look that it was told to fails as any other, and is followed as any other."""
        self.wait()
        self.assert_told()
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_waits_no_more(15)

    def test_retry_after(self) -> None:
        """A server that refuses waiting for a time is left alone for it."""
        for asked in (3700.0, 5000.0):
            with self.subTest(asked=asked):
                self.start(waits=True)
                self.wait()
                self.server.fail(self.busy(asked))
                self.assert_waits_no_more(asked)
                self.bench.steps.succeed(OLD)
                self.wait()

    def test_retry_after_of_a_look(self) -> None:
        """So is one that has said so of anything else."""
        self.wait()
        self.assert_told()
        self.busy(200)
        self.bench.steps.succeed(OLD)
        asked = len(self.server.asked)
        self.clock.advance(199)
        self.assertEqual(len(self.server.asked), asked)
        self.clock.advance(1)
        self.assertIsNotNone(self.server.waiting)

    def test_at_once(self) -> None:
        """A server that says at once that nothing is new is not asked again and again."""
        self.wait()
        self.clock.advance(9)
        self.server.answer("old")
        self.assert_waits_no_more(3600 - 17 - 9)

    def tell(self, number: int) -> None:
        """Let the server tell of something, as another tag."""
        self.assert_told(str(number))

    def test_often_another(self) -> None:
        """One that always has another tag brings about a few looks, and no more."""
        self.wait("0")
        for number in range(1, 6):
            self.tell(number)
            self.bench.steps.succeed(None)
            if number < 5:
                self.wait()
        self.assert_waits_no_more(3600)
        self.bench.steps.succeed(OLD)
        # From then on it counts anew.
        self.wait()
        self.tell(6)

    def test_often_failing(self) -> None:
        """Nor does a server get round that by failing in between."""
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
