"""The shipped opq-box-rescue, run as it is: the release that it brings back."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pip
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.stages import Stage
from tests.helpers.archives import file, layout, make_archive, stream, write_archive
from tests.helpers.rescued_box import (
    ASKED,
    PAUSED,
    REBOOTED,
    RESTARTED,
    SYSTEMCTL,
    RescuedBox,
    installer,
)
from tests.helpers.root_folder import AGENT, SHIPPED, Result, executable, require_shell, service


class RescueCase(SynchronousTestCase):
    """A box with two releases; the agent of the live one, 200, does not start."""

    def setUp(self) -> None:
        require_shell("dash", "The boxes' shell is dash.")
        self.box = self.fresh("a box")

    def fresh(self, name: str, live: int = 200, before: int | None = 100) -> RescuedBox:
        """Make a box with the releases 100 and 200, or only with 100 if that is live."""
        box = RescuedBox.fresh(Path(self.mktemp()).absolute() / name)
        box.prepare()
        box.release(100)
        if live == 200:
            box.release(200, before=before)
        return box

    def rescue(self, **environment: str) -> str:
        result = self.box.rescue(**environment)
        self.assertEqual(result.returncode, 0, result)
        return result.stdout

    def assert_brought_back(self, said: str, made: str) -> None:
        """Assert that release 100 is live, the note for the agent is there, and the box reboots."""
        self.assertEqual(self.box.current, ("100", made), said)
        self.assertEqual(self.box.rescued, "100\n")
        self.assertEqual(self.box.asked()[-3:], REBOOTED[-3:])
        self.assert_tidy()

    def assert_paused(self, said: str, live: str = "200", made: str = "long ago") -> None:
        """Assert that the box is unchanged, and only waits until the agent is started again."""
        self.assertEqual(self.box.current, (live, made), said)
        self.assertEqual(self.box.asked(), PAUSED)
        self.assertIn("the agent is started again in 10 minutes", said)
        self.assert_tidy()

    def assert_tidy(self) -> None:
        self.assertFalse((self.box.state_dir / "rescue").exists())
        self.assertEqual([name for name in self.box.releases if "aside" in name], [])


class LastGoodTests(RescueCase):
    """The last good archive is installed again."""

    def test_return(self) -> None:
        """The release of the last good archive is built again, and the box reboots."""
        self.box.last_good()
        said = self.rescue()
        self.assert_brought_back(said, made="fresh")
        self.assertEqual(self.box.tries, ["return"])
        self.assertEqual(self.box.releases, {"100", "200"})

    def test_surroundings(self) -> None:
        """The installer has the same environment as under the agent."""
        self.box.last_good()
        self.rescue(OPQ_PYTHON="/usr/bin/python3", LANG="de_DE.UTF-8")
        given = (self.box.state_dir / "given").read_text().splitlines()
        self.assertEqual(
            given,
            [
                f"{self.box.state_dir}/rescue/opq-box-update-files",
                "LANG=C.UTF-8",
                "OPQ_PREFIX=/opt/opq",
                "OPQ_PYTHON=/usr/bin/python3",
                "OPQ_REBOOT=no",
                f"OPQ_STATE_DIR={self.box.state_dir}",
                "OPQ_UNIT=opq-box-rescue.service",
                "OPQ_VERSION=100",
            ],
        )

    def test_log(self) -> None:
        """The log has the output of the rescue and the installer; the previous log is kept."""
        self.box.last_good()
        for _ in range(3):
            self.rescue()
            (self.box.state_dir / "rescue.tries").unlink()
        self.assertEqual(
            self.box.log.read_text().splitlines(),
            [
                "Installing release 100 again, the last good one.",
                "I install release 100.",
                "Release 100 is there again: rebooting.",
                "The box does not reboot: starting the agent again.",
            ],
        )
        self.assertEqual(
            {path.name for path in self.box.log.parent.iterdir()},
            {"box_rescue.log", "box_rescue.log.1"},
        )

    def test_no_log(self) -> None:
        """If the log cannot be written, the rescue continues."""
        self.box.last_good()
        self.box.log.parent.write_text("This is no folder.")
        self.assert_brought_back(self.rescue(), made="fresh")

    def test_without_top_level_folder(self) -> None:
        """The archive may lack a top-level folder."""
        make_archive(self.box.archive, 100, script=installer(), wrapped=False)
        self.box.call_last_good()
        self.assert_brought_back(self.rescue(), made="fresh")

    def test_component_like_top_level_folder(self) -> None:
        """A component of such an archive may have a name like a top-level folder."""
        wrong = b"#!/bin/sh\nexit 1\n"
        component = layout(100, "opq-box-update-100/", wrong)
        write_archive(self.box.archive, stream(*layout(100, "", installer()), *component))
        self.box.call_last_good()
        self.assert_brought_back(self.rescue(), made="fresh")

    def test_names_of_the_top_level_folder(self) -> None:
        """The top-level folder may have any name with the usual beginning."""
        for name in ("opq-box-update-100", "opq-box-update-other.1"):
            members = [file("beside"), *layout(100, f"{name}/", installer())]
            write_archive(self.box.archive, stream(*members))
            self.box.call_last_good()
            self.assert_brought_back(self.rescue(), made="fresh")
            given = (self.box.state_dir / "given").read_text()
            self.assertIn(f"/rescue/{name}\n", given)
            (self.box.state_dir / "rescue.tries").unlink()

    def test_current_is_gone(self) -> None:
        """If no complete release is live, the last good one becomes live."""
        self.box.last_good()
        (self.box.prefix / "releases" / "200" / "VERSION").unlink()
        self.assert_brought_back(self.rescue(), made="fresh")
        shutil.rmtree(self.box.prefix / "releases")
        self.assert_brought_back(self.rescue(), made="fresh")
        (self.box.prefix / "current").unlink()
        self.assert_brought_back(self.rescue(), made="fresh")

    def test_three_times(self) -> None:
        """An installation that does not help is not repeated for ever."""
        # It says that all is well, and does nothing.
        self.box.last_good(b"#!/bin/sh\nexit 0\n")
        shutil.rmtree(self.box.prefix / "releases" / "100")
        for count in range(1, 4):
            self.rescue()
            self.assertEqual(self.box.tries, ["return"] * count)
            self.assertEqual(self.box.asked(), REBOOTED)
        self.assert_paused(self.rescue())

    def test_a_day_later(self) -> None:
        """All attempts are repeated a day later."""
        self.box.last_good(installer(b"exit 3"))
        shutil.rmtree(self.box.prefix / "releases" / "100")
        for count in range(1, 4):
            self.assert_paused(self.rescue())
            self.assertEqual((self.box.tries, self.box.pauses), (["return"] * count, count))
        self.box.last_good()
        with (self.box.state_dir / "rescue.tries").open("a") as counted:
            counted.write("waited\n" * 90)
        while self.box.pauses < 100:
            self.assert_paused(self.rescue())
        self.assert_brought_back(self.rescue(), made="fresh")
        self.assertEqual((self.box.tries, self.box.pauses), (["return"], 0))

    def test_reinstall(self) -> None:
        """The live release is built again once; after that, the rescue only pauses."""
        self.box.release(50)
        self.box.last_good()
        shutil.rmtree(self.box.prefix / "releases" / "100")
        self.box.release(100, before=50)
        self.assert_brought_back(self.rescue(), made="fresh")
        self.assertEqual(self.box.tries, ["reinstall", "reinstalled"])
        for _ in range(5):
            self.assert_paused(self.rescue(), live="100", made="fresh")
        self.assertEqual(self.box.tries, ["reinstall", "reinstalled"])
        # The agent has run for ten minutes meanwhile.
        (self.box.state_dir / "rescue.tries").unlink()
        self.assert_brought_back(self.rescue(), made="fresh")

    def test_return_and_reinstall(self) -> None:
        """A mistake in the configuration costs two reboots at most."""
        self.box.last_good()
        asked = []
        for _ in range(10):
            self.rescue()
            asked += self.box.asked()
        self.assertEqual(asked.count("reboot"), 2)
        self.assertEqual(asked[-10:], PAUSED * 5)

    def test_reinstall_fails(self) -> None:
        """If the live release cannot be built again, it is put back, after three tries."""
        self.box.release(50)
        shutil.rmtree(self.box.prefix / "releases" / "100")
        self.box.release(100, before=50)
        self.box.last_good(installer(b"exit 3"))
        for _ in range(4):
            self.assert_paused(self.rescue(), live="100")
        self.assertEqual(self.box.tries, ["reinstall"] * 3)
        self.assertEqual(self.box.rescued, None)


class PreviousTests(RescueCase):
    """The previous release becomes the live one if no archive can be installed."""

    def test_no_archive(self) -> None:
        """Without a last good archive, the previous release becomes live."""
        said = self.rescue()
        self.assertIn("There is no last good archive.", said)
        self.assert_brought_back(said, made="long ago")
        self.assertEqual(self.box.tries, ["previous"])
        self.assertEqual(os.readlink(self.box.prefix / "current"), "releases/100")

    def test_agent_that_does_not_start(self) -> None:
        """A previous release whose agent does not start either is not made live."""
        launcher = self.box.prefix / "releases" / "100" / AGENT / "bin" / "opq-box-agent"
        launcher.parent.mkdir(parents=True)
        executable(launcher, "#!/bin/sh\necho It has no Python. >&2\nexit 1\n")
        said = self.rescue()
        self.assertIn("previous release 100 does not start either: It has no Python.\n", said)
        self.assert_paused(said)
        self.assertEqual(self.box.tries, [])
        executable(launcher, '#!/bin/sh\n[ "$*" = --help ]\n')
        self.assert_brought_back(self.rescue(), made="long ago")

    def test_units(self) -> None:
        """The previous release's units are installed and enabled, with install_update.sh's mark."""
        release = self.box.prefix / "releases" / "100"
        service(release, AGENT, "opq-box-agent.service")
        service(release, "triggering", "opq-triggering.service")
        self.rescue()
        self.assertEqual(
            self.box.asked(),
            [
                ASKED,
                "daemon-reload",
                "--quiet enable opq-box-agent.service",
                "daemon-reload",
                "--quiet enable opq-triggering.service",
                *REBOOTED[1:],
            ],
        )
        mark, *unit = (self.box.units / "opq-box-agent.service").read_text().splitlines()
        self.assertIn(f"MARK='{mark}'\n", (SHIPPED / "install_update.sh").read_text())
        self.assertIn(f"ExecStart=/opt/opq/current/{AGENT}/run", unit)

    def test_units_cannot_be_installed(self) -> None:
        """A release whose units cannot be installed does not become live."""
        service(self.box.prefix / "releases" / "100", AGENT, "opq-box-agent.service")
        self.box.tool("sed", "#!/bin/sh\nexit 1\n")
        self.assert_paused(self.rescue())

    def test_damaged_archive(self) -> None:
        """An archive that does not match its digest is not unpacked."""

        def rotten() -> None:
            content = bytearray(self.box.archive.read_bytes())
            content[len(content) // 2] ^= 1
            self.box.archive.write_bytes(content)

        def another_files_digest() -> None:
            self.box.archive.with_name("other").write_bytes(b"")
            self.box.digest.write_text(f"{hashlib.sha256().hexdigest()}  other\n")

        for name, *damages in (
            ("no digest", lambda: self.box.digest.unlink()),
            ("another file's digest", another_files_digest),
            ("empty digest", lambda: self.box.digest.write_text("")),
            ("rotten", rotten),
            ("gone", lambda: self.box.archive.unlink()),
            ("all gone", lambda: self.box.archive.unlink(), lambda: self.box.digest.unlink()),
        ):
            self.box = self.fresh(name)
            self.box.last_good()
            for damage in damages:
                damage()
            said = self.rescue()
            self.assertIn("The last good archive is damaged or gone", said)
            self.assert_brought_back(said, made="long ago")

    def test_odd_name(self) -> None:
        """A link that does not name an archive is not followed."""
        link = self.box.archive.parent / "last-good"
        self.box.last_good()
        for name in ("../x", "opq-box-update-.tar.bz2", "opq-box-update-1.tar", "100", "a\nb"):
            link.unlink()
            link.symlink_to(name)
            self.box.link("current", "releases/200")
            (self.box.state_dir / "rescue.tries").unlink(missing_ok=True)
            said = self.rescue()
            self.assertIn("has a wrong name", said)
            self.assert_brought_back(said, made="long ago")

    def test_installer_fails(self) -> None:
        """If the last good release cannot be built again, its existing folder is used."""
        self.box.last_good(installer(b"exit 3"))
        said = self.rescue()
        self.assertIn("That failed with exit status 3", said)
        self.assert_brought_back(said, made="long ago")
        self.assertEqual(self.box.tries, ["return", "previous"])

    def test_installer_hangs(self) -> None:
        """An installer that takes too long is ended, with its children."""
        self.box.last_good(installer(b'flock "$OPQ_STATE_DIR/child" /bin/sleep 1000 & wait'))
        self.box.change("INSTALL_TIMEOUT=1800", "INSTALL_TIMEOUT=1")
        said = self.rescue()
        self.assertIn("That failed with exit status 124", said)
        self.assert_brought_back(said, made="long ago")
        with (self.box.state_dir / "child").open() as child:
            fcntl.flock(child, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_no_room(self) -> None:
        """Without room to unpack, the unpacked files are removed, and no release changes."""
        self.box.last_good()
        self.box.tool(
            "tar", '#!/bin/sh\nfor to; do :; done\necho x >"$5/x"\necho "No space" >&2\nexit 2\n'
        )
        self.assert_brought_back(self.rescue(), made="long ago")
        self.assertIn("No space", self.box.log.read_text())

    def test_nothing_to_go_back_to(self) -> None:
        """Without another complete release, the box waits, and counts nothing."""
        for name in ("100", "200"):
            self.box = self.fresh(name, before=int(name))
            (self.box.prefix / "releases" / "100" / "VERSION").unlink()
            said = self.rescue()
            self.assertIn("There is no previous release.", said)
            self.assert_paused(said)
            self.assertEqual(self.box.tries, [])

    def test_to_and_fro(self) -> None:
        """Two releases that are each other's previous one are not tried for ever."""
        (self.box.prefix / "releases" / "100" / ".previous").symlink_to("../200")
        for _ in range(3):
            self.rescue()
            self.assertEqual(self.box.asked(), REBOOTED)
        self.assertIn("Three rescues of the kind previous were begun", said := self.rescue())
        self.assert_paused(said, live="100")


class CareTests(RescueCase):
    """The cases in which nothing must or can be done."""

    def test_agent_has_not_failed(self) -> None:
        """Nothing is done while systemd still restarts the agent."""
        self.box.last_good()
        for state in ("active", "activating", "deactivating", "inactive"):
            self.rescue(AGENT_STATE=state)
            self.assertEqual(self.box.asked()[:1], [ASKED])
            self.assertEqual((self.box.current, self.box.tries), (("200", "long ago"), []))

    def test_agent_never_starts(self) -> None:
        """An agent that never starts during an update is rescued."""
        self.box.last_good()
        journal = Journal(self.box.state_dir / "journal.json", "a boot")
        for stage in [stage for stage in Stage if not stage.may_be_live]:
            journal.write(stage=stage)
            self.rescue(AGENT_STATE="inactive")
            self.assertEqual(self.box.asked(), [ASKED, "list-jobs --no-legend"])
        journal.write(stage=Stage.REBOOTING)
        # It waits, as for the network.
        self.rescue(AGENT_STATE="inactive", JOBS="  7 opq-box-agent.service start waiting")
        self.assertEqual((self.box.current, self.box.tries), (("200", "long ago"), []))
        self.assert_brought_back(self.rescue(AGENT_STATE="inactive"), "fresh")

    def test_every_live_stage(self) -> None:
        """It is rescued in each stage in which the new release may be the live one."""
        for stage in [stage for stage in Stage if stage.may_be_live]:
            self.box = self.fresh(stage)
            self.box.last_good()
            Journal(self.box.state_dir / "journal.json", "a boot").write(stage=stage)
            self.assert_brought_back(self.rescue(AGENT_STATE="inactive"), "fresh")

    def stand_still(self, stage: Stage = Stage.CONFIRMING, **changes: Any) -> Journal:
        """Let the update to 200 stand still for four hours."""
        self.box.last_good()
        journal = Journal(self.box.state_dir / "journal.json", "a boot")
        journal.write(stage=stage, **{"release": Release(200), **changes})
        self.rescue(AGENT_STATE="active")
        self.box.let_hours_pass()
        return journal

    def test_agent_makes_no_progress(self) -> None:
        """An agent that runs, but leaves an update unchanged for hours, is rescued."""
        for stage in (Stage.REBOOTING, Stage.ROLLING_BACK, Stage.CONFIRMING):
            self.stand_still(stage)
        self.box.asked()
        self.assert_brought_back(self.rescue(AGENT_STATE="active"), "fresh")

    def test_agent_never_rests(self) -> None:
        """The hours are counted over all boots, also after a failed reboot."""
        awaited = {"release": None, "after_reboot": Stage.REBOOTING, "awaited": Release(200)}
        self.stand_still(Stage.FAILED, **awaited)
        self.box.let_hours_pass(0, boot="another boot")
        self.assert_brought_back(self.rescue(AGENT_STATE="active"), "fresh")

    def test_reboot_awaited(self) -> None:
        """An agent that waits for a reboot by hand, or was stopped, is not rescued."""
        self.box.last_good()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        journal = Journal(self.box.state_dir / "journal.json", boot_id)
        for stage in (Stage.REBOOTING, Stage.ROLLING_BACK):
            journal.write(stage=Stage.FAILED, after_reboot=stage, awaited=Release(200))
            for state in ("active", "inactive"):
                self.rescue(AGENT_STATE=state)
                self.assertEqual((self.box.current, self.box.tries), (("200", "long ago"), []))
        self.assertFalse(self.box.seen.exists())

    def test_sight_is_garbled(self) -> None:
        """If rescue.seen is unreadable, the count starts again."""
        self.stand_still()
        journal, boot, *_ = self.box.seen.read_text().splitlines()
        for rest in (("08", "1 2"), ("", "abc"), ("-1", "$(reboot)"), ()):
            self.box.seen.write_text("\n".join((journal, boot, *rest)) + "\n")
            self.rescue(AGENT_STATE="active")
            self.assertEqual((self.box.current, self.box.tries), (("200", "long ago"), []))
            self.assertRegex(self.box.seen.read_text(), rf"^{journal}\n{boot}\n\d+\n\d+\n$")

    def test_agent_gets_on(self) -> None:
        """An agent that has made progress, or has had less time, is not rescued."""
        journal = self.stand_still()
        journal.write(tries=2)
        for hours in (0, 3):
            self.box.let_hours_pass(hours)
            self.rescue(AGENT_STATE="active")
            self.assertEqual((self.box.current, self.box.tries), (("200", "long ago"), []))

    def test_agent_waits(self) -> None:
        """The agent of another release than the new one may wait as long as it needs."""
        for stage in (Stage.INSTALLING, Stage.ROLLING_BACK):
            with self.subTest(stage=stage):
                self.stand_still(stage)
                self.box.link("current", "releases/100")
                self.rescue(AGENT_STATE="active")
                self.assertEqual((self.box.current, self.box.tries), (("100", "long ago"), []))
                self.box.link("current", "releases/200")

    def test_not_ended(self) -> None:
        """If the old agent still runs because the box did not reboot, the rescue is repeated."""
        self.stand_still()
        self.rescue(AGENT_STATE="active")
        # That agent was killed before it was restarted.
        self.box.asked()
        self.rescue(AGENT_STATE="active")
        self.assertEqual(self.box.asked(), REBOOTED)
        self.assertEqual(self.box.current, ("100", "fresh"))

    def test_installer_at_work(self) -> None:
        """A running installer is waited for, and then the agent is started."""
        self.box.last_good()
        with (self.box.state_dir / "install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self.box.start() as process:
                assert process.stdout is not None
                self.assertIn("An installer is at work", process.stdout.readline())
                self.assertRaises(subprocess.TimeoutExpired, process.wait, 0.2)
                fcntl.flock(lock, fcntl.LOCK_UN)
                self.assertEqual(process.wait(10), 0)
        self.assertEqual(self.box.asked(), [ASKED])
        self.assertEqual((self.box.current, self.box.tries), (("200", "long ago"), []))

    def test_installer_does_not_end(self) -> None:
        """If an installer holds the lock for too long, the agent is started."""
        self.box.last_good()
        self.box.change("LOCK_TIMEOUT=2400", "LOCK_TIMEOUT=0.1")
        with (self.box.state_dir / "install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.rescue()
        self.assertEqual(self.box.asked(), [ASKED])

    def test_lock(self) -> None:
        """The lock is held during the installer, but not by its children or in a pause."""
        try_lock = b'flock -n "$OPQ_STATE_DIR/install.lock" true; echo "locked $?"; ls /proc/$$/fd'
        self.box.last_good(installer(try_lock))
        self.rescue()
        log = self.box.log.read_text().splitlines()
        self.assertIn("locked 1", log)
        self.assertNotIn("9", log)
        self.box.tool("sleep", '#!/bin/sh\nflock -n "$OPQ_STATE_DIR/install.lock" echo free\n')
        self.rescue()
        self.assertIn("free\n", self.rescue())

    def test_cannot_be_counted(self) -> None:
        """A rescue that cannot be counted is not begun: a box must not reboot for ever."""
        self.box.last_good()
        (self.box.state_dir / "rescue.tries").mkdir()
        self.assert_paused(self.rescue())

    def test_count_is_garbled(self) -> None:
        """Of a damaged count, the readable lines count."""
        self.box.last_good()
        (self.box.state_dir / "rescue.tries").write_bytes(b"return\n\0\0\xff\nreturn\nreturn\n")
        said = self.rescue()
        self.assertIn("Three rescues of the kind return were begun", said)
        self.assert_brought_back(said, made="long ago")

    def test_no_state_directory(self) -> None:
        """If the state directory cannot be written, the box waits."""
        shutil.rmtree(self.box.state_dir)
        self.box.state_dir.write_text("This is no folder.")
        self.rescue()
        self.assertEqual(self.box.asked(), PAUSED)

    def test_reboot_fails(self) -> None:
        """If the reboot fails, the rescue ends, and its unit starts the new agent."""
        self.box.last_good()
        self.box.tool("systemctl", SYSTEMCTL + "case $* in reboot) exit 1 ;; esac\n")
        said = self.rescue()
        self.assertIn("The box does not reboot: starting the agent again.", said)
        self.assertEqual(self.box.asked(), [*REBOOTED[:2], RESTARTED])


#: Stands in for the pip that an update brings: it leads to the one of the tests.
PIP = f"""
import runpy, sys
sys.path[0] = {os.fspath(Path(pip.__file__).parent.parent)!r}
runpy.run_module("pip", run_name="__main__")
"""


class RealTests(RescueCase):
    """The real installer."""

    def test_broken_python(self) -> None:
        """A release with a broken Python is replaced by the last good one, whose agent starts."""
        update = self.update(100)
        with tarfile.open(self.box.archive, "w:bz2") as archive:
            archive.add(update, update.name)
        self.box.call_last_good()
        shutil.rmtree(self.box.prefix / "releases")
        for link in ("current", "previous"):
            (self.box.prefix / link).unlink()
        self.update(200)
        self.box.install(
            200, managed=True, OPQ_PYTHON=sys.executable, OPQ_UNIT="opq-box-install.service"
        )
        self.break_python(200)
        self.assertNotEqual(self.launch().returncode, 0)
        self.box.asked()

        said = self.rescue(OPQ_PYTHON=sys.executable)
        self.assertEqual(self.box.rescued, "100\n", said)
        self.assertEqual(self.box.state(), (100, 200, {"100", "200"}))
        self.assertEqual(self.box.asked()[-2:], REBOOTED[-2:])
        self.assertEqual(self.launch().stdout, "I am the agent.\n")
        self.assertIn("Release 100 is now current.", self.box.log.read_text())
        self.assert_tidy()

        # Files rot, so the live release is unpacked again.
        self.break_python(100)
        self.assertNotEqual(self.launch().returncode, 0)
        self.rescue(OPQ_PYTHON=sys.executable)
        self.assertEqual(self.launch().stdout, "I am the agent.\n")
        self.assert_tidy()

    def break_python(self, version: int) -> None:
        folder = self.box.prefix / "releases" / str(version) / "venv" / "bin"
        for python in list(folder.glob("python*")):
            python.unlink()
            python.symlink_to("/nonexistent/python3")

    def update(self, version: int) -> Path:
        """Lay out an update with a real package, whose twistd only prints a line."""
        update = self.box.unpack(version)
        (update / AGENT / "bin" / "opq-box").unlink()
        (update / AGENT / "requirements.txt").write_text("twistd\n")
        with zipfile.ZipFile(update / "wheels" / "pip-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pip/__main__.py", PIP)
        with zipfile.ZipFile(update / "wheels" / "twistd-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("twistd-1.data/scripts/twistd", '#!python\nprint("I am the agent.")\n')
            wheel.writestr(
                "twistd-1.dist-info/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(
                "twistd-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: twistd\nVersion: 1\n"
            )
            wheel.writestr("twistd-1.dist-info/RECORD", "")
        return update

    def launch(self) -> Result:
        return self.box.call(f"/opt/opq/current/{AGENT}/bin/opq-box-agent")
