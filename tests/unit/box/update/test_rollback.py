"""A release that runs but is not healthy, or not whole, is left for the last good one."""

import errno

from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.state.records import Release, Stage
from opq_twisted.common.errors import (
    BoxAtFault,
    BoxUnfit,
    InstallFailed,
    NoRoom,
    NotStarted,
    OpqError,
)
from tests.helpers.box_fakes import NEW, OLD, logged
from tests.helpers.failing_disk import unopenable
from tests.unit.box.update.test_updater import UpdaterCase

#: What a box lacks for a while, and what it says then.
WANTS = [
    (NoRoom("It needs 5 MB."), "It needs 5 MB."),
    (OSError(errno.ENOSPC, "No space left on device"), "The box's disk is full."),
    (OSError(errno.EMFILE, "Too many open files"), "The box has too much to do"),
]
GOOD = Release(OLD, None, {"sha256": "cd" * 32})


class HealthyCase(UpdaterCase):
    """A box with a last good release, whose new one has to prove itself."""

    def setUp(self) -> None:
        super().setUp()
        self.archives = ArchiveStore(self.folder)
        self.archives.keep_as_last_good(GOOD)

    def boot(self, boot_id: str) -> None:
        """Start the box once more; the test judges how healthy it is."""
        self.bench.make_agent(boot_id)
        self.bench.health.asks = True
        self.bench.start()

    def boot_new(self) -> None:
        """Update, up to the question whether the new release is healthy."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.boot("second boot")
        self.assertEqual(self.bench.steps.names, ["judge"])

    def install_last_good(self) -> None:
        """Let the last good release be installed again, up to the reboot."""
        self.assertEqual(self.bench.status.stage, Stage.RETURNING)
        for step in ("wait", "unpack", "install"):
            self.assertEqual(self.bench.steps.names[-1], step)
            self.bench.steps.succeed()
        self.bench.set_installed(OLD)
        self.assertEqual(self.bench.steps.names[-1], "wait")
        self.bench.steps.succeed(0)
        self.assertEqual(self.bench.steps.names[-1], "reboot")

    def assert_returned(self, cause: str) -> None:
        """The box is at rest on the last good release, and says why."""
        status = self.bench.status
        self.assertEqual((status.stage, status.installed), (Stage.IDLE, OLD))
        self.assertEqual(
            status.message, f"Release {NEW} failed, and the box runs {OLD} again. {cause}"
        )
        attempt = self.on_disk().attempts[-1]
        self.assertEqual((attempt.version, attempt.outcome), (NEW, "returned"))
        self.assertEqual(attempt.reason, status.message)


class ConfirmTests(HealthyCase):
    """When a release becomes the last good one."""

    def test_healthy(self) -> None:
        """Once it is healthy, and not before."""
        self.boot_new()
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertEqual(self.bench.status.stage, Stage.CONFIRMING)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, Release(NEW, None, {"sha256": "ab" * 32}))
        self.assertEqual(self.bench.archives.kept, ({NEW}, None))

    def test_agent_restarted(self) -> None:
        """An agent that is started again has the time that is left, and no more."""
        self.boot_new()
        deadline = self.bench.health.deadline
        self.assertEqual(deadline, self.bench.clock.seconds() + 600)
        self.bench.clock.advance(100)
        self.boot("second boot")
        self.assertEqual(self.bench.health.deadline, deadline)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_falls_over(self) -> None:
        """A box that falls over with it has another try, three in all."""
        self.boot_new()
        for boot_id in ("third boot", "fourth boot"):
            self.bench.clock.advance(100)
            self.boot(boot_id)
            self.assertEqual(self.bench.health.deadline, self.bench.clock.seconds() + 600)
        self.boot("fifth boot")
        self.install_last_good()
        self.boot("sixth boot")
        self.bench.steps.succeed(0)
        self.assert_returned(f"The box fell over 3 times with {NEW}.")

    def test_busy_machine(self) -> None:
        """A machine that is too busy to judge a release says nothing against it."""
        self.boot_new()
        for _ in range(20):
            self.bench.clock.advance(600)
            self.bench.steps.fail(OSError(errno.EMFILE, "Too many open files"))
            self.assertIn("The box has too much to do", self.bench.status.message)
            self.bench.clock.advance(60)
            self.assertEqual(self.bench.health.deadline, self.bench.clock.seconds() + 540)
        self.boot("second boot")
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().refused, ())

    def test_disk_full(self) -> None:
        """That it cannot be made the last good one makes it no worse."""
        self.boot_new()
        self.fill_disk()
        said = logged(self)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertIn("cannot be made the last good one: The box's disk is full.", said[0])

    def test_archive_lost(self) -> None:
        """One whose archive is not on the disk as it came is none to return to."""
        self.boot_new()
        self.bench.archives.lost = True
        said = logged(self)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertIn("cannot be made the last good one: It is lost.", said[0])

    def test_cannot_be_judged(self) -> None:
        """Where its verify_update.sh cannot be run at all, the box waits until it can."""
        self.boot_new()
        self.bench.preflight.unfit = BoxUnfit("The box cannot run programs in /var/lib/opq.")
        for _ in range(9):
            self.bench.clock.advance(600)
            self.bench.steps.fail(InstallFailed("It is not healthy."))
            status = self.bench.status
            self.assertEqual(status.stage, Stage.CONFIRMING)
            self.assertEqual(status.message, "The box cannot run programs in /var/lib/opq.")
            self.bench.clock.advance(60)
            self.assertEqual(self.bench.steps.names[-1], "judge")
        self.bench.preflight.unfit = None
        self.bench.steps.succeed()
        self.assertEqual((self.bench.status.stage, self.bench.status.installed), (Stage.IDLE, NEW))


class AgainTests(HealthyCase):
    """A release whose agent does not live until it is confirmed."""

    def test_again_and_again(self) -> None:
        """It is not confirmed for ever, however slowly its agent dies."""
        self.boot_new()
        config = self.bench.config
        starts = 0
        while self.bench.status.stage is Stage.CONFIRMING:
            self.bench.clock.advance(400)
            self.boot("second boot")
            starts += 1
        self.assertLess(starts, 2 + (config.confirm_timeout + config.settle + 1800) / 400)
        self.assertIn("started again and again", self.on_disk().cause)
        self.install_last_good()


class ReturnTests(HealthyCase):
    """How the box returns, and what it remembers."""

    def fall_ill(self) -> None:
        self.boot_new()
        self.bench.steps.fail(InstallFailed("It is not healthy."))

    def test_not_healthy(self) -> None:
        """It installs the last good release again, and never the bad one by itself."""
        self.fall_ill()
        self.install_last_good()
        self.boot("third boot")
        self.bench.steps.succeed(0)
        self.assert_returned("It is not healthy.")
        self.assertEqual([item.version for item in self.on_disk().refused], [NEW])
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEW)
        self.assertIn(f"Release {NEW} is refused", self.bench.status.message)
        self.assert_works_again()

    def fail_to_install(self, error: OpqError) -> None:
        """Update up to the script, and let the box return when that fails."""
        self.click("install")
        self.bench.steps.fail(error)
        self.install_last_good()
        self.boot("second boot")
        self.bench.steps.succeed(0)
        self.assert_returned(str(error))

    def test_script_fails(self) -> None:
        """A script that failed may have left anything behind."""
        self.fail_to_install(InstallFailed("It ended with 1."))

    def test_not_touched(self) -> None:
        """A script that did not run, or left the box as it was, is no reason to return."""
        for error in (NotStarted("It was not started."), BoxAtFault("Make room.", touched=False)):
            with self.subTest(error=error):
                self.click("install")
                self.bench.steps.fail(error)
                self.assert_failed(str(error))

    def test_interrupted_before(self) -> None:
        """Where an earlier try was interrupted, the box may be anything: it returns."""
        self.click("install")
        self.boot("second boot")
        self.bench.steps.succeed()
        self.travel("install")
        self.bench.steps.fail(NotStarted("It was not started."))
        self.install_last_good()
        self.assertEqual(self.on_disk().refused, ())

    def test_box_at_fault(self) -> None:
        """What the box's fault interrupted is left behind; the release is not to blame."""
        self.bench.preflight.fault = "The box cannot write in /opt."
        self.click("install")
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        self.install_last_good()
        self.boot("second boot")
        self.bench.steps.succeed(0)
        self.assert_returned("It ended with 1. The box cannot write in /opt.")
        self.assertEqual(self.on_disk().refused, ())
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEW)
        self.assertIn("The box tries again later", self.bench.status.message)

    def test_unfit(self) -> None:
        """A box that cannot take the last good release either is waited for."""
        self.fall_ill()
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        for _ in range(4):
            self.bench.steps.succeed()
            self.assertEqual(self.bench.status.message, "The box cannot write in /opt.")
            self.bench.clock.advance(60)
        self.bench.preflight.unfit = None
        self.install_last_good()

    def test_interrupted(self) -> None:
        """Whatever interrupts it, it goes on: with the reboot, or from the beginning."""
        self.fall_ill()
        self.bench.steps.succeed()
        self.boot("second boot")
        self.install_last_good()
        self.boot("second boot")
        self.bench.steps.succeed(0)
        self.assertEqual(self.bench.steps.names, ["wait", "reboot"])
        self.bench.steps.succeed()
        self.boot("second boot")
        self.bench.steps.succeed(0)
        self.assert_returned("It is not healthy.")

    def test_stopped_by_reboot(self) -> None:
        """A sandbox keeps its boot id, and its reboot may end the agent at once: one is enough."""
        self.fall_ill()
        self.install_last_good()
        self.bench.updater.stopService()
        self.assertTrue(self.on_disk().reboot_under_way)
        self.boot("second boot")
        self.bench.steps.succeed(0)
        self.assert_returned("It is not healthy.")

    def test_stopped_before_reboot(self) -> None:
        """An agent that is stopped sooner has not rebooted the box."""
        self.fall_ill()
        self.bench.updater.stopService()
        self.assertFalse(self.on_disk().reboot_under_way)
        self.boot("second boot")
        self.install_last_good()

    def test_power_cut(self) -> None:
        """What a power cut interrupted is done again, three times at most."""
        self.fall_ill()
        for number in range(3):
            self.bench.steps.succeed()
            self.travel("install")
            self.boot(f"boot {number}")
        self.bench.steps.succeed()
        self.assert_failed(
            f"It is not healthy. The box could not return to release {OLD}. Reboot it: then it "
            "tries again."
        )

    def test_fails_too(self) -> None:
        """So is what fails."""
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
        """What could not be done in one boot may be in the next."""
        self.test_fails_too()
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.FAILED)
        self.boot("third boot")
        self.install_last_good()
        self.boot("fourth boot")
        self.bench.steps.succeed(0)
        self.assert_returned("It is not healthy.")

    def test_unforeseen(self) -> None:
        """A fault of the agent's own is a try like another, too."""
        self.fall_ill()
        self.bench.steps.succeed()
        self.bench.steps.fail(RuntimeError("can't start new thread"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.bench.clock.advance(20)
        self.install_last_good()

    def test_hangs(self) -> None:
        """So is what took too long, and was waited for by an agent that was started again."""
        self.fall_ill()
        self.bench.steps.succeed()
        self.travel("install")
        self.boot("second boot")
        self.bench.steps.fail(InstallFailed("It took too long."))
        self.assertEqual(self.bench.status.stage, Stage.RETURNING)
        self.assertEqual(self.bench.steps.names, ["wait", "forget", "open", "unpack"])
        self.assertEqual(self.on_disk().tries, 2)

    def test_no_room(self) -> None:
        """Room is waited for, as long as it takes; so is what else a busy machine lacks."""
        self.fall_ill()
        for error, words in 2 * WANTS:
            self.bench.steps.succeed()
            self.bench.steps.fail(error)
            self.assertIn(words, self.bench.status.message)
            self.bench.clock.advance(60)
        self.install_last_good()

    def test_disk_full(self) -> None:
        """So is a disk on which nothing can be written down."""
        self.boot_new()
        self.fill_disk()
        self.bench.steps.fail(InstallFailed("It is not healthy."))
        self.assertEqual(self.bench.status.stage, Stage.CONFIRMING)
        self.bench.clock.advance(60)
        self.install_last_good()

    def begin_to_return(self, error: int, trouble: str) -> None:
        """Let the box be unable to tell, for a while, whether it can return."""
        self.boot_new()
        with unopenable(error, ".sha256"):
            self.bench.steps.fail(InstallFailed("It is not healthy."))
        self.assertEqual(self.bench.status.stage, Stage.CONFIRMING)
        self.assertIn(trouble, self.bench.status.message)
        self.bench.clock.advance(60)
        self.install_last_good()

    def test_busy(self) -> None:
        """A box that has too much to do to tell whether it can return finds that out later."""
        self.begin_to_return(errno.EMFILE, "The box has too much to do")

    def test_unreadable(self) -> None:
        """So does one that may not read it."""
        self.begin_to_return(errno.EACCES, "The box's disk fails: Permission denied.")

    def test_disk_fails(self) -> None:
        """A disk that fails once, when the box goes on returning, ends nothing."""
        self.fall_ill()
        with unopenable(errno.EIO, ".sha256"):
            self.boot("third boot")
        self.assertIn("The box's disk fails", self.bench.status.message)
        self.bench.clock.advance(60)
        self.install_last_good()

    def test_no_reboot(self) -> None:
        """A box that does not reboot is to be rebooted by hand."""
        self.fall_ill()
        self.install_last_good()
        self.refuse_reboot("Reboot it by hand.")
        self.assert_failed("Reboot it by hand.")
        self.boot("third boot")
        self.bench.steps.succeed(0)
        self.assert_returned("It is not healthy.")

    def test_rebooted_by_script(self) -> None:
        """A script that reboots by itself leaves no status; the release is what counts then."""
        self.fall_ill()
        for number in range(3):
            self.bench.steps.succeed()
            self.travel("install")
            self.bench.set_installed(OLD)
            self.boot(f"boot {number}")
        self.bench.steps.succeed()
        self.assert_returned("It is not healthy.")

    def test_nothing_to_return_to(self) -> None:
        """Without a last good release it has failed."""
        (self.folder / "last-good").unlink()
        self.fall_ill()
        self.assert_failed("It is not healthy.")

    def test_lost_meanwhile(self) -> None:
        """A last good release that got lost meanwhile is told of."""
        self.fall_ill()
        (self.folder / "last-good").unlink()
        self.boot("third boot")
        self.assert_failed("It is not healthy. There is no last good release to return to.")


class RescuedTests(HealthyCase):
    """The rescue script was there before the agent."""

    def test_rescued(self) -> None:
        """A release whose agent did not start is left behind, and refused."""
        self.click("reboot")
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.boot("third boot")
        self.assert_returned(
            "Its agent did not start, or did nothing, and the box's rescue script came to help."
        )
        self.assertEqual([item.version for item in self.on_disk().refused], [NEW])
        self.assertFalse((self.folder / "rescued").exists())

    def test_disk_full(self) -> None:
        """What cannot be written down is not forgotten."""
        self.click("reboot")
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.fill_disk()
        self.boot("third boot")
        self.assertTrue((self.folder / "rescued").exists())
        self.bench.clock.advance(60)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_left_behind(self) -> None:
        """What a rescue left while no update was under way says nothing about the next one."""
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.boot_new()
        self.bench.steps.succeed()
        self.assertEqual((self.bench.status.stage, self.bench.status.installed), (Stage.IDLE, NEW))
        self.assertEqual(self.on_disk().refused, ())

    def test_the_same_again(self) -> None:
        """One that was installed again, and is the new one, goes on."""
        self.boot_new()
        (self.folder / "rescued").write_text(f"{NEW}\n")
        self.boot("third boot")
        self.assertEqual(self.bench.steps.names, ["judge"])


class HereTests(UpdaterCase):
    """What is here need not be fetched."""

    def test_verified(self) -> None:
        """An archive that an earlier attempt has verified is unpacked at once."""
        received = Release(NEW, 10, {"sha256": "ab" * 32})
        self.bench.archives.here = received
        self.click("unpack")
        self.assertEqual(self.bench.steps.names, ["newest", "unpack"])
        self.assertEqual(self.on_disk().release, received)
