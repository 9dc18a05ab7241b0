"""A release is healthy if its services keep running, and its own script succeeds."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import Factory, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.install.health import Health
from opq_twisted.box.install.processes import ProcessResult, ProcessRunner
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common.errors import InstallFailed, ServiceUnhealthy, VerifyFailed
from tests.helpers.box_fakes import NEW
from tests.helpers.child_processes import Children, ChildrenCase


@frozen
class System(ProcessRunner):
    """A box whose systemd and scripts are played by the test."""

    #: The state and the run of each service.
    services: dict[str, tuple[str, str]] = Factory(dict)
    #: What `verify_update.sh` ends with, each time.
    verdicts: list[ProcessResult] = Factory(list)
    asked: list[str] = Factory(list)

    def run(self, argv: Any, *_: object, **__: object) -> Deferred[ProcessResult]:
        """Answer `systemctl show`, or run the script."""
        answer: Deferred[ProcessResult] = Deferred()
        if argv[0] == "systemctl":
            self.asked.append(argv[-1])
            state, run = self.services[argv[-1]]
            output = f"ActiveState={state}\nInvocationID={run}\n" if state else "not booted\n"
            answer.callback(ProcessResult(0 if state else 1, output))
        else:
            self.asked.append(argv[-1])
            answer.callback(self.verdicts.pop(0))
        return answer


class HealthCase(SynchronousTestCase):
    """A box with two services, whose release has a script."""

    services: tuple[str, ...] = ("box", "mauka")

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        (self.folder / "verify_update.sh").touch()
        self.clock = Clock()
        self.system = System(self.clock, Children())
        self.system.services.update(dict.fromkeys(self.services, ("active", "first")))
        self.scripts = TransientUnits(self.system, self.folder, self.folder, has_systemd=False)
        self.health = self.make()

    def make(self, settle: float = 60) -> Health:
        return Health(self.clock, self.scripts, self.services, settle)

    def judge(self, deadline: float = 600) -> Deferred[None]:
        return Deferred.fromCoroutine(self.health.require(self.folder, NEW, deadline))

    def pass_by(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def assert_sick(
        self,
        judging: Deferred[None],
        what: str,
        kind: type[InstallFailed] = VerifyFailed,
    ) -> None:
        error = self.failureResultOf(judging, kind).value
        self.assertEqual(str(error), f"Release {NEW} is not healthy: {what}.")


class RequireTests(HealthCase):
    """The conditions of a healthy release, and their duration."""

    def test_healthy(self) -> None:
        """All services stay active for the whole time, and the script succeeds twice."""
        self.system.verdicts[:] = [ProcessResult(0), ProcessResult(0)]
        judging = self.judge()
        self.pass_by(59)
        self.assertNoResult(judging)
        self.pass_by(1)
        self.assertIsNone(self.successResultOf(judging))
        self.assertEqual(self.system.verdicts, [])
        self.assertEqual(
            self.system.asked[:3], ["box", "mauka", str(self.folder / "verify_update.sh")]
        )

    def test_no_time_to_settle(self) -> None:
        """Without a time to settle, one check is enough."""
        self.health = self.make(settle=0)
        self.system.verdicts[:] = [ProcessResult(0)]
        self.assertIsNone(self.successResultOf(self.judge()))

    def test_no_script(self) -> None:
        """A release without a script is checked by its services alone."""
        (self.folder / "verify_update.sh").unlink()
        judging = self.judge()
        self.pass_by(60)
        self.assertIsNone(self.successResultOf(judging))

    def test_slow_start(self) -> None:
        """A service may start late, and must stay active from then on."""
        self.system.verdicts[:] = [ProcessResult(0), ProcessResult(0)]
        self.system.services["mauka"] = ("activating", "first")
        judging = self.judge()
        self.pass_by(300)
        self.system.services["mauka"] = ("active", "first")
        self.pass_by(64)
        self.assertNoResult(judging)
        self.pass_by(1)
        self.assertIsNone(self.successResultOf(judging))

    def test_never(self) -> None:
        """A service that is not active by the deadline is not healthy."""
        for state, what in (
            ("failed", "the service mauka is failed"),
            ("", "the service mauka is unknown: systemctl ended with exit status 1"),
        ):
            self.system.services["mauka"] = (state, "first")
            judging = self.judge(self.clock.seconds() + 600)
            self.pass_by(590)
            self.assertNoResult(judging)
            self.pass_by(10)
            self.assert_sick(judging, what, ServiceUnhealthy)

    def test_busy_machine(self) -> None:
        """A shortage of descriptors, memory or processes is not the release's fault."""
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
            self.patch(System, "run", self.refuse(OSError(number, os.strerror(number))))
            judging = self.judge(self.clock.seconds() + 600)
            self.pass_by(600)
            self.assertEqual(self.failureResultOf(judging, OSError).value.errno, number)

    def test_busy_systemctl(self) -> None:
        """The same holds if systemctl reports the shortage."""
        said = ProcessResult(1, "Failed to fork: Resource temporarily unavailable\n")
        self.patch(System, "run", lambda *_, **__: succeed(said))
        judging = self.judge()
        self.pass_by(600)
        self.assertIn("exit status 1", str(self.failureResultOf(judging, OSError).value))

    def test_busy_for_a_while(self) -> None:
        """The check is repeated until the machine has time."""
        self.system.verdicts[:] = [ProcessResult(0), ProcessResult(0)]
        busy = self.patch(System, "run", self.refuse(OSError(errno.EMFILE, "Too many open files")))
        judging = self.judge()
        self.pass_by(300)
        busy.restore()
        self.pass_by(65)
        self.assertIsNone(self.successResultOf(judging))

    def refuse(self, error: OSError) -> Callable[..., None]:
        def run(*_: object, **__: object) -> None:
            raise error

        return run

    def test_crash_loop(self) -> None:
        """A service that is active at each check, but restarts between them, is not healthy."""
        self.system.verdicts[:] = [ProcessResult(0)] * 1000
        judging = self.judge()
        for number in range(700):
            self.system.services["box"] = ("active", str(number // 30))
            self.clock.advance(1)
        self.assert_sick(judging, "a service was started again", ServiceUnhealthy)

    def test_script(self) -> None:
        """The error has the last line of the script."""
        self.system.verdicts[:] = [ProcessResult(1, "Looking.\nThere is no voltage.\n")] * 1000
        judging = self.judge()
        self.pass_by(600)
        self.assert_sick(judging, "verify_update.sh ended with exit status 1: There is no voltage")

    def test_script_later(self) -> None:
        """A release that is healthy at first must be so in the end."""
        self.system.verdicts[:] = [ProcessResult(0), ProcessResult(-9, "", timed_out=True)]
        judging = self.judge(30)
        self.pass_by(60)
        self.assert_sick(judging, "verify_update.sh took too long and was ended")

    def test_too_late(self) -> None:
        """After the deadline there is only one check."""
        self.system.verdicts[:] = [ProcessResult(1)]
        self.clock.advance(700)
        self.assert_sick(self.judge(), "verify_update.sh ended with exit status 1")


class ScriptsTests(ChildrenCase):
    """The scripts of a release without systemd."""

    def run_script(self, text: str, **options: Any) -> Deferred[ProcessResult]:
        script = self.root / "script.sh"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        scripts = TransientUnits(
            ProcessRunner(self.clock, self.children),
            self.root / "prefix",
            self.root,
            has_systemd=False,
        )
        return scripts.run("opq-test", [str(script)], self.root, NEW, 30, **options)

    async def test_surroundings(self) -> None:
        """A script has no input, runs in its folder, and has the promised environment."""
        ended = await self.run_script("cat; pwd; echo $OPQ_VERSION $OPQ_PREFIX $OPQ_REBOOT")
        self.assertEqual(
            ended.output.splitlines(),
            [str(self.root.resolve()), f"{NEW} {self.root / 'prefix'} no"],
        )

    async def test_log(self) -> None:
        """The output of a script is appended to a log."""
        log = self.root / "log"
        log.write_text("before\n")
        ended = await self.run_script("echo out; echo error >&2; exit 3", log=log)
        self.assertEqual((ended.status, ended.output), (3, ""))
        self.assertEqual(log.read_text(), "before\nout\nerror\n")

    def test_no_log(self) -> None:
        """A log that cannot be opened is an error, and leaves nothing open."""
        before = os.listdir("/proc/self/fd")
        with self.assertRaises(OSError):
            self.run_script("exit 0", log=self.root / "none" / "log")
        self.assertEqual(os.listdir("/proc/self/fd"), before)


class UnitTests(SynchronousTestCase):
    """The commands for systemd."""

    def asked(self, run: Callable[[TransientUnits], object], agent: str | None = None) -> list[str]:
        asked: list[list[str]] = []

        @frozen
        class Recorder(System):
            def run(self, argv: Any, *_: object, **__: object) -> Deferred[ProcessResult]:
                asked.append(list(argv))
                return Deferred()

        run(
            TransientUnits(
                Recorder(Clock(), Children()),
                Path("/opt/opq"),
                Path("/state"),
                has_systemd=True,
                agent=agent,
            )
        )
        return asked[0]

    def test_unit(self) -> None:
        """A script runs in a unit with a name and limits, which starts the agent again."""
        argv = self.asked(
            lambda scripts: scripts.run(
                "opq-box-install", ["sh", "-c", 'echo "$1"'], Path("/new"), NEW, 9, Path("/log")
            ),
            agent="opq-box-agent.service",
        )
        self.assertEqual(argv[0], "systemd-run")
        self.assertEqual(argv[argv.index("--") + 1 :], ["sh", "-c", 'echo "$$1"'])
        for option in (
            "--unit=opq-box-install",
            "--working-directory=/new",
            "--property=RuntimeMaxSec=9",
            "--property=StandardOutput=append:/log",
            "--property=ExecStopPost=-/bin/systemctl --no-block start opq-box-agent.service",
            f"--setenv=OPQ_VERSION={NEW}",
            "--setenv=OPQ_REBOOT=no",
            "--setenv=OPQ_UNIT=opq-box-install.service",
            f"--description=OPQ box: opq-box-install, of release {NEW}",
        ):
            self.assertIn(option, argv)

    def test_running(self) -> None:
        """systemd tells whether a unit runs."""
        argv = self.asked(lambda scripts: Deferred.fromCoroutine(scripts.is_running("opq-x")))
        self.assertEqual(
            argv, ["systemctl", "show", "--property=ActiveState", "--value", "opq-x.service"]
        )
