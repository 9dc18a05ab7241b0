"""`install_update.sh` is run, its output and status are kept, and the box reboots."""

import errno
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.install import units
from opq_twisted.box.install.installer import Installer
from opq_twisted.box.install.processes import PIPE_GRACE, TERMINATION_GRACE, ProcessRunner
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common.errors import (
    BoxAtFault,
    InstallFailed,
    InstallTimedOut,
    NotStarted,
    RebootFailed,
)
from tests.helpers.box_fakes import NEW
from tests.helpers.child_processes import Children, ChildrenCase, Ear, Gate


class InstallerCase(ChildrenCase):
    """An installer with real programs."""

    def prepare(self) -> None:
        self.state_dir = self.root / "state"
        self.folder = self.root / "unpacked"
        self.log = self.root / "log" / "box_update.log"
        self.state_dir.mkdir()
        self.folder.mkdir()
        self.installer = self.make()

    def make(self, **settings: Any) -> Installer:
        config = UpdaterConfig(
            **{"prefix": self.root / "prefix", "log": self.log, "install_timeout": 30, **settings}
        )
        programs = ProcessRunner(self.clock, self.children)
        scripts = TransientUnits(programs, config.prefix, self.state_dir, has_systemd=False)
        return Installer(programs, scripts, config)

    def install(self, script: str, mode: int = 0o755, rolling_back: bool = False) -> Deferred[None]:
        path = self.folder / "install_update.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(mode)
        return Deferred.fromCoroutine(self.installer.install(self.folder, NEW, rolling_back))

    def listen(self, name: str) -> Ear:
        """Listen to a FIFO to which scripts write."""
        ear = Ear(self.root / name)
        self.addCleanup(ear.close)
        return ear

    async def failure(self, running: Deferred[Any], kind: type[Exception] = InstallFailed) -> str:
        with self.assertRaises(kind) as caught:
            await running
        return str(caught.exception)

    def status(self) -> str:
        return (self.state_dir / "install.status").read_text()


class InstallTests(InstallerCase):
    """The outcomes of a script."""

    async def test_success(self) -> None:
        """A script that succeeds leaves its output in the log, and its status in a file."""
        await self.install("echo out; echo err >&2")
        self.assertEqual(self.log.read_text(), "out\nerr\n")
        self.assertEqual(self.status(), "0\n")

    async def test_surroundings(self) -> None:
        """A script runs in its folder, with the promised environment, and has no input."""
        self.patch(os, "environ", {**os.environ, "OPQ_SYSTEMD": "no", "SECRET": "x"})
        await self.install("pwd; cat; env")
        first, *lines = self.log.read_text().splitlines()
        self.assertEqual(first, str(self.folder))
        environment = dict(line.split("=", 1) for line in lines)
        expected = {
            "OPQ_VERSION": str(NEW),
            "OPQ_PREFIX": str(self.root / "prefix"),
            "OPQ_STATE_DIR": str(self.state_dir),
            "OPQ_REBOOT": "no",
            "OPQ_SYSTEMD": "no",
            "LANG": "C.UTF-8",
        }
        self.assertEqual(expected, {key: environment.get(key) for key in expected})
        self.assertIn("/usr/bin", environment["PATH"].split(":"))
        self.assertIn("/usr/sbin", environment["PATH"].split(":"))
        self.assertNotIn("SECRET", environment)

    async def test_session(self) -> None:
        """A script has a session of its own, so that it survives the agent."""
        await self.install("cut -d ' ' -f 6 /proc/$$/stat")
        self.assertNotEqual(int(self.log.read_text()), os.getsid(0))

    async def test_failure(self) -> None:
        """The error has the script's status, the path of its log, and the script's own reason."""
        sentence = await self.failure(self.install("echo no tape; exit 7"))
        self.assertEqual(
            sentence,
            f"install_update.sh ended with exit status 7. See {self.log}.",
        )
        self.assertEqual(self.status(), "7\n")
        self.assertEqual(self.log.read_text(), "no tape\n")
        sentence = await self.failure(self.install("echo install_update.sh: no tape.; exit 1"))
        self.assertEqual(
            sentence, f"install_update.sh ended with exit status 1: no tape. See {self.log}."
        )

    async def test_not_executable(self) -> None:
        """A script that is not executable is a failed install; the log has the reason."""
        self.assertIn("exit status 126", await self.failure(self.install("", mode=0o644)))
        self.assertIn("ermission denied", self.log.read_text())

    async def test_missing(self) -> None:
        """A missing script is a failed install."""
        running = Deferred.fromCoroutine(self.installer.install(self.folder, NEW))
        self.assertIn("exit status 127", await self.failure(running))

    async def test_no_folder(self) -> None:
        """Without its folder, a script does not run, and is not to blame."""
        running = Deferred.fromCoroutine(self.installer.install(self.root / "gone", NEW))
        sentence = await self.failure(running, NotStarted)
        self.assertEqual(
            sentence,
            "The install script was not started: the program that starts it ended with exit "
            "status 1.",
        )

    async def test_lock_removed(self) -> None:
        """A script that removes the lock has run, and is to blame."""
        script = f"rm {self.state_dir}/install.lock; exit 3"
        self.assertIn("exit status 3", await self.failure(self.install(script)))

    async def test_no_process(self) -> None:
        """If no process can be created, the release is not to blame."""

        def spawn(*args: Any, **kwargs: Any) -> None:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        self.patch(self.children, "spawnProcess", spawn)
        self.assertEqual(
            await self.failure(self.install("exit 0"), NotStarted),
            "The install script was not started: Resource temporarily unavailable.",
        )

    async def test_too_busy_to_tell(self) -> None:
        """The status of a script is read again if there was no descriptor for it."""
        await self.install("exit 0")

        def refuse(*args: Any, **kwargs: Any) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        busy = self.patch(os, "open", refuse)
        reported: list[OSError] = []
        self.installer.when_busy = reported.append
        waiting = Deferred.fromCoroutine(self.installer.wait())
        self.assertNoResult(waiting)
        self.assertEqual([error.errno for error in reported], [errno.EMFILE])
        busy.restore()
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(waiting), 0)

    async def test_shortage(self) -> None:
        """A shortage is found in the last lines of the script's output."""
        busy, full = "Resource temporarily unavailable", "No space left on device"
        for said, shortage, code in (
            ("sh: 3: Cannot fork", "Cannot fork", "busy"),
            (f"bash: fork: {busy}", busy, "busy"),
            (f"cp: error writing: {full}", full, "no-room"),
        ):
            with self.subTest(said=said):
                await self.failure(self.install(f"echo {said!r}; exit 1"))
                found = self.installer.shortage
                assert found is not None
                expected = f"The box lacked resources meanwhile: {shortage}."
                self.assertEqual((str(found), found.code), (expected, code))
        await self.failure(self.install("echo 'no tape'; exit 1"))
        self.assertIsNone(self.installer.shortage)

    async def test_hangs(self) -> None:
        """A script that ignores SIGTERM after its timeout is killed with all its children."""
        group = self.listen("group")
        hang = f"exec 9>{self.root}/group; sleep 1000 & echo >&9; sleep 1000"
        running = self.install(f"trap '' TERM; {hang}")
        await group.heard
        self.clock.advance(30)
        await self.children.wait("exited")
        self.assertNoResult(running)
        self.clock.advance(TERMINATION_GRACE)
        # Nobody of the group is left to hold the other end.
        await group.ended
        self.assertEqual(
            await self.failure(running, InstallTimedOut),
            f"install_update.sh took too long and was ended. See {self.log}.",
        )

    async def test_logs_kept(self) -> None:
        """The output of the last five runs is kept."""
        for number in range(7):
            await self.install(f"echo {number}")
        logs = {path.name: path.read_text().strip() for path in self.log.parent.iterdir()}
        name = self.log.name
        expected = {f"{name}.{age}": str(6 - age) for age in range(1, 5)}
        self.assertEqual(logs, {name: "6", **expected})

    async def test_rolling_back(self) -> None:
        """After a rollback, the log still has the output of the failed release."""
        await self.failure(self.install("echo no tape; exit 7"))
        await self.install("echo good", rolling_back=True)
        self.assertEqual(self.log.read_text(), f"no tape\n\nGoing back to release {NEW}:\ngood\n")

    async def test_log_elsewhere(self) -> None:
        """If the log cannot be written, the output is kept in the state directory."""
        self.log.parent.write_text("This is no folder.")
        log = self.state_dir / "box_update.log"
        sentence = await self.failure(self.install("echo no tape; exit 7"))
        self.assertIn(f"See {log}.", sentence)
        self.assertEqual(log.read_text(), "no tape\n")

    async def test_log_full(self) -> None:
        """The log is not put on a disk that can create files but not write them."""
        make = tempfile.TemporaryFile

        def fill(dir: Path, buffering: int) -> Any:
            if dir == self.log.parent:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return make(dir=dir, buffering=buffering)

        self.patch(tempfile, "TemporaryFile", fill)
        await self.install("echo out")
        self.assertEqual((self.state_dir / "box_update.log").read_text(), "out\n")
        self.assertFalse(self.log.exists())

    async def test_code_of_the_box(self) -> None:
        """The code says what the box lacks, as far as the script's last line tells it."""
        for said, code in (
            ("cp: No space left on device", "no-room"),
            ("Cannot fork", "busy"),
            ("Make room.", "disk"),
        ):
            with self.subTest(said=said), self.assertRaises(BoxAtFault) as caught:
                await self.install(f"echo '{said}'; exit 75")
            self.assertEqual(caught.exception.code, code)

    async def test_box_at_fault(self) -> None:
        """A script may blame the box, and say what to do."""
        for said, reason in (
            ("install_update.sh: make room.", "make room."),
            ("Make room.\n\n", "Make room."),
            ("\033[1m\007Make room.", "[1mMake room."),
            ("", "install_update.sh found this box at fault, and gave no reason."),
        ):
            with self.subTest(said=said):
                running = self.install(f"printf 'begin\\n{said}'; exit 75" if said else "exit 75")
                self.assertEqual(await self.failure(running, BoxAtFault), reason)
                self.assertEqual(self.status(), "75\n")


class UnitTests(InstallerCase):
    """The outcome of the script counts, even if systemd-run fails."""

    def prepare(self) -> None:
        super().prepare()
        tools = self.root / "tools"
        tools.mkdir()
        self.patch(units, "_PATH", f"{tools}:{os.environ['PATH']}")
        self.tool("systemctl", "echo inactive")

    def make(self, **settings: Any) -> Installer:
        config = UpdaterConfig(prefix=self.root / "prefix", log=self.log, **settings)
        programs = ProcessRunner(self.clock, self.children)
        units = TransientUnits(programs, config.prefix, self.state_dir, has_systemd=True)
        return Installer(programs, units, config)

    def tool(self, name: str, script: str) -> None:
        """Play a program of systemd."""
        path = self.root / "tools" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def systemd_run(self, last: str) -> None:
        """Play systemd-run, up to the command that it runs."""
        self.tool(
            "systemd-run",
            f"""while [ "$1" != -- ]; do shift; done; shift; cd {self.folder}
            for each; do set -- "$@" "$(printf %s "$each" | sed 's/[$][$]/$/g')"; shift; done
            {last}""",
        )

    async def test_lost_sight(self) -> None:
        """A script has succeeded even if systemd-run fails."""
        self.systemd_run('"$@"; exit 1')
        await self.install("exit 0")
        self.assertEqual(self.status(), "0\n")

    async def test_goes_on(self) -> None:
        """A script that still runs when systemd-run fails is waited for."""
        gate, begun = Gate(self.root / "gate"), self.listen("begun")
        self.addCleanup(gate.close)
        self.systemd_run('"$@" & exit 1')
        running = self.install(f"echo >{self.root}/begun; {gate.wait}")
        await begun.heard
        await self.children.wait("exited")
        self.clock.advance(PIPE_GRACE)
        self.assertNoResult(running)
        gate.open()
        with (self.state_dir / "install.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
        self.clock.advance(1)
        await running

    async def test_fails(self) -> None:
        """A script that fails has failed."""
        self.systemd_run('"$@"')
        self.assertIn("exit status 7", await self.failure(self.install("exit 7")))

    async def test_killed(self) -> None:
        """A script that systemd ends when its time is over took too long; one before has failed."""
        gate = Gate(self.root / "gate")
        self.addCleanup(gate.close)
        self.systemd_run(f'setsid "$@" & {gate.wait}; kill -TERM -$!; wait; exit 1')
        for seconds, kind in ((1799, InstallFailed), (1800, InstallTimedOut)):
            with self.subTest(seconds=seconds):
                self.children = Children()
                self.installer = self.make()
                begun = self.listen(f"begun {seconds}")
                running = self.install(f"echo >'{self.root}/begun {seconds}'; sleep 1000")
                await begun.heard
                self.clock.advance(seconds)
                gate.open()
                with self.assertRaises(kind) as caught:
                    await running
                self.assertIs(type(caught.exception), kind)

    async def test_not_started(self) -> None:
        """If systemd-run cannot start the script, the release is not to blame."""
        self.tool("systemd-run", "echo Failed to connect to bus: Connection refused; exit 1")
        sentence = await self.failure(self.install("exit 0"), NotStarted)
        self.assertEqual(
            sentence,
            "The install script was not started: Failed to connect to bus: Connection refused.",
        )


class OutliveTests(InstallerCase):
    """A script that continues when the agent ends."""

    def prepare(self) -> None:
        super().prepare()
        self.gate = Gate(self.root / "gate")
        self.addCleanup(self.gate.close)

    async def leave(self, script: str) -> None:
        """Start a script that waits at the gate, and stop the agent meanwhile."""
        self.children = Children()
        self.installer = self.make()
        (self.root / "begun").unlink(missing_ok=True)
        begun = self.listen("begun")
        running = self.install(f"echo >{self.root}/begun; {self.gate.wait}; {script}")
        await begun.heard
        running.cancel()
        self.failureResultOf(running, CancelledError)

    async def test_survives(self) -> None:
        """The next agent waits for the script, and learns its status."""
        for status in (0, 7):
            with self.subTest(status=status):
                await self.leave(f"echo survived; exit {status}")
                waiting = Deferred.fromCoroutine(self.make().wait())
                self.clock.advance(5)
                self.assertNoResult(waiting)
                self.gate.open()
                await self.children.wait("ended")
                self.clock.advance(1)
                self.assertEqual(self.successResultOf(waiting), status)
                self.assertEqual(self.log.read_text(), "survived\n")

    async def test_wait_ends(self) -> None:
        """The next agent stops a script that takes too long, and reports that."""
        await self.leave("exit 0")
        waiting = Deferred.fromCoroutine(self.make().wait())
        self.clock.pump([1] * 60)
        self.assertIn("took too long", str(self.failureResultOf(waiting, InstallTimedOut).value))
        await self.children.wait("ended")

    async def test_one_at_a_time(self) -> None:
        """Another run of the script waits for the end of the surviving one."""
        await self.leave(f"echo first >>{self.root}/order")
        first, self.children = self.children, Children()
        self.installer = self.make()
        second = self.install(f"echo second >>{self.root}/order")
        await self.children.wait("started")
        self.gate.open()
        await first.wait("ended")
        await second
        self.assertEqual((self.root / "order").read_text(), "first\nsecond\n")

    async def test_daemons(self) -> None:
        """A daemon that the script has started does not count as the script."""
        daemon = self.listen("daemon")
        run = f"setsid sh -c 'exec 9>{self.root}/daemon; echo >&9; {self.gate.wait}'"
        await self.install(f"{run} >/dev/null 2>&1 &")
        await daemon.heard
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.make().wait())), 0)
        self.gate.open()
        await daemon.ended

    async def test_power_cut(self) -> None:
        """After a power cut, there is no status, or an unreadable one."""
        for left in (None, "", "garbage"):
            with self.subTest(left=left):
                if left is not None:
                    (self.state_dir / "install.status").write_text(left)
                waiting = Deferred.fromCoroutine(self.installer.wait())
                self.assertIsNone(self.successResultOf(waiting))

    async def test_killed(self) -> None:
        """A script that was killed with its shell leaves no status."""
        await self.failure(self.install("kill -KILL 0"))
        waiting = Deferred.fromCoroutine(self.make().wait())
        self.assertIsNone(self.successResultOf(waiting))

    async def test_forget(self) -> None:
        """The status of an earlier install does not count for the next one."""
        await self.install("exit 0")
        self.installer.forget()
        waiting = Deferred.fromCoroutine(self.installer.wait())
        self.assertIsNone(self.successResultOf(waiting))
        self.installer.forget()


class RebootTests(InstallerCase):
    """The reboot of the box."""

    def reboot(self, *command: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self.make(reboot_command=command).reboot())

    async def test_asked(self) -> None:
        """The configured command is run with its arguments."""
        await self.reboot("sh", "-c", 'echo "$1" >"$0"', f"{self.root}/asked", "now")
        self.assertEqual((self.root / "asked").read_text(), "now\n")

    async def test_refused(self) -> None:
        """The error of a failed command has its output, and advice."""
        sentence = await self.failure(
            self.reboot("sh", "-c", "echo inhibited >&2; exit 1"), RebootFailed
        )
        self.assertIn("ended with exit status 1. Reboot the box by hand. inhibited", sentence)

    async def test_missing(self) -> None:
        """A missing command is an error."""
        sentence = await self.failure(self.reboot("/nonexistent/reboot"), RebootFailed)
        self.assertIn("The reboot command /nonexistent/reboot ended", sentence)
        self.assertIn("Reboot the box by hand.", sentence)

    async def test_hangs(self) -> None:
        """A command that hangs is ended, and is an error."""
        running = self.reboot("sh", "-c", "echo; sleep 1000")
        await self.children.wait("said")
        self.clock.advance(120)
        await self.children.wait("ended")
        self.clock.advance(TERMINATION_GRACE)
        self.assertIn("took too long", await self.failure(running, RebootFailed))
