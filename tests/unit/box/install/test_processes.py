"""Programs are run to their end, and killed with all their children at their timeout."""

import os
import shutil
import signal
import subprocess
import sys
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from opq_twisted.box.install.processes import (
    PIPE_GRACE,
    TERMINATION_GRACE,
    ProcessResult,
    ProcessRunner,
)
from tests.helpers.child_processes import ChildrenCase, Gate

ENV = {"PATH": os.defpath}

#: Starts a program that says when it has ended, and is killed.
KILLED = """
import os, signal
from twisted.internet import reactor
from opq_twisted.box.install.processes import ProcessRunner

env = {"PATH": os.environ["PATH"]}
ProcessRunner(reactor, reactor).run(["touch", "survived"], 60, env, files={3: 1})
os.kill(os.getpid(), signal.SIGKILL)
"""


class ProgramsTests(ChildrenCase):
    """Real programs."""

    def run_shell(self, script: str, **options: Any) -> Deferred[ProcessResult]:
        programs = ProcessRunner(self.clock, self.children)
        return programs.run(["sh", "-c", script], 60, ENV, **options)

    async def test_success(self) -> None:
        """A successful program has status 0, and its output and errors are kept."""
        ended = await self.run_shell("echo out; echo err >&2")
        self.assertEqual(ended.status, 0)
        self.assertEqual(sorted(ended.output.split()), ["err", "out"])
        self.assertEqual(str(ended), "ended with exit status 0")

    async def test_failure(self) -> None:
        """The result has the exit status."""
        ended = await self.run_shell("exit 3")
        self.assertEqual(ended, ProcessResult(3))
        self.assertEqual(str(ended), "ended with exit status 3")

    async def test_signal(self) -> None:
        """The result names the signal that ended a program."""
        ended = await self.run_shell("kill -SEGV $$")
        self.assertEqual(ended.status, -signal.SIGSEGV)
        self.assertEqual(str(ended), "was ended by SIGSEGV")
        self.assertEqual(str(ProcessResult(-40)), "was ended by signal 40")

    async def test_output_bounded(self) -> None:
        """Only the end of a long output is kept."""
        ended = await self.run_shell("yes 12345678 | head -c 1000000; echo; echo the end")
        self.assertLessEqual(len(ended.output), 4096)
        self.assertTrue(ended.output.endswith("the end\n"))

    async def test_output_not_utf8(self) -> None:
        """Output that is not text is shown as far as possible."""
        ended = await self.run_shell(r"printf 'a\377b'")
        self.assertEqual(ended.output, "a\N{REPLACEMENT CHARACTER}b")

    async def test_surroundings(self) -> None:
        """A program has the given environment and folder, its own session, and no input."""
        ended = await self.run_shell(
            'cat; pwd; echo "$HOME"; echo $$; cut -d " " -f 6 /proc/$$/stat', folder=self.root
        )
        folder, home, pid, session, _ = ended.output.split("\n")
        self.assertEqual((folder, home), (str(self.root.resolve()), ""))
        self.assertEqual(pid, session)

    async def test_missing(self) -> None:
        """A missing program is an error, which names it."""
        ended = await ProcessRunner(self.clock, self.children).run(["/nonexistent/reboot"], 60, ENV)
        self.assertEqual(ended.status, 127)
        self.assertIn("/nonexistent/reboot", ended.output)

    async def test_missing_folder(self) -> None:
        """A missing folder is an error."""
        ended = await self.run_shell("true", folder=self.root / "gone")
        self.assertNotEqual(ended.status, 0)

    async def test_timeout(self) -> None:
        """At its timeout, a program gets SIGTERM, and can clean up."""
        running = self.run_shell(
            "trap 'echo cleaned; exit 5' TERM; echo; while :; do sleep 1; done"
        )
        await self.children.wait("said")
        self.clock.advance(60)
        await self.children.wait("ended")
        self.clock.advance(TERMINATION_GRACE)
        ended = await running
        self.assertEqual((ended.status, ended.timed_out), (5, True))
        self.assertIn("cleaned", ended.output)
        self.assertEqual(str(ended), "took too long and was ended")

    async def test_timeout_kills(self) -> None:
        """A program that ignores SIGTERM is killed ten seconds later."""
        running = self.run_shell("trap '' TERM; echo; sleep 1000")
        await self.children.wait("said")
        self.clock.advance(60)
        self.assertNoResult(running)
        [alarm] = self.clock.getDelayedCalls()
        self.assertEqual(alarm.getTime() - self.clock.seconds(), 10)
        self.clock.advance(10)
        await self.children.wait("ended")
        ended = await running
        self.assertEqual((ended.status, ended.timed_out), (-signal.SIGKILL, True))

    async def test_timeout_kills_grandchildren(self) -> None:
        """At the timeout, the whole group is ended, even if its leader has ended before."""
        running = self.run_shell("(trap '' TERM; echo; sleep 1000) & wait")
        await self.children.wait("said")
        self.clock.advance(60)
        await self.children.wait("exited")
        self.assertNoResult(running)
        self.clock.advance(TERMINATION_GRACE)
        # Nobody holds the pipes any more.
        await self.children.wait("ended")
        self.assertTrue((await running).timed_out)

    async def test_pipe_held(self) -> None:
        """A child in the background that holds the pipes is not waited for."""
        running = self.run_shell("sleep 1000 & echo $$")
        await self.children.wait("said")
        await self.children.wait("exited")
        self.assertNoResult(running)
        self.clock.advance(PIPE_GRACE)
        ended = await running
        self.assertEqual(ended.status, 0)
        os.killpg(int(ended.output), signal.SIGKILL)
        await self.children.wait("ended")

    async def test_cancelled(self) -> None:
        """Cancelling kills the program and its children."""
        running = self.run_shell("trap '' TERM; (sleep 1000) & echo; sleep 1000")
        await self.children.wait("said")
        running.cancel()
        self.failureResultOf(running, CancelledError)
        await self.children.wait("ended")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_cancelled_at_once(self) -> None:
        """A program that has only just started is killed too."""
        running = self.run_shell(f"sleep 1000; touch {self.root}/survived")
        running.cancel()
        self.failureResultOf(running, CancelledError)
        await self.children.wait("ended")
        self.assertFalse((self.root / "survived").exists())

    async def test_outlives_us(self) -> None:
        """A program that survives the agent continues after cancelling."""
        gate = Gate(self.root / "gate")
        self.addCleanup(gate.close)
        running = self.run_shell(f"{gate.wait}; touch {self.root}/survived", survives_agent=True)
        await self.children.wait("started")
        running.cancel()
        self.failureResultOf(running, CancelledError)
        gate.open()
        await self.children.wait("ended")
        self.assertTrue((self.root / "survived").exists())

    def test_starter_killed(self) -> None:
        """Another program does not start if the agent has ended before."""
        gate = Gate(self.root / "gate")
        self.addCleanup(gate.close)
        late = self.root / "setpriv"
        late.write_text(f'#!/bin/sh\n{gate.wait}\nexec {shutil.which("setpriv")} "$@"\n')
        late.chmod(0o755)
        with subprocess.Popen(
            [sys.executable, "-c", KILLED],
            cwd=self.root,
            env={
                "PATH": f"{self.root}:{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            stdout=subprocess.PIPE,
        ) as starter:
            self.assertEqual(starter.wait(), -signal.SIGKILL)
            gate.open()
            assert starter.stdout is not None
            self.assertEqual(starter.stdout.read(), b"")
        self.assertFalse((self.root / "survived").exists())

    async def test_files(self) -> None:
        """A program that is given files has no pipes."""
        output = self.root / "output"
        with output.open("wb") as file:
            files = dict.fromkeys(range(3), file.fileno())
            ended = await self.run_shell("echo out; echo err >&2; exit 4", files=files)
        self.assertEqual(ended, ProcessResult(4))
        self.assertEqual(output.read_text(), "out\nerr\n")
