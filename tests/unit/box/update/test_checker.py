"""A check for the newest release: its answer, and how far the box may trust it."""

import os
from typing import Any

from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import (
    ClockBehind,
    OlderCopy,
    ServerFailed,
    Stale,
    UnsignedRefused,
    Untrusted,
)
from opq_twisted.trust.offer import Offer
from tests.helpers.box_fakes import NEW, OLD, Bench
from tests.helpers.updater_case import DAY, UpdaterCase


class CheckTests(UpdaterCase):
    """The results of a check."""

    def test_older_copy(self) -> None:
        """Without a click, an update checks again a minute after it got an older copy."""
        self.bench.updater.begin(automatic=True)
        self.bench.steps.fail(OlderCopy("The copy is an older one."))
        status = self.bench.status
        self.assertEqual(
            (status.stage, status.message), (Stage.CHECKING, "The copy is an older one.")
        )
        self.bench.clock.advance(59.5)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.bench.clock.advance(0.5)
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])
        self.proceed("fetch")

    def test_busy_server(self) -> None:
        """It also checks again if the server is busy, but not before `Retry-After`."""
        self.bench.updater.begin(automatic=True)
        for asked, pause in ((400.0, 400), (3000.0, 600)):
            before = len(self.bench.steps.names)
            self.bench.steps.fail(ServerFailed("The server is busy.", retry_after=asked))
            self.assertEqual(self.bench.status.message, "The server is busy.")
            self.bench.clock.advance(pause - 0.5)
            self.assertEqual(len(self.bench.steps.names), before)
            self.bench.clock.advance(0.5)
            self.assertEqual(len(self.bench.steps.names), before + 1)
        self.proceed("fetch")

    def test_only_older_copies(self) -> None:
        """After three older copies the update fails, and has downloaded nothing."""
        self.bench.updater.begin(automatic=True)
        for pause in (60, 120, 0):
            self.bench.steps.fail(OlderCopy("The copy is an older one."))
            self.bench.clock.advance(pause)
        self.assert_failed("The copy is an older one.")
        self.assertEqual(self.bench.steps.names, ["newest"] * 3)

    def test_older_copy_after_a_click(self) -> None:
        """After a click, an older copy is reported at once."""
        self.click("newest")
        self.bench.steps.fail(OlderCopy("The copy is an older one."))
        self.assert_failed("The copy is an older one.")

    def test_check(self) -> None:
        """A check publishes the newest release, and its own time."""
        checked = self.bench.updater.check()
        self.bench.clock.advance(7)
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.successResultOf(checked), NEW)
        status = self.bench.status
        self.assertEqual((status.available, status.last_check), (NEW, NEW + 7))
        self.assertEqual(status.message, f"Release {NEW} is available.")

    def test_failure(self) -> None:
        """A failed check says why, and keeps the release that was available before."""
        self.bench.board.publish(available=NEW)
        self.failureResultOf(self.check(ServerFailed("Nobody is there.")), ServerFailed)
        status = self.bench.status
        self.assertEqual((status.available, status.message), (NEW, "Nobody is there."))
        self.assertEqual(status.last_check, NEW)

    def test_keeps_offer(self) -> None:
        """After a failed check the last offer still counts."""
        self.check(Offer(NEW))
        for error in (Stale("It has expired."), Untrusted("It is another."), ClockBehind("Wait.")):
            self.failureResultOf(self.check(error), type(error))
            self.assertEqual(self.bench.status.message, str(error))
            self.assertTrue(self.bench.status.update_available)


class TrustTests(UpdaterCase):
    """Releases that a box must not trust."""

    def test_unsigned(self) -> None:
        """A box installs unsigned releases only if its configuration allows them."""
        self.bench = Bench(self.folder, allow_unsigned=False).start()
        self.find(NEW)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertIn('set "allow_unsigned": true', self.bench.status.message)
        self.assert_failed(self.bench.status.message)
        self.assertFalse(self.bench.status.unsigned)

    def test_check(self) -> None:
        """An unsigned release is an error of the check, and is not due."""
        self.bench = Bench(self.folder, allow_unsigned=False).start()
        self.failureResultOf(self.check(NEW), UnsignedRefused)
        status = self.bench.status
        self.assertEqual((status.available, status.update_available), (NEW, False))
        self.assertIn("not signed for this box", status.trouble or "")
        self.assertEqual(status.trouble, status.message)
        self.assertFalse(self.bench.updater.is_due)
        self.assertEqual(self.bench.updater.history, ((), ()))

    def test_allowed(self) -> None:
        """A box that installs unsigned releases says so."""
        self.assertTrue(self.bench.status.unsigned)

    def test_trusted_root(self) -> None:
        """A box that got a trusted root since its start does not say "unsigned" any more."""
        (self.folder / "root.json").write_text("{}")
        self.find(Offer(NEW, signed=True))
        self.proceed("install")
        self.assertFalse(self.bench.status.unsigned)

    def test_root_comes_meanwhile(self) -> None:
        """If a trusted root arrives during an update, the unsigned offer is not installed."""
        for step in ("newest", "fetch", "verify"):
            with self.subTest(step=step):
                self.click(step)
                root = self.folder / "root.json"
                root.write_text("{}")
                while not self.bench.status.stage.at_rest:
                    self.succeed()
                self.assertNotIn("unpack", self.bench.steps.names)
                self.assert_failed(
                    "The box has got a trusted root since its last check, and the offered "
                    "release is not signed. Check again."
                )
                root.unlink()

    def test_up_to_date_anyway(self) -> None:
        """If the box is up to date, an unsigned offer is no error."""
        self.bench = Bench(self.folder, allow_unsigned=False).start()
        self.find(OLD)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)


class ForgetfulTests(UpdaterCase):
    """A box that forgets everything at each restart does not install for ever."""

    def start(self, looked: float = 0.0, **settings: Any) -> None:
        """Start a box that was installed long ago."""
        self.bench = Bench(self.folder, install="automatic", **settings)
        os.utime(self.bench.version_file, (OLD, OLD))
        self.bench.clock.advance(10 * DAY)
        self.bench.journal.write(looked=looked)
        self.bench.restart()

    def test_no_record(self) -> None:
        """Without a record of the last day the box waits for some hours."""
        self.start()
        self.check(NEW)
        self.assertFalse(self.bench.updater.is_due)
        self.assertEqual(
            self.bench.status.message,
            f"Release {NEW} is available. The box has no record of the last day, and installs it "
            "by itself when it has run for some hours.",
        )
        self.bench.clock.advance(3 * 3600 - 1)
        self.assertFalse(self.bench.updater.is_due)
        self.bench.clock.advance(1)
        self.assertTrue(self.bench.updater.is_due)
        self.check(NEW)
        self.assertEqual(self.bench.status.message, f"Release {NEW} is available.")

    def test_check_every(self) -> None:
        """It waits for three check intervals, and for three hours at most."""
        for every, wait in ((600, 1800), (7 * DAY, 3 * 3600)):
            with self.subTest(every=every):
                self.start(check_every=every)
                self.check(NEW)
                self.bench.clock.advance(wait - 1)
                self.assertFalse(self.bench.updater.is_due)
                self.bench.clock.advance(1)
                self.assertTrue(self.bench.updater.is_due)

    def test_record(self) -> None:
        """A recorded check of the last day is enough."""
        self.start(looked=NEW + 9.5 * DAY)
        self.check(NEW)
        self.assertTrue(self.bench.updater.is_due)

    def test_recorded(self) -> None:
        """A successful check is recorded, but not each time."""
        self.start()
        for hours, expected in ((0, 0), (5, 0), (1, 6), (5, 6)):
            self.bench.clock.advance(hours * 3600)
            self.check(NEW)
            self.assertEqual(self.on_disk().looked, NEW + 10 * DAY + expected * 3600)
        checked = self.bench.updater.check()
        self.bench.clock.advance(DAY)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.failureResultOf(checked, ServerFailed)
        self.assertEqual(self.on_disk().looked, NEW + 10 * DAY + 6 * 3600)

    def test_installed_lately(self) -> None:
        """A box that was installed within the last day does not wait."""
        self.start()
        os.utime(self.bench.version_file, (NEW + 9.5 * DAY,) * 2)
        self.bench.restart()
        self.check(NEW)
        self.assertTrue(self.bench.updater.is_due)

    def test_click(self) -> None:
        """A click does not wait for these hours."""
        self.start()
        self.assert_works_again()
