"""What a box waits for, as its report says."""

from datetime import datetime, timedelta

from opq_twisted.box.config.window import DailyWindow
from opq_twisted.common.errors import (
    ArchiveRefused,
    BoxUnfit,
    ClockBehind,
    DownloadFailed,
    OlderCopy,
    ServerFailed,
    Stale,
    Untrusted,
)
from opq_twisted.report.codes import Waiting
from opq_twisted.trust.offer import Offer, Rollout
from opq_twisted.trust.pace import HELD, UNKNOWN, Pace
from tests.helpers.box_fakes import NEW, OLD, Bench
from tests.helpers.updater_case import UpdaterCase


class WaitingTests(UpdaterCase):
    """A box that looks for updates by itself, unless the test says otherwise."""

    def setUp(self) -> None:
        super().setUp()
        self.bench = Bench(self.folder, install="automatic").start()

    def assert_waits(self, waiting: Waiting | None) -> None:
        self.assertEqual(self.bench.updater.waiting, waiting)

    def test_nothing(self) -> None:
        """A box that is up to date, or installs at the next check, waits for nothing."""
        self.assert_waits(None)
        for answer in (OLD, OLD - 1, None, NEW):
            self.check(answer)
            self.assert_waits(None)

    def test_release(self) -> None:
        """A release may be for this box later."""
        for offer, waiting in (
            (Offer(NEW, rollout=Rollout(52, "x1")), Waiting.TURN),
            (Offer(NEW, 1, {"sha256": "ab" * 32}, pace=Pace(NEW, 0)), Waiting.TURN),
            (Offer(NEW, rollout=Rollout(0, "x1")), Waiting.HELD),
            (Offer(NEW, pace=Pace(NEW, 0, HELD)), Waiting.HELD),
            (Offer(NEW, pace=Pace(NEW, 0, UNKNOWN)), Waiting.HELD),
            # The box has the release before.
            (Offer(NEW, rollout=Rollout(52, "x1"), before=Offer(OLD)), Waiting.TURN),
        ):
            with self.subTest(offer=offer):
                self.check(offer)
                self.assert_waits(waiting)

    def test_click(self) -> None:
        """A box that updates after a click waits for that, once the release is for it."""
        self.bench = Bench(self.folder).start()
        self.check(NEW)
        self.assert_waits(Waiting.CLICK)
        self.check(Offer(NEW, pace=Pace(NEW, 0, HELD)))
        self.assert_waits(Waiting.HELD)

    def test_window(self) -> None:
        """A box waits until its window opens."""
        now = datetime.fromtimestamp(NEW)
        begins, ends = (now + timedelta(hours=hours) for hours in (1, 2))
        window = DailyWindow(begins.time(), ends.time())
        self.bench = Bench(self.folder, install="automatic", window=window).start()
        self.check(NEW)
        self.assert_waits(Waiting.WINDOW)
        self.bench.clock.advance(3601)
        self.assert_waits(None)

    def test_measurement(self) -> None:
        """An update waits for the end of a measurement, and for nothing else."""
        self.click("unpack")
        self.assert_waits(None)
        self.bench.config.inhibit_file.touch()
        self.succeed()
        self.assert_waits(Waiting.MEASUREMENT)
        self.bench.config.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assert_waits(None)

    def test_measurement_interrupted(self) -> None:
        """An agent that is stopped in that time waits for nothing."""
        self.click("unpack")
        self.bench.config.inhibit_file.touch()
        self.succeed()
        self.bench.updater.stopService()
        self.assertFalse(self.bench.deps.inhibitor.is_waiting)

    def test_refused(self) -> None:
        """A release that is blocked, or postponed because of the box, is refused for now."""
        for error in (ArchiveRefused("It is damaged."), BoxUnfit("It needs 5 MB.")):
            self.renew()
            self.click("unpack")
            self.bench.steps.fail(error)
            self.assert_waits(Waiting.REFUSED)

    def test_wrong_download(self) -> None:
        """After a wrong download, the box waits for the server."""
        self.click("verify")
        self.bench.steps.fail(DownloadFailed("Another SHA-256."))
        self.assert_waits(Waiting.SERVER)

    def test_failed_check(self) -> None:
        """After a failed check, the box waits for the cause to go away."""
        self.check(Offer(NEW, rollout=Rollout(52, "x1")))
        for error, waiting in (
            (ServerFailed("Nobody is there."), Waiting.SERVER),
            (OlderCopy("The copy is an older one."), Waiting.SERVER),
            (ClockBehind("It is 1970."), Waiting.CLOCK),
            (Stale("It has expired."), Waiting.STALE),
            (Untrusted("It is another."), Waiting.UNTRUSTED),
            # The report has no word for a disk that fails.
            (OSError(5, "Input/output error"), Waiting.TURN),
        ):
            with self.subTest(error=error):
                self.failureResultOf(self.check(error), type(error))
                self.assert_waits(waiting)
        self.check(OLD)
        self.assert_waits(None)

    def test_unsigned(self) -> None:
        """A box that finds no signed release waits for a signature."""
        self.bench = Bench(self.folder, install="automatic", allow_unsigned=False).start()
        self.failureResultOf(self.check(NEW))
        self.assert_waits(Waiting.UNTRUSTED)
