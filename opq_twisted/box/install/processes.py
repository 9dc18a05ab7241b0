"""Runs a program to its end, with a timeout, and keeps the end of its output."""

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from opq_twisted.common.errors import MACHINE_BUSY

#: Bytes at the end of the output that are kept.
_KEPT_OUTPUT = 4096

#: Seconds between SIGTERM and SIGKILL.
TERMINATION_GRACE = 10.0

#: Seconds that a program's children may hold its pipes open after it has ended.
PIPE_GRACE = 1.0

#: Kills a program when the agent ends: an unpacker of an earlier agent would disturb that of the
#: next one. If the agent ends before setpriv runs, only the changed parent process shows it.
_DIES_WITH_AGENT = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"'),
)


@frozen
class ProcessResult:
    """The exit status of a program, and the end of its output."""

    #: The exit status; or the negative signal number, as in `subprocess`.
    status: int
    #: The end of what it wrote to its pipes.
    output: str = ""
    #: Whether it was ended because of its timeout.
    timed_out: bool = False

    @property
    def last_line(self) -> str:
        """The last line of output, for use in a sentence; empty if there is none."""
        return self.output.strip().rpartition("\n")[2][-200:].rstrip(".")

    @property
    def reports_shortage(self) -> bool:
        """Whether the output says that the machine is short of descriptors, memory or processes."""
        return any(os.strerror(number) in self.output for number in MACHINE_BUSY)

    def __str__(self) -> str:
        if self.timed_out:
            return "took too long and was ended"
        if self.status < 0:
            return f"was ended by {_signal_name(-self.status)}"
        return f"ended with exit status {self.status}"


@frozen
class ProcessRunner:
    """Runs programs to their end."""

    clock: IReactorTime
    processes: IReactorProcess

    def run(
        self,
        argv: Sequence[str],
        timeout: float,
        env: Mapping[str, str],
        folder: Path | None = None,
        files: Mapping[int, int] | None = None,
        survives_agent: bool = False,
    ) -> Deferred[ProcessResult]:
        """
        Run a program in a session of its own, so that its whole process group can be ended.

        :param timeout: seconds until the group gets SIGTERM; after `TERMINATION_GRACE` more seconds
            it gets SIGKILL.
        :param files: the descriptors for the program, keyed by their numbers in the program. Its
            standard input, output and error are pipes unless they are given here.
        :param survives_agent: whether the program continues when the Deferred is cancelled, and
            when the agent ends. Otherwise it is killed, in the first case with its group.
        :raises OSError: if the program cannot be started.
        """
        program = _Program(self.clock, timeout, survives_agent)
        # setsid replaces itself with the program, which then leads its session and its group.
        self.processes.spawnProcess(
            program,
            "setsid",
            ["setsid", *(() if survives_agent else (*_DIES_WITH_AGENT, str(os.getpid()))), *argv],
            env=dict(env),
            path=None if folder is None else os.fspath(folder),
            childFDs={0: "w", 1: "r", 2: "r", **(files or {})},
        )
        return program.ended


class _Program(ProcessProtocol):
    def __init__(self, clock: IReactorTime, timeout: float, survives_agent: bool) -> None:
        self._clock = clock
        self._timeout = timeout
        self._survives_agent = survives_agent
        self._output = b""
        self._status: int | None = None
        self._timed_out = False
        self._group_has_grace = False
        self._alarm: IDelayedCall | None = None
        self._pid: int | None = None
        self.ended: Deferred[ProcessResult] = Deferred(self._cancelled)

    def connectionMade(self) -> None:
        assert self.transport is not None
        self._pid = self.transport.pid
        self.transport.closeStdin()
        self._alarm = self._clock.callLater(self._timeout, self._time_is_over)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._output = (self._output + data)[-_KEPT_OUTPUT:]

    def processExited(self, reason: Failure) -> None:
        # Do not wait for processEnded: grandchildren may hold the pipes open.
        self._status = _status(reason)
        if not self._group_has_grace:
            self._set_alarm(PIPE_GRACE, self._finish)

    def processEnded(self, reason: Failure) -> None:
        if not self._group_has_grace:
            self._finish()

    def _finish(self) -> None:
        self._set_alarm(None)
        if not self.ended.called and self._status is not None:
            output = self._output.decode("utf-8", "replace")
            self.ended.callback(ProcessResult(self._status, output, self._timed_out))

    def _time_is_over(self) -> None:
        self._timed_out = True
        self._signal(signal.SIGTERM)
        self._group_has_grace = True
        self._set_alarm(TERMINATION_GRACE, self._grace_is_over)

    def _grace_is_over(self) -> None:
        # The leader may have ended at once, while others of its group have not.
        self._group_has_grace = False
        self._signal(signal.SIGKILL)
        self._finish()

    def _cancelled(self, _: object) -> None:
        self._set_alarm(None)
        if not self._survives_agent:
            self._signal(signal.SIGKILL)

    def _set_alarm(self, delay: float | None, call: Any = None) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None if delay is None else self._clock.callLater(delay, call)

    def _signal(self, number: signal.Signals) -> None:
        assert self._pid is not None
        assert self.transport is not None
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            # The group has ended, or setsid has not created it yet.
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess(number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Most real-time signals have no name.
        return f"signal {number}"


def _status(reason: Failure) -> int:
    error = reason.value
    if not isinstance(error, ProcessTerminated):
        return 0
    return -error.signal if error.signal else error.exitCode or 0
