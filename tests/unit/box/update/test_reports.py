"""What the updater lets the box report, and that no update depends on it."""

from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import InstallFailed, ServerFailed
from tests.helpers.box_fakes import NEW, OLD, Begun
from tests.helpers.updater_case import HealthyCase, UpdaterCase


class TriggerTests(UpdaterCase):
    """When the box is told to report."""

    def test_check(self) -> None:
        """After each check there may be something new, also after one that failed."""
        self.successResultOf(self.check(OLD))
        self.failureResultOf(self.check(ServerFailed("Nobody is there.")), ServerFailed)
        self.assertEqual(self.bench.reports.told, ["check", "check"])

    def test_failure(self) -> None:
        """The end of an attempt is reported when the journal has it."""
        self.click("fetch")
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.assertEqual(self.bench.reports.told, ["check", "end"])

    def test_order(self) -> None:
        """A release is reported right before its script runs."""
        self.click("reboot")
        self.assertEqual(self.bench.reports.told, ["check", "install"])

    def test_journal_lost(self) -> None:
        """So is the loss of the journal."""
        self.bench.journal_path.write_bytes(b"garbage")
        self.bench.restart()
        self.assertEqual(self.bench.reports.told, ["end"])


class OutcomeTests(HealthyCase):
    """The ends of updates after the reboot."""

    def test_updated(self) -> None:
        """The success is reported when the release has been confirmed."""
        self.boot_new()
        self.assertNotIn("end", self.bench.reports.told)
        self.bench.steps.succeed()
        self.assert_at_rest(NEW)
        self.assertEqual(self.bench.reports.told[-1], "end")

    def test_returned(self) -> None:
        """A rollback is reported at its end; the last good release itself is not."""
        self.boot_new()
        self.bench.steps.fail(InstallFailed("It is not healthy."))
        self.install_last_good()
        self.assertEqual(self.bench.reports.told, [])
        self.come_back("It is not healthy.", "third boot")
        self.assertEqual(self.bench.reports.told, ["end"])


class BeforeInstallTests(UpdaterCase):
    """The report before the script runs."""

    def setUp(self) -> None:
        super().setUp()
        self.bench.reports.is_awaited = True

    def test_awaited(self) -> None:
        """The script runs when the report is over; the journal says so before."""
        self.click("report")
        self.assertEqual(self.bench.steps.begun[-1], Begun("report", "installing"))
        self.assertEqual(self.bench.status.stage, Stage.INSTALLING)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.steps.names[-1], "install")

    def test_measurement(self) -> None:
        """A measurement that begins meanwhile is not disturbed."""
        self.click("report")
        self.bench.config.inhibit_file.touch()
        self.bench.steps.succeed()
        self.assertEqual(self.bench.steps.names[-1], "report")
        self.assertIn("Waiting for a measurement to end;", self.bench.status.message)
        self.bench.config.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.steps.names[-1], "install")
        self.assertEqual(self.bench.status.message, Stage.INSTALLING.message)

    def test_broken(self) -> None:
        """An error is no reason not to install."""
        for error in (ServerFailed("Nobody is there."), ZeroDivisionError(), OSError(5, "Bad")):
            with self.subTest(error=error):
                self.renew()
                self.bench.reports.is_awaited = True
                self.click("report")
                self.bench.steps.fail(error)
                self.assertEqual(self.bench.steps.names[-1], "install")
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_stopped(self) -> None:
        """An agent that stops meanwhile does not begin the script; the next one does."""
        self.click("report")
        self.bench.updater.stopService()
        self.assertEqual(self.bench.steps.names[-1], "report")
        self.bench.restart()
        self.assertEqual(self.bench.steps.names, ["wait"])
        self.bench.steps.succeed(None)
        self.proceed("reboot")
        self.assertEqual(self.bench.steps.names[-2:], ["install", "reboot"])
