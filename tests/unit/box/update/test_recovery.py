"""An agent that starts goes on with the update of an earlier one."""

import errno

from opq_twisted.archive.release import Release
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.versions import Installed
from opq_twisted.box.update.recovery import MAX_TRIES
from opq_twisted.common.errors import (
    BoxUnfit,
    DownloadFailed,
    InstallFailed,
    NoRoom,
    ServerFailed,
    UpdateInProgress,
)
from opq_twisted.trust.offer import Offer, Rollout
from tests.helpers.box_fakes import NEW, NEWER, OLD, Begun, logged
from tests.helpers.updater_case import GOOD, STEPS, HealthyCase, UpdaterCase


class ResumeTests(UpdaterCase):
    """The agent starts, and finds that an earlier one was interrupted."""

    def test_before_installing(self) -> None:
        """Before the installation the update begins again, at most three times in all."""
        for step in ("newest", "fetch", "verify", "unpack"):
            with self.subTest(step=step):
                self.renew()
                self.click(step)
                for boot in range(1, MAX_TRIES):
                    self.bench.restart(f"boot {boot}")
                    self.assertEqual(self.bench.steps.begun, STEPS[:1])
                    self.proceed(step)
                self.bench.restart("last boot")
                self.assertEqual(self.bench.steps.begun, [])
                self.assert_failed("The update was interrupted 3 times. Click to try again.")
                self.assertEqual(self.refused, [])
                self.assert_works_again()

    def test_nobody_clicked(self) -> None:
        """An interrupted update that began without a click obeys the policy when it goes on."""
        for automatic, steps in ((True, ["newest"]), (False, ["newest", "fetch"])):
            with self.subTest(automatic=automatic):
                self.bench.updater.begin(automatic=automatic)
                self.proceed("fetch")
                self.bench.restart()
                self.bench.steps.succeed(Offer(NEWER, rollout=Rollout(0, "x1")))
                self.bench.clock.advance(0)
                self.assertEqual(self.bench.steps.names, steps)

    def test_all_the_way(self) -> None:
        """An interrupted update goes all the way."""
        self.click("unpack")
        self.bench.restart("second boot")
        self.proceed("reboot")
        self.assertEqual(self.bench.steps.begun, STEPS)
        # The installation has its own three tries.
        self.assertEqual(self.on_disk().tries, 1)

    def test_resumed_check(self) -> None:
        """An interrupted update ends if the release is not offered any more."""
        self.click("fetch")
        self.bench.restart()
        self.bench.steps.succeed(OLD)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().stage, Stage.IDLE)

    def test_busy_while_resuming(self) -> None:
        """While an interrupted update goes on, no other one may begin."""
        self.click("install")
        self.bench.restart()
        with self.assertRaises(UpdateInProgress):
            self.bench.updater.begin()

    def interrupt_install(self, boot_id: str, put_in_place: bool = False) -> None:
        self.click("install")
        if put_in_place:
            self.bench.set_installed(NEW)
        self.bench.restart(boot_id)
        self.assertEqual(self.bench.steps.begun, [Begun("wait", "installing")])

    def test_script_succeeded(self) -> None:
        """If the script succeeded while no agent ran, the box reboots."""
        for put_in_place in (False, True):
            with self.subTest(put_in_place=put_in_place):
                self.renew()
                self.interrupt_install("first boot", put_in_place)
                self.bench.steps.succeed(0)
                self.assertEqual(self.bench.steps.begun[1:], [Begun("reboot", "rebooting")])

    def test_script_failed(self) -> None:
        """If it failed while no agent ran, the update fails, and the release is blocked."""
        for boot_id in ("first boot", "second boot"):
            with self.subTest(boot_id=boot_id):
                self.renew()
                self.interrupt_install(boot_id)
                self.bench.steps.succeed(7)
                log = self.folder / "box_update.log"
                self.assert_failed(f"install_update.sh ended with exit status 7. See {log}.")
                self.assertEqual(self.refused, [NEW])

    def test_script_hung(self) -> None:
        """A script that does not end in time is to blame, too."""
        self.interrupt_install("first boot")
        self.bench.steps.fail(InstallFailed("It took too long."))
        self.assert_failed("It took too long.")
        self.assertEqual(self.refused, [NEW])

    def test_rebooted_by_script(self) -> None:
        """If the script installed the release and rebooted the box, the update goes on."""
        for status in (0, None):
            with self.subTest(status=status):
                self.renew()
                self.interrupt_install("second boot", put_in_place=True)
                self.bench.steps.succeed(status)
                self.assertEqual(self.bench.status.stage, Stage.IDLE)
                self.assertEqual(self.bench.status.installed, NEW)

    def test_rebooted_in_vain(self) -> None:
        """If the box rebooted without the new release, the update has failed."""
        self.interrupt_install("second boot")
        self.bench.steps.succeed(0)
        self.assertEqual(self.bench.steps.names, ["wait"])
        self.assertIn(f"After the reboot the box runs {OLD}, not {NEW}.", self.bench.status.message)
        self.assert_failed(self.bench.status.message)

    def test_power_cut(self) -> None:
        """A script that a power cut interrupted runs again, at most three times in all."""
        self.interrupt_install("boot 2")
        for boot in (3, 4):
            self.bench.steps.succeed(None)
            self.assertEqual(
                self.bench.steps.begun[1:],
                [Begun("open", "installing"), Begun("unpack", "installing")],
            )
            self.proceed("install")
            self.bench.restart(f"boot {boot}")
        self.bench.steps.succeed(None)
        self.assertEqual(self.bench.steps.names, ["wait"])
        self.assert_failed(f"Release {NEW} was interrupted 3 times. Click to try again.")
        self.assertEqual(self.refused, [NEW])
        self.assert_works_again()

    def test_says_what_it_does(self) -> None:
        """The page shows the current step, not the end of the attempt before."""
        self.click("fetch")
        self.bench.steps.fail(DownloadFailed("The connection broke."))
        self.interrupt_install("second boot")
        self.assertIn("Installing the new release", self.bench.status.message)

    def test_no_room_for_another_try(self) -> None:
        """The box waits for room; the release is not to blame."""
        self.interrupt_install("second boot")
        for _ in range(5):
            self.bench.steps.succeed(None)
            self.assertEqual(self.bench.steps.names[-1], "unpack")
            self.bench.steps.fail(NoRoom("It needs 5 MB."))
            self.assertEqual(self.bench.status.message, "It needs 5 MB.")
            self.bench.clock.advance(60)
        self.bench.steps.succeed(None)
        self.proceed("reboot")
        self.assertEqual(self.refused, [])

    def test_archive_lost(self) -> None:
        """A damaged archive is not installed; a click downloads it again."""
        self.interrupt_install("second boot")
        self.bench.archives.lost = True
        self.bench.steps.succeed(None)
        self.assertEqual(self.bench.steps.names, ["wait", "open"])
        self.assert_failed("It is lost.")
        self.assertEqual(self.refused, [])
        self.assert_works_again()

    def test_power_cut_while_unpacking_again(self) -> None:
        """An interruption while the archive is unpacked counts as a try."""
        self.interrupt_install("boot 2")
        for boot in (3, 4):
            self.bench.steps.succeed(None)
            self.assertEqual(self.bench.steps.names, ["wait", "open", "unpack"])
            self.bench.restart(f"boot {boot}")
        self.bench.steps.succeed(None)
        self.assert_failed(f"Release {NEW} was interrupted 3 times. Click to try again.")

    def test_agent_killed(self) -> None:
        """In the same boot, a script without an exit status runs again."""
        self.interrupt_install("first boot", put_in_place=True)
        self.bench.steps.succeed(None)
        self.proceed("install")
        self.assertEqual(self.bench.steps.names, ["wait", "open", "unpack", "forget", "install"])

    def reboot(self, version: int | None) -> None:
        """Let an update reboot the box, which comes back with a release."""
        self.click("reboot")
        self.bench.set_installed(version)
        self.bench.restart("second boot")

    def test_same_boot(self) -> None:
        """An agent that was killed before the reboot asks for it, three times in all."""
        self.click("reboot")
        for _ in range(1, MAX_TRIES):
            self.change_journal(reboot_under_way=False)
            self.bench.set_installed(NEW)
            self.bench.restart()
            self.assertEqual(self.bench.steps.begun, [Begun("reboot", "rebooting")])
        self.change_journal(reboot_under_way=False)
        self.bench.restart()
        self.assertEqual(self.bench.steps.begun, [])
        self.assert_failed("The box was asked 3 times, and did not reboot. Do it by hand.")

    def test_stopped_by_reboot(self) -> None:
        """A sandbox keeps its boot id: there an orderly stop of the agent means the reboot."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.bench.updater.stopService()
        self.assertTrue(self.on_disk().reboot_under_way)
        self.bench.restart()
        self.assertEqual((self.bench.status.stage, self.bench.steps.names), (Stage.IDLE, ["open"]))

    def test_reboot_accepted(self) -> None:
        """The success of the reboot command is recorded, too."""
        self.click("reboot")
        self.assertFalse(self.on_disk().reboot_under_way)
        self.bench.steps.succeed()
        self.assertTrue(self.on_disk().reboot_under_way)

    def test_waits_for_reboot(self) -> None:
        """A release that only lacks its reboot is not installed again without a click."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.refuse_reboot("It cannot.")
        self.find(NEW, automatic=True)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(
            self.bench.status.message, f"Release {NEW} is installed, and waits for a reboot."
        )

    def test_network_comes_last(self) -> None:
        """After a power cut an update waits for the network."""
        self.click("fetch")
        self.bench.restart("second boot")
        for pause in (10, 20):
            self.bench.steps.fail(ServerFailed("Cannot reach it."))
            self.bench.clock.advance(pause - 1)
            begun = len(self.bench.steps.begun)
            self.bench.clock.advance(1)
            self.assertEqual(self.bench.steps.names[begun:], ["newest"])
        self.proceed("reboot")

    def test_network_never_comes(self) -> None:
        """If the network does not come the update fails, and a click works again."""
        self.click("fetch")
        self.bench.restart("second boot")
        for pause in (10, 20, 60, 300, 600):
            self.bench.steps.fail(ServerFailed("Cannot reach it."))
            self.bench.clock.advance(pause)
        self.bench.steps.fail(ServerFailed("Cannot reach it."))
        self.assert_failed("Cannot reach it.")
        self.assert_works_again()

    def test_confirmed(self) -> None:
        """An update has succeeded once the box has booted with the new release."""
        self.reboot(NEW)
        status = self.bench.status
        self.assertEqual((status.stage, status.installed), (Stage.IDLE, NEW))
        self.assertEqual(status.message, f"The box runs release {NEW}.")
        entry = self.on_disk()
        self.assertEqual((entry.stage, entry.release, entry.tries), (Stage.IDLE, None, 0))
        attempt = entry.attempts[-1]
        self.assertEqual((attempt.version, attempt.outcome), (NEW, "updated"))
        self.assertEqual(status.last_attempt, attempt)
        self.assertEqual(self.bench.steps.names, ["open"])

    def test_not_the_release(self) -> None:
        """If another release runs after the reboot, the update fails, and does not repeat."""
        for version, runs in ((OLD, OLD), (NEWER, NEWER), (None, "an unknown release")):
            with self.subTest(version=version):
                self.reboot(version)
                log = self.folder / "box_update.log"
                self.assert_failed(f"After the reboot the box runs {runs}, not {NEW}. See {log}.")
                self.assertEqual(self.refused, [NEW])
                self.bench.set_installed(OLD)
                self.bench.restart("third boot")
                self.find(NEW, automatic=True)
                self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_unreadable_version(self) -> None:
        """The release is not to blame if the version cannot be read for a while."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        failing = [OSError(errno.EIO, "Input/output error")]
        read = Installed.read

        def fail(installed: Installed) -> int | None:
            if failing:
                raise failing.pop()
            return read(installed)

        self.patch(Installed, "read", fail)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.message, "The box's disk fails: Input/output error.")
        self.bench.clock.advance(60)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.refused, [])

    def test_confirming(self) -> None:
        """An agent that was interrupted while it confirmed goes on confirming."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.change_journal(stage="confirming")
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().attempts[-1].outcome, "updated")

    def test_confirming_disk_full(self) -> None:
        """If the disk is full after the reboot, the agent says so, and confirms later."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.fill_disk()
        self.bench.restart("second boot")
        self.assertIn("disk is full", self.bench.status.message)
        self.bench.clock.advance(60)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().attempts[-1].outcome, "updated")

    def test_failed(self) -> None:
        """An agent that starts after a failure only shows it."""
        self.click("install")
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        self.bench.restart()
        status = self.bench.status
        self.assertEqual(status.stage, Stage.FAILED)
        assert status.last_attempt is not None
        self.assertEqual(status.last_attempt.reason, "It ended with 1.")
        self.assertEqual(self.bench.steps.begun, [])

    def test_unreadable_journal(self) -> None:
        """An agent whose journal is damaged starts at rest."""
        self.click("install")
        self.bench.journal_path.write_bytes(bytes(100))
        said = logged(self)
        self.bench.restart()
        self.assertIn("set aside", said[0])
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_works_again()


class ByHandTests(UpdaterCase):
    """Somebody reboots, or repairs, a box that could not reboot by itself."""

    def test_rebooted_by_hand(self) -> None:
        """The update goes on after somebody has rebooted the box."""
        self.click("reboot")
        self.refuse_reboot("Reboot it by hand.")
        self.bench.restart()
        self.assertEqual(self.bench.status.stage, Stage.FAILED)
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.bench.status.message, f"The box runs release {NEW}.")
        outcomes = [(attempt.id, attempt.outcome) for attempt in self.on_disk().attempts]
        self.assertEqual(outcomes, [(1, "failed"), (1, "updated")])

    def test_clicked_instead(self) -> None:
        """The first update still goes on if a second one has not downloaded anything."""
        for fails in (True, False):
            with self.subTest(fails=fails):
                self.renew()
                self.click("reboot")
                self.refuse_reboot("Reboot it by hand.")
                self.click("newest")
                if fails:
                    self.bench.steps.fail(ServerFailed("Nobody is there."))
                self.bench.set_installed(NEW)
                self.bench.restart("second boot")
                self.assertEqual(self.bench.status.message, f"The box runs release {NEW}.")
                self.assertIsNone(self.on_disk().after_reboot)
                self.bench.set_installed(OLD)

    def test_mended_by_hand(self) -> None:
        """A release that somebody installed by hand before the reboot stays."""
        self.click("reboot")
        self.refuse_reboot("Reboot it by hand.")
        self.bench.set_installed(NEWER)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.steps.begun, [])
        self.assertEqual((self.on_disk().stage, self.bench.status.message), (Stage.IDLE, ""))

    def test_fetched_instead(self) -> None:
        """If a second update has downloaded something, the first one does not go on."""
        self.click("reboot")
        self.refuse_reboot("Reboot it by hand.")
        self.click("fetch")
        self.bench.steps.fail(NoRoom("Make room."))
        self.bench.restart("second boot")
        self.assert_failed("Make room.")
        self.assertEqual([attempt.id for attempt in self.on_disk().attempts], [1, 2])


class ConfirmTests(HealthyCase):
    """When a release becomes the last good one."""

    def test_healthy(self) -> None:
        """A release becomes the last good one once it is healthy."""
        self.boot_new()
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertEqual(self.bench.status.stage, Stage.CONFIRMING)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, Release(NEW, None, {"sha256": "ab" * 32}))
        self.assertEqual(self.bench.archives.kept, ({NEW}, None))

    def test_agent_restarted(self) -> None:
        """An agent that is started again has the rest of the time only."""
        self.boot_new()
        deadline = self.bench.health.deadline
        self.assertEqual(deadline, self.bench.clock.seconds() + 600)
        self.bench.clock.advance(100)
        self.boot("second boot")
        self.assertEqual(self.bench.health.deadline, deadline)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_falls_over(self) -> None:
        """A release with which the box reboots while it confirms has three tries."""
        self.boot_new()
        for boot_id in ("third boot", "fourth boot"):
            self.bench.clock.advance(100)
            self.boot(boot_id)
            self.assertEqual(self.bench.health.deadline, self.bench.clock.seconds() + 600)
        self.boot("fifth boot")
        self.install_last_good()
        self.come_back(f"The box restarted 3 times while it confirmed release {NEW}.", "sixth boot")

    def test_busy_machine(self) -> None:
        """If the machine is too busy to judge the release, it gets its time again."""
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
        self.assertEqual(self.refused, [])

    def keep_in_vain(self, reason: str) -> None:
        """Let the new release be healthy; it is installed, but not the last good one."""
        said = logged(self)
        self.bench.steps.succeed()
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertIn(f"cannot be made the last good one: {reason}", said[0])

    def test_disk_full(self) -> None:
        """A release that cannot become the last good one is installed nevertheless."""
        self.boot_new()
        self.fill_disk()
        self.keep_in_vain("The box's disk is full.")

    def test_archive_lost(self) -> None:
        """A release whose archive is damaged does not become the last good one."""
        self.boot_new()
        self.bench.archives.lost = True
        self.keep_in_vain("It is lost.")

    def test_cannot_be_judged(self) -> None:
        """If the box cannot run verify_update.sh, the release gets its time again."""
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
        self.assert_at_rest(NEW)

    def test_again_and_again(self) -> None:
        """A release whose agent dies again and again is not confirmed for ever."""
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
