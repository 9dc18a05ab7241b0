"""Runs `install_update.sh`, and reboots the box."""

import contextlib
import errno
import os
import signal
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater

from opq_twisted.archive.name import INSTALL_SCRIPT
from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.install.preflight import BOX_AT_FAULT
from opq_twisted.box.install.processes import TERMINATION_GRACE, ProcessResult, ProcessRunner
from opq_twisted.box.install.shortage import code_of, find_shortage
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common import files
from opq_twisted.common.errors import (
    MACHINE_BUSY,
    BoxAtFault,
    BoxUnfit,
    InstallFailed,
    InstallTimedOut,
    NotStarted,
    RebootFailed,
)

#: The systemd unit in which `install_update.sh` runs.
UNIT = "opq-box-install"

_PLACE = "place"
_PLACE_TIMEOUT = 120.0
_REBOOT_TIMEOUT = 120.0
_KEPT_LOGS = 5

#: Bytes at which the log is emptied, and seconds between two checks of its size.
_MAX_LOG = 16 * 1024**2
_LOG_CHECK_INTERVAL = 5.0
#: Bytes that must be free for a log, and bytes at its end that are searched for a reason.
_LOG_ROOM = 64 * 1024
_LOG_END = 4096
#: Characters.
_MAX_REASON = 300
#: The standard script's sentences begin with this.
_PREFIX = f"{INSTALL_SCRIPT}: "

# Records the leader of the process group, and later the exit status, for a restarted agent.
_KEEP_STATUS = """
echo "$PPID" >"$3"
status=0
"./$1" || status=$?
printf '%s\\n' "$status" >"$2.new" && sync "$2.new" && mv "$2.new" "$2"
exit "$status"
"""


def _own_words(line: str) -> str:
    return "".join(filter(str.isprintable, line.removeprefix(_PREFIX)))[:_MAX_REASON]


class Installer:
    """Runs one installation at a time, which continues when the agent ends."""

    def __init__(self, runner: ProcessRunner, units: TransientUnits, config: UpdaterConfig) -> None:
        self._runner = runner
        self._units = units
        self._config = config
        self._state_dir = units.state_dir
        self._status = units.state_dir / "install.status"
        self._lock = units.state_dir / "install.lock"
        #: The log of the script's output.
        self._log = config.log
        #: Called each second while the machine is too busy to check whether the script runs.
        self.when_busy: Callable[[OSError], object] = lambda _: None

    def forget(self) -> None:
        """
        Remove the exit status of the last installation, before the journal records the next one.

        :raises OSError: if the disk fails.
        """
        self._status.unlink(missing_ok=True)
        self._lock.write_bytes(b"")
        files.sync_folder(self._state_dir)

    async def install(self, folder: Path, version: int, rolling_back: bool = False) -> None:
        """
        Run the update's script in its folder.

        Its output goes to the log and its exit status to a file, so that it can continue without
        the agent.

        :param rolling_back: append to the log, to keep the output of the failed release.
        :raises InstallTimedOut: if the script takes too long.
        :raises InstallFailed: if it fails.
        :raises BoxAtFault: if the script blames the box, and has changed nothing.
        :raises NotStarted: if the script did not run, for example because no process could be
            created; this is the box's fault.
        :raises OSError: if the disk fails, or the machine is too busy to learn how it ended.
        """
        self._log = self._begin_log(f"Going back to release {version}:" if rolling_back else None)
        try:
            running = self._start(folder, version)
        except OSError as error:
            raise NotStarted(f"The install script was not started: {error.strerror}.") from None
        begun = self._runner.clock.seconds()
        limiting = LoopingCall(self._limit_log)
        limiting.clock = self._runner.clock
        limiting.start(_LOG_CHECK_INTERVAL)
        try:
            result = await running
        finally:
            limiting.stop()
        took = self._runner.clock.seconds() - begun
        # systemd-run may fail before the script starts, and also while it continues to run.
        if result.status != 0 and (status := await self.wait()) != 0:
            # The script may remove the lock file, but not the status, which is written afterwards.
            if status is None and not self._lock.stat().st_size:
                reason = result.last_line or f"the program that starts it {result}"
                raise NotStarted(f"The install script was not started: {reason}.")
            if status == BOX_AT_FAULT:
                raise self.box_at_fault()
            # systemd-run does not say that systemd has ended the script, which leaves no status.
            timed_out = status is None and took >= int(self._config.install_timeout)
            kind = InstallTimedOut if result.timed_out or timed_out else InstallFailed
            # Other scripts than the standard one may end with any line.
            line = self._last_line
            said = f": {_own_words(line).rstrip('.')}" if line.startswith(_PREFIX) else ""
            raise kind(f"{INSTALL_SCRIPT} {result}{said}. See {self._log}.")

    def _start(self, folder: Path, version: int) -> Deferred[ProcessResult]:
        return self._units.run(
            UNIT,
            # The lock shows a restarted agent that the script still runs. flock holds it itself;
            # because of --close, daemons that the script starts do not inherit it.
            [
                *("flock", "--close", os.fspath(self._lock)),
                *("sh", "-c", _KEEP_STATUS, "sh", INSTALL_SCRIPT, os.fspath(self._status)),
                os.fspath(self._lock),
            ],
            folder,
            version,
            self._config.install_timeout,
            self._log,
        )

    def box_at_fault(self) -> BoxAtFault:
        """Make the error of a script that blames the box; its last line is the reason."""
        line = self._last_line
        return BoxAtFault(
            _own_words(line) or f"{INSTALL_SCRIPT} found this box at fault, and gave no reason.",
            touched=False,
            code=code_of(line),
        )

    @property
    def shortage(self) -> BoxUnfit | None:
        """
        What the box was short of when the script failed; None if nothing.

        It is found at the end of the log, because a shortage may be over when the box is checked.
        """
        found = find_shortage(self._log_end)
        if found is None:
            return None
        message, code = found
        return BoxUnfit(f"The box lacked resources meanwhile: {message}.", code=code)

    @property
    def _last_line(self) -> str:
        return self._log_end.strip().rpartition("\n")[2]

    @property
    def _log_end(self) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _LOG_END))
                return file.read(_LOG_END).decode("utf-8", "replace")
        except OSError:
            return ""

    async def wait(self) -> int | None:
        """
        Wait for the end of a script that an earlier run of the agent started.

        :returns: its exit status; None if it left none, as after a power cut.
        :raises InstallTimedOut: if it takes too long.
        :raises OSError: if the disk fails, or the machine is too busy all the time.
        """
        left = self._config.install_timeout
        while await self._may_run(left > 0):
            if left <= 0:
                await self._stop()
                raise InstallTimedOut(f"{INSTALL_SCRIPT} took too long. See {self._config.log}.")
            left -= 1
            await deferLater(self._runner.clock, 1)
            self._limit_log()
        try:
            return int(self._status.read_text())
        except (FileNotFoundError, ValueError):
            return None

    async def _may_run(self, has_time: bool) -> bool:
        """Whether the script runs, or might run because the machine is too busy to check."""
        try:
            return self._is_locked() or await self._units.is_running(UNIT)
        except OSError as error:
            if has_time and error.errno in MACHINE_BUSY:
                self.when_busy(error)
                return True
            raise

    async def _stop(self) -> None:
        """Stop a script that an earlier run of the agent started, with its process group."""
        await self._units.stop(UNIT)
        try:
            leader = int(self._lock.read_text())
        except ValueError:
            # The script was killed before it could record its process group.
            return
        for number, grace in ((signal.SIGTERM, TERMINATION_GRACE), (signal.SIGKILL, 0.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, number)
            await deferLater(self._runner.clock, grace)

    async def renew_rescue(self, version: int) -> None:
        """
        Install the rescue script of the confirmed release, on a box with systemd.

        :raises InstallFailed: if this fails; the previous rescue script stays.
        :raises OSError: if the release's script for this cannot be started.
        """
        folder = self._config.prefix / "current" / "box-configuration-daemon" / "rescue"
        if self._units.has_systemd and (folder / _PLACE).exists():
            result = await self._units.run(
                "opq-box-place-rescue", [str(folder / _PLACE)], folder, version, _PLACE_TIMEOUT
            )
            if result.status != 0:
                raise InstallFailed(f"{folder / _PLACE} {result}. {result.output.strip()}".strip())

    async def reboot(self) -> None:
        """Run the reboot command, which also ends the agent; raises RebootFailed if it fails."""
        command = self._config.reboot_command
        try:
            result = await self._runner.run(
                command, _REBOOT_TIMEOUT, env={**os.environ}, survives_agent=True
            )
        except OSError as error:
            raise RebootFailed(f"{command[0]} cannot be started: {error.strerror}.") from None
        if result.status != 0:
            raise RebootFailed(
                f"The reboot command {' '.join(command)} {result}. Reboot the box by hand. "
                f"{result.output.strip()[-200:]}".strip()
            )

    def _begin_log(self, heading: str | None) -> Path:
        """
        Start a new log and rotate the older ones, or append a heading to the current log.

        :returns: the log, elsewhere or /dev/null if it cannot be written: the update may be what
            makes room.
        """
        for log in (self._config.log, self._state_dir / self._config.log.name):
            with contextlib.suppress(OSError):
                _prepare_log(log, heading)
                return log
        return Path(os.devnull)

    def _limit_log(self) -> None:
        """Empty a log that is too long; the script, which appends, continues at its beginning."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > _MAX_LOG:
                os.truncate(self._log, 0)

    def _is_locked(self) -> bool:
        try:
            with files.locked(self._lock):
                return False
        except BlockingIOError:
            return True


def _prepare_log(log: Path, heading: str | None) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=log.parent, buffering=0) as probe:
        # On a full disk a file can be created, but not written.
        if probe.write(bytes(_LOG_ROOM)) < _LOG_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    logs = [log, *(log.with_name(f"{log.name}.{age}") for age in range(1, _KEPT_LOGS))]
    if heading is None:
        for newer, older in reversed(list(pairwise(logs))):
            if newer.exists():
                newer.replace(older)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n{heading}\n" if heading else "")
