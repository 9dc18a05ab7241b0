"""What the journal keeps of each attempt for reports."""

import errno
import os

from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import (
    ArchiveRefused,
    BoxAtFault,
    ClockBehind,
    DownloadFailed,
    InstallFailed,
    InstallTimedOut,
    NoRoom,
    NotStarted,
    OlderCopy,
    RebootFailed,
    ServerFailed,
    ServiceUnhealthy,
    Stale,
    Untrusted,
    VerifyFailed,
    WrongContent,
)
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.updater_case import HealthyCase, UpdaterCase
from tests.unit.box.update.test_probation import TrialCase


class IdentifierTests(UpdaterCase):
    """Each attempt has an identifier of its own, from its beginning to its end."""

    @property
    def last(self) -> Attempt:
        """The last attempt in the journal on the disk."""
        return self.on_disk().attempts[-1]

    def test_click(self) -> None:
        """An attempt keeps its identifier over a reboot, and the next one has another."""
        self.click("install")
        uuid = self.on_disk().uuid
        self.assertRegex(uuid, "^[0-9a-f]{32}$")
        self.proceed("reboot")
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        self.assertEqual((self.last.uuid, self.last.outcome), (uuid, "updated"))
        self.assertEqual((self.last.stage, self.last.tries), ("confirming", 1))
        self.assertEqual((self.last.previous, self.last.code), (OLD, ""))
        self.assertEqual((self.last.automatic, self.last.reported), (False, False))
        self.click()
        self.assertNotIn(self.on_disk().uuid, ("", uuid))
        self.assertEqual(self.on_disk().previous, NEW)

    def test_by_itself(self) -> None:
        """An attempt without a click says so."""
        self.bench.updater.begin(automatic=True)
        self.proceed("fetch")
        self.bench.steps.fail(NoRoom("Make room."))
        self.assertTrue(self.last.automatic)
        self.assertEqual((self.last.stage, self.last.code), ("downloading", "no-room"))

    def test_interrupted(self) -> None:
        """An attempt that is begun again after an interruption is the same one."""
        self.click("fetch")
        uuid = self.on_disk().uuid
        for tries in (2, 3):
            self.bench.restart()
            self.assertEqual((self.on_disk().uuid, self.on_disk().tries), (uuid, tries))
        self.bench.restart()
        self.assertEqual((self.last.uuid, self.last.code), (uuid, "interrupted"))

    def test_older_agent(self) -> None:
        """An attempt that an older agent has begun never gets an identifier."""
        self.click("reboot")
        self.change_journal(uuid="")
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        self.assertEqual((self.last.uuid, self.last.outcome), ("", "updated"))

    def test_rebooted_by_hand(self) -> None:
        """What goes on after a reboot by hand is another attempt, and counts no bytes again."""
        self.click("reboot")
        self.bench.journal.write(fetched=4)
        self.refuse_reboot("Reboot it by hand.")
        first = self.last
        self.assertEqual((first.outcome, first.code, first.fetched), ("failed", "reboot", 4))
        self.bench.journal.acknowledge([first.uuid], 1)
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        attempts = self.on_disk().attempts
        self.assertEqual([each.outcome for each in attempts], ["failed", "updated"])
        self.assertEqual([each.reported for each in attempts], [True, False])
        self.assertEqual([each.fetched for each in attempts], [4, None])
        self.assertEqual([each.id for each in attempts], [1, 1])
        self.assertNotIn(self.last.uuid, ("", first.uuid))

    def test_journal_lost(self) -> None:
        """The loss of the journal is an attempt of its own."""
        self.bench.journal_path.write_bytes(b"garbage")
        self.bench.restart()
        self.assertRegex(self.last.uuid, "^[0-9a-f]{32}$")
        self.assertEqual((self.last.version, self.last.code), (None, "disk"))


class CodeTests(UpdaterCase):
    """The code of a failed attempt is that of its error."""

    def test_each_step(self) -> None:
        """The journal has the stage that was reached, and the code."""
        busy, full, bad = (
            OSError(number, os.strerror(number))
            for number in (errno.ENOMEM, errno.EDQUOT, errno.EIO)
        )
        for step, error, stage, code in (
            ("newest", ServerFailed("Nobody is there."), "checking", "server"),
            ("newest", OlderCopy("It lags behind."), "checking", "server"),
            ("newest", Stale("It has expired."), "checking", "stale"),
            ("newest", Untrusted("It is another."), "checking", "untrusted"),
            ("newest", ClockBehind("Wait."), "checking", "clock"),
            ("fetch", DownloadFailed("It broke."), "downloading", "download"),
            ("fetch", NoRoom("Make room."), "downloading", "no-room"),
            ("fetch", busy, "downloading", "busy"),
            ("verify", WrongContent("It is another."), "verifying", "content"),
            ("verify", full, "verifying", "no-room"),
            ("verify", bad, "verifying", "disk"),
            ("unpack", ArchiveRefused("It has a link."), "unpacking", "archive"),
            ("install", InstallFailed("It ended with 1."), "installing", "install-status"),
            ("install", InstallTimedOut("It took too long."), "installing", "install-timeout"),
            ("install", NotStarted("It did not run."), "installing", "busy"),
            ("install", BoxAtFault("Wait.", touched=True, code="busy"), "installing", "busy"),
            ("reboot", RebootFailed("Reboot by hand."), "rebooting", "reboot"),
        ):
            with self.subTest(step=step, error=error):
                self.renew()
                self.click(step)
                self.fail_with(error)
                attempt = self.on_disk().attempts[-1]
                self.assertEqual((attempt.outcome, attempt.stage), ("failed", stage))
                self.assertEqual(attempt.code, code)

    def test_unforeseen(self) -> None:
        """The code of an unforeseen error blames the agent."""
        self.click("verify")
        self.bench.steps.fail(ZeroDivisionError())
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(self.on_disk().attempts[-1].code, "agent-error")

    def test_interrupted_installation(self) -> None:
        """An installation that is interrupted again and again ends with a code of its own."""
        self.click("install")
        for number in range(3):
            self.bench.restart(f"boot {number}")
            self.bench.steps.succeed()
            if self.bench.status.stage is Stage.INSTALLING:
                self.proceed("install")
        self.assertEqual(self.on_disk().attempts[-1].code, "interrupted")


class RollbackCodeTests(HealthyCase):
    """The code of a rollback is that of the error that caused it."""

    def assert_code(self, code: str) -> None:
        """The attempt has ended with this code, and with the identifier of its beginning."""
        (attempt,) = self.on_disk().attempts
        self.assertEqual((attempt.outcome, attempt.code), ("returned", code))
        self.assertEqual((attempt.uuid, attempt.previous), (self.on_disk().uuid, OLD))

    def come_back_with(self, code: str) -> None:
        """Install the last good release, and reboot."""
        self.install_last_good()
        self.boot("last boot")
        self.bench.steps.succeed(0)
        self.assert_code(code)

    def test_unhealthy(self) -> None:
        """The code comes over the reboot."""
        for error, code in (
            (ServiceUnhealthy("A service is inactive."), "unhealthy-service"),
            (VerifyFailed("It hurts."), "unhealthy-verify"),
        ):
            with self.subTest(code=code):
                self.renew()
                self.bench.set_installed(OLD)
                self.boot_new()
                self.bench.steps.fail(error)
                self.assertEqual(self.on_disk().code, code)
                self.come_back_with(code)

    def test_script(self) -> None:
        """A script that fails, or takes too long, has its code."""
        self.click("install")
        self.bench.steps.fail(InstallTimedOut("It took too long."))
        self.come_back_with("install-timeout")

    def test_by_the_next_agent(self) -> None:
        """The next agent learns of the script's exit status."""
        self.click("install")
        self.boot("first boot")
        self.bench.steps.succeed(1)
        self.come_back_with("install-status")

    def test_not_installed(self) -> None:
        """So has a release that does not run after the reboot."""
        self.click("reboot")
        self.boot("second boot")
        self.come_back_with("not-installed")

    def test_falls_over(self) -> None:
        """So has one with which the box restarts again and again."""
        self.boot_new()
        for number in range(3, 6):
            self.boot(f"boot {number}")
        self.come_back_with("fell-over")

    def test_agent_again(self) -> None:
        """So has one whose agent dies again and again."""
        self.boot_new()
        self.bench.clock.advance(10_000)
        self.boot("second boot")
        self.come_back_with("agent-again")

    def test_box_at_fault(self) -> None:
        """A rollback for which the release is not to blame has the code of the box."""
        self.click("install")
        self.bench.steps.fail(BoxAtFault("Make room.", touched=True, code="no-room"))
        self.come_back_with("no-room")

    def test_fails(self) -> None:
        """A box that cannot go back says so; after a reboot by hand it has the first code again."""
        self.boot_new()
        self.bench.steps.fail(VerifyFailed("It hurts."))
        while self.bench.status.stage is Stage.ROLLING_BACK:
            if self.bench.steps.is_waiting:
                self.bench.steps.succeed()
            self.bench.clock.advance(300)
        first = self.on_disk().attempts[-1]
        self.assertEqual((first.outcome, first.code), ("failed", "return-failed"))
        self.assertEqual(first.stage, "returning")
        self.boot("third boot")
        self.install_last_good()
        self.boot("last boot")
        self.bench.steps.succeed(0)
        last = self.on_disk().attempts[-1]
        self.assertEqual((last.outcome, last.code), ("returned", "unhealthy-verify"))
        self.assertNotIn(last.uuid, ("", first.uuid))

    def test_nothing_to_return_to(self) -> None:
        """A last good release that is lost meanwhile has its own code."""
        self.boot_new()
        self.bench.steps.fail(VerifyFailed("It hurts."))
        (self.folder / "last-good").unlink()
        self.boot("third boot")
        self.assertEqual(self.on_disk().attempts[-1].code, "no-way-back")

    def test_rescued(self) -> None:
        """A rescue has a code of its own."""
        self.click("reboot")
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.boot("third boot")
        self.assert_code("rescued")


class TrialCodeTests(TrialCase):
    """The rollback of a release that was confirmed is another attempt."""

    def assert_two(self, code: str) -> None:
        """The update has succeeded, and a second attempt has left its release."""
        first, second = self.on_disk().attempts
        self.assertEqual((first.outcome, first.code, first.automatic), ("updated", "", False))
        self.assertEqual((second.outcome, second.code, second.automatic), ("returned", code, True))
        self.assertEqual((second.version, second.previous), (NEW, OLD))
        self.assertRegex(second.uuid, "^[0-9a-f]{32}$")
        self.assertNotEqual(first.uuid, second.uuid)

    def test_no_success(self) -> None:
        """An agent that does not reach the server for days counts as one that fails."""
        self.confirm()
        self.go_back()
        self.assert_two("agent-again")

    def test_rescued(self) -> None:
        """The rescue script may end the trial, too."""
        self.confirm()
        self.bench.set_installed(OLD)
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.boot("third boot")
        self.assert_two("rescued")
