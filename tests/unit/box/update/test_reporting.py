"""Every failure is reported in a sentence, even if the disk fails."""

import errno
import os

from opq_twisted.box.state.records import Stage
from opq_twisted.common.errors import InstallFailed
from tests.helpers.box_fakes import logged
from tests.helpers.updater_case import UpdaterCase


class ReportTests(UpdaterCase):
    """The reports of failures."""

    def test_disk(self) -> None:
        """The errors of a disk are reported in a sentence."""
        for number, reason in (
            (errno.ENOSPC, "The box's disk is full. Make room, and try again."),
            (errno.EROFS, "The box's disk fails: Read-only file system."),
            (errno.EMFILE, "The box has too much to do: Too many open files. Try again later."),
        ):
            with self.subTest(number=number):
                error = OSError(number, os.strerror(number))
                self.failureResultOf(self.check(error), OSError)
                self.assertEqual(self.bench.status.message, reason)
                self.click("verify")
                self.bench.steps.fail(error)
                self.assert_failed(reason)
                self.assert_works_again()
                self.refuse_reboot("Reboot by hand.")

    def test_unforeseen(self) -> None:
        """An unforeseen error is logged with its traceback, and the agent runs on."""
        self.click("verify")
        self.bench.steps.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_failed("The agent failed; its log says how.")
        self.assert_works_again()

    def test_journal_of_the_end(self) -> None:
        """An end that cannot be recorded is shown on the page nevertheless."""
        self.click("install")
        self.bench.journal_path.unlink()
        self.bench.journal_path.mkdir()
        said = logged(self)
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        for what in ("The blocked release", "The end of the update"):
            self.assertTrue(any(f"{what} cannot be recorded" in line for line in said), said)
        status = self.bench.status
        self.assertEqual((status.stage, status.message), (Stage.FAILED, "It ended with 1."))
        self.bench.journal_path.rmdir()
        self.assert_works_again()

    def test_journal_lost(self) -> None:
        """A damaged journal is reported, and updates go on."""
        self.bench.journal_path.write_bytes(b"garbage")
        self.bench.restart()
        status = self.bench.status
        self.assertEqual(status.stage, Stage.IDLE)
        self.assertIn("record of earlier updates was not understood", status.message)
        (attempt,) = self.on_disk().attempts
        self.assertEqual((attempt.outcome, attempt.reason), ("failed", status.message))
        self.assertEqual(status.last_attempt, attempt)
        self.bench.restart()
        self.assertEqual(self.on_disk().attempts, (attempt,))
        self.assert_works_again()
