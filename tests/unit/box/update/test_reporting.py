"""Each end of an update is reported: its failure in a sentence, and how much has travelled."""

import errno
import json
import os

from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import BoxAtFault, InstallFailed, ServerFailed
from tests.helpers.box_fakes import NEW, logged
from tests.helpers.updater_case import HealthyCase, UpdaterCase


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


class TransferTests(HealthyCase):
    """How much of an archive has travelled, in the attempt that has ended."""

    def assert_transfer(self, size: int | None, fetched: int | None) -> None:
        """The last attempt has these numbers, in the journal and in the status."""
        last = self.on_disk().attempts[-1]
        self.assertEqual((last.size, last.fetched), (size, fetched))
        self.assertEqual(self.bench.status.last_attempt, last)

    def test_updated(self) -> None:
        """The agent that ends the update after the reboot reads them from the journal."""
        self.click("install")
        self.bench.journal.write(fetched=4)
        self.proceed("reboot")
        self.bench.set_installed(NEW)
        said = logged(self)
        self.bench.restart("second boot")
        self.assert_at_rest(NEW)
        self.assert_transfer(10, 4)
        self.assertIn("The update fetched 0.00 MB of 0.00 MB", said)
        self.assertEqual(self.bench.status.stage_took, self.on_disk().timing.last)
        self.assertNotIn("downloading", self.bench.status.stage_took)

    def test_returned(self) -> None:
        """So does the agent that goes back."""
        self.click("install")
        self.bench.journal.write(fetched=10)
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        self.install_last_good()
        self.come_back("It ended with 1.", "second boot")
        self.assert_transfer(10, 10)

    def test_failed(self) -> None:
        """An update that fails after the download has fetched the archive, too."""
        self.click("install")
        self.bench.journal.write(fetched=4)
        self.bench.steps.fail(BoxAtFault("Make room.", touched=False))
        self.assert_failed("Make room.")
        self.assert_transfer(10, 4)

    def test_not_fetched(self) -> None:
        """An attempt whose check fails has no archive, whatever the one before has fetched."""
        self.test_failed()
        self.click()
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assert_failed("Nobody is there.")
        self.assert_transfer(None, None)

    def test_unknown(self) -> None:
        """An agent that finds the update of an older one does not know how much has travelled."""
        self.click("reboot")
        content = json.loads(self.bench.journal_path.read_text())
        content.pop("fetched")
        self.bench.journal_path.write_text(json.dumps(content))
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        self.assert_at_rest(NEW)
        self.assert_transfer(None, None)
