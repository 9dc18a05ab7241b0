"""The box leaves a release that is not healthy, or not whole, for the last good one."""

import errno

from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import BoxAtFault, BoxUnfit, InstallFailed, NotStarted, OpqError
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.failing_disk import unopenable
from tests.helpers.updater_case import WANTS, HealthyCase


class ReturnTests(HealthyCase):
    """How the box rolls back, and what it remembers."""

    def fall_ill(self) -> None:
        self.boot_new()
        self.bench.steps.fail(InstallFailed("It is not healthy."))

    def test_not_healthy(self) -> None:
        """It installs the last good release again, and the bad one only after a click."""
        self.fall_ill()
        self.install_last_good()
        self.come_back("It is not healthy.", "third boot")
        self.assertEqual(self.refused, [NEW])
        self.find(NEW, automatic=True)
        self.assertIn(f"Release {NEW} is blocked", self.bench.status.message)
        self.assert_works_again()

    def fail_to_install(self, error: OpqError) -> None:
        """Update up to the script, and let the box roll back when that fails."""
        self.click("install")
        self.bench.steps.fail(error)
        self.install_last_good()
        self.come_back(str(error), "second boot")

    def test_script_fails(self) -> None:
        """The box rolls back after a script that failed."""
        self.fail_to_install(InstallFailed("It ended with 1."))

    def test_not_touched(self) -> None:
        """The box does not roll back if the script did not run, or has changed nothing."""
        for error in (NotStarted("It was not started."), BoxAtFault("Make room.", touched=False)):
            with self.subTest(error=error):
                self.click("install")
                self.bench.steps.fail(error)
                self.assert_failed(str(error))

    def test_interrupted_before(self) -> None:
        """After an interrupted try the box may have been changed: it rolls back."""
        self.click("install")
        self.boot("second boot")
        self.bench.steps.succeed()
        self.proceed("install")
        self.bench.steps.fail(NotStarted("It was not started."))
        self.install_last_good()
        self.assertEqual(self.refused, [])

    def test_box_at_fault(self) -> None:
        """If the box was at fault it rolls back, too; the release is not blocked."""
        self.bench.preflight.fault = BoxUnfit("The box cannot write in /opt.")
        self.click("install")
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        self.install_last_good()
        self.come_back("It ended with 1. The box cannot write in /opt.", "second boot")
        self.assertEqual(self.refused, [])
        self.find(NEW, automatic=True)
        self.assertIn("The box tries again later", self.bench.status.message)

    def test_unfit(self) -> None:
        """The rollback waits until the box can install the last good release."""
        self.fall_ill()
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        for _ in range(4):
            self.bench.steps.succeed()
            self.assertEqual(self.bench.status.message, "The box cannot write in /opt.")
            self.bench.clock.advance(60)
        self.bench.preflight.unfit = None
        self.install_last_good()

    def test_interrupted(self) -> None:
        """An interrupted rollback goes on with the reboot, or from the beginning."""
        self.fall_ill()
        self.bench.steps.succeed()
        self.boot("second boot")
        self.install_last_good()
        self.boot("second boot")
        self.bench.steps.succeed(0)
        self.assertEqual(self.bench.steps.names, ["wait", "reboot"])
        self.bench.steps.succeed()
        self.come_back("It is not healthy.", "second boot")

    def test_stopped_by_reboot(self) -> None:
        """A sandbox keeps its boot id: there an orderly stop of the agent means the reboot."""
        self.fall_ill()
        self.install_last_good()
        self.bench.updater.stopService()
        self.assertTrue(self.on_disk().reboot_under_way)
        self.come_back("It is not healthy.", "second boot")

    def test_stopped_before_reboot(self) -> None:
        """An agent that is stopped before the reboot has not rebooted the box."""
        self.fall_ill()
        self.bench.updater.stopService()
        self.assertFalse(self.on_disk().reboot_under_way)
        self.boot("second boot")
        self.install_last_good()

    def test_power_cut(self) -> None:
        """A rollback that power cuts interrupt is tried three times."""
        self.fall_ill()
        for number in range(3):
            self.bench.steps.succeed()
            self.proceed("install")
            self.boot(f"boot {number}")
        self.bench.steps.succeed()
        self.assert_failed(
            f"It is not healthy. The box could not return to release {OLD}. Reboot it: then it "
            "tries again."
        )

    def test_fails_too(self) -> None:
        """A rollback that fails is tried three times."""
        self.fall_ill()
        for pause in (20, 60, 300):
            self.bench.steps.succeed()
            self.bench.steps.succeed()
            self.bench.steps.fail(InstallFailed("It ended with 1."))
            self.bench.clock.advance(pause)
        self.bench.steps.succeed(1)
        self.assert_failed(
            f"It is not healthy. The box could not return to release {OLD}. Reboot it: then it "
            "tries again."
        )

    def test_next_boot(self) -> None:
        """After a reboot a failed rollback is tried again."""
        self.test_fails_too()
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.FAILED)
        self.boot("third boot")
        self.install_last_good()
        self.come_back("It is not healthy.", "fourth boot")

    def test_unforeseen(self) -> None:
        """An unforeseen error of the agent counts as one of the tries."""
        self.fall_ill()
        self.bench.steps.succeed()
        self.bench.steps.fail(RuntimeError("can't start new thread"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.bench.clock.advance(20)
        self.install_last_good()

    def test_hangs(self) -> None:
        """A script that takes too long counts as one of the tries, also in the next agent."""
        self.fall_ill()
        self.bench.steps.succeed()
        self.proceed("install")
        self.boot("second boot")
        self.bench.steps.fail(InstallFailed("It took too long."))
        self.assertEqual(self.bench.status.stage, Stage.ROLLING_BACK)
        self.assertEqual(self.bench.steps.names, ["wait", "forget", "open", "unpack"])
        self.assertEqual(self.on_disk().tries, 2)

    def test_no_room(self) -> None:
        """The rollback waits until the disk has room and the machine is not busy."""
        self.fall_ill()
        for error, words in 2 * WANTS:
            self.bench.steps.succeed()
            self.bench.steps.fail(error)
            self.assertIn(words, self.bench.status.message)
            self.bench.clock.advance(60)
        self.install_last_good()

    def test_disk_full(self) -> None:
        """The rollback waits for a disk that is full."""
        self.boot_new()
        self.fill_disk()
        self.bench.steps.fail(InstallFailed("It is not healthy."))
        self.assertEqual(self.bench.status.stage, Stage.CONFIRMING)
        self.bench.clock.advance(60)
        self.install_last_good()

    def begin_to_return(self, error: int, trouble: str) -> None:
        """Let the record of the last good release be unreadable for a while."""
        self.boot_new()
        with unopenable(error, ".sha256"):
            self.bench.steps.fail(InstallFailed("It is not healthy."))
        self.assertEqual(self.bench.status.stage, Stage.CONFIRMING)
        self.assertIn(trouble, self.bench.status.message)
        self.bench.clock.advance(60)
        self.install_last_good()

    def test_busy(self) -> None:
        """If the machine is too busy to find the last good release, the box tries again."""
        self.begin_to_return(errno.EMFILE, "The box has too much to do")

    def test_unreadable(self) -> None:
        """If the disk does not let it be read, the box tries again."""
        self.begin_to_return(errno.EACCES, "The box's disk fails: Permission denied.")

    def test_disk_fails(self) -> None:
        """A disk that fails once when a rollback goes on does not end it."""
        self.fall_ill()
        with unopenable(errno.EIO, ".sha256"):
            self.boot("third boot")
        self.assertIn("The box's disk fails", self.bench.status.message)
        self.bench.clock.advance(60)
        self.install_last_good()

    def test_no_reboot(self) -> None:
        """If the box does not reboot, the rollback goes on after a reboot by hand."""
        self.fall_ill()
        self.install_last_good()
        self.refuse_reboot("Reboot it by hand.")
        self.assert_failed("Reboot it by hand.")
        self.come_back("It is not healthy.", "third boot")

    def test_rebooted_by_script(self) -> None:
        """If the script reboots the box it leaves no status: then the release counts."""
        self.fall_ill()
        for number in range(3):
            self.bench.steps.succeed()
            self.proceed("install")
            self.bench.set_installed(OLD)
            self.boot(f"boot {number}")
        self.bench.steps.succeed()
        self.assert_returned("It is not healthy.")

    def test_nothing_to_return_to(self) -> None:
        """Without a last good release the update fails."""
        (self.folder / "last-good").unlink()
        self.fall_ill()
        self.assert_failed("It is not healthy.")

    def test_lost_meanwhile(self) -> None:
        """If the last good release is lost meanwhile, the rollback fails, and says so."""
        self.fall_ill()
        (self.folder / "last-good").unlink()
        self.boot("third boot")
        self.assert_failed("It is not healthy. There is no last good release to return to.")


class RescuedTests(HealthyCase):
    """The rescue script has rolled the box back."""

    def test_rescued(self) -> None:
        """A release whose agent did not start is blocked."""
        self.click("reboot")
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.boot("third boot")
        self.assert_returned(
            "Its agent did not start, or made no progress, and the rescue script installed the "
            "last good release again."
        )
        self.assertEqual(self.refused, [NEW])
        self.assertFalse((self.folder / "rescued").exists())

    def test_disk_full(self) -> None:
        """The script's note stays until the rollback is recorded."""
        self.click("reboot")
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.fill_disk()
        self.boot("third boot")
        self.assertTrue((self.folder / "rescued").exists())
        self.bench.clock.advance(60)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_left_behind(self) -> None:
        """A note from before an update says nothing about its release."""
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.boot_new()
        self.bench.steps.succeed()
        self.assert_at_rest(NEW)
        self.assertEqual(self.refused, [])

    def test_the_same_again(self) -> None:
        """If the script has installed the new release again, the update goes on."""
        self.boot_new()
        (self.folder / "rescued").write_text(f"{NEW}\n")
        self.boot("third boot")
        self.assertEqual(self.bench.steps.names, ["judge"])
