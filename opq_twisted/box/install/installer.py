"""Runs `install_update.sh`, and asks the box to reboot."""

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
from opq_twisted.box.config import UpdaterConfig
from opq_twisted.box.install.preflight import BOX_AT_FAULT
from opq_twisted.box.install.processes import TERMINATION_GRACE, ProcessResult, ProcessRunner
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common import files
from opq_twisted.common.errors import (
    MACHINE_BUSY,
    BoxAtFault,
    InstallFailed,
    NotStarted,
    RebootFailed,
)

#: The name of the unit that it has where systemd runs.
UNIT = "opq-box-install"

_PLACE = "place"
_PLACE_TIMEOUT = 120.0
_REBOOT_TIMEOUT = 120.0
_KEPT_LOGS = 5

#: Bytes, and seconds.
_MAX_LOG = 16 * 1024**2
_LOG_CHECKED_EVERY = 5.0
_LOG_ROOM = 64 * 1024
_LOG_END = 4096
_MAX_REASON = 300

#: What programs write when the machine has no more of something; dash does not give the reason.
_SHORTAGES = (
    *map(os.strerror, (*MACHINE_BUSY, errno.ENOSPC, errno.EDQUOT)),
    *("Cannot fork", "MemoryError", "can't start new thread", "Out of memory"),
)

# Keeps the group's leader, and then the exit status, where an agent that was restarted finds them.
_KEEP_STATUS = """
echo "$PPID" >"$3"
status=0
"./$1" || status=$?
printf '%s\\n' "$status" >"$2.new" && sync "$2.new" && mv "$2.new" "$2"
exit "$status"
"""


class Installer:
    """Runs one installation at a time, which goes on when the agent does not."""

    def __init__(
        self, programs: ProcessRunner, scripts: TransientUnits, config: UpdaterConfig
    ) -> None:
        self._programs = programs
        self._scripts = scripts
        self._config = config
        self._state_dir = scripts.state_dir
        self._status = scripts.state_dir / "install.status"
        self._lock = scripts.state_dir / "install.lock"
        #: Where the output of the script goes.
        self._log = config.log
        #: Called each second while the machine is too busy to find out whether a script runs.
        self.when_busy: Callable[[OSError], object] = lambda _: None

    def forget(self) -> None:
        """
        Forget how the last installation ended, before the journal says that the next one begins.

        :raises OSError: when the disk fails.
        """
        self._status.unlink(missing_ok=True)
        self._lock.write_bytes(b"")
        files.sync_folder(self._state_dir)

    async def install(self, folder: Path, version: int, rolling_back: bool = False) -> None:
        """
        Run the update's script in its folder.

        Its output goes to the log and its exit status to a file, so that it neither ends with the
        agent nor needs it.

        :param rolling_back: what a bad release said stays in the log, and this comes below.

        :raises InstallFailed: when it fails, or takes too long.
        :raises BoxAtFault: when it says that the box is to blame, and is as it was.
        :raises NotStarted: when it did not run, also for want of a process: the box is to blame.
        :raises OSError: when the disk fails, or the machine is too busy to learn how it ended.
        """
        self._log = self._begin_log(f"Going back to release {version}:" if rolling_back else None)
        try:
            running = self._start(folder, version)
        except OSError as error:
            raise NotStarted(f"The install script was not started: {error.strerror}.") from None
        bounding = LoopingCall(self._bound_log)
        bounding.clock = self._programs.clock
        bounding.start(_LOG_CHECKED_EVERY)
        try:
            ended = await running
        finally:
            bounding.stop()
        # What runs the script for us may fail before it begins, and while it goes on.
        if ended.status != 0 and (status := await self.wait()) != 0:
            # A script may remove the lock, but not the status that is written after it.
            if status is None and not self._lock.stat().st_size:
                why = ended.last_line or f"what was to start it {ended}"
                raise NotStarted(f"The install script was not started: {why}.")
            if status == BOX_AT_FAULT:
                raise self.box_at_fault()
            raise InstallFailed(f"{INSTALL_SCRIPT} {ended}. See {self._log} for what it said.")

    def _start(self, folder: Path, version: int) -> Deferred[ProcessResult]:
        return self._scripts.run(
            UNIT,
            # flock tells an agent that was restarted that the script still runs: it holds the lock
            # itself, and --close keeps it from daemons that the script starts.
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
        """Give the reason of a script that found the box at fault: the last line that it wrote."""
        line = self._log_end.strip().rpartition("\n")[2].removeprefix(f"{INSTALL_SCRIPT}: ")
        reason = "".join(filter(str.isprintable, line))[:_MAX_REASON]
        return BoxAtFault(
            reason or f"{INSTALL_SCRIPT} found this box at fault, and did not say why.",
            touched=False,
        )

    @property
    def shortage(self) -> str | None:
        """
        What the box was short of when the script failed, by the last that it wrote, in a sentence.

        A shortage may be over by the time that the box is measured. None when it tells of none.
        """
        said = self._log_end
        found = next((words for words in _SHORTAGES if words in said), None)
        return found and f"The box was short of something meanwhile: {found}."

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
        Wait for a script that an earlier run of the agent started.

        :returns: its exit status; None when it ended without one, as in a power cut.
        :raises InstallFailed: when it does not end in time.
        :raises OSError: when the disk fails, or the machine is too busy for all of that time.
        """
        left = self._config.install_timeout
        while await self._may_run(left > 0):
            if left <= 0:
                await self._end()
                raise InstallFailed(f"{INSTALL_SCRIPT} took too long. See {self._config.log}.")
            left -= 1
            await deferLater(self._programs.clock, 1)
            self._bound_log()
        try:
            return int(self._status.read_text())
        except (FileNotFoundError, ValueError):
            return None

    async def _may_run(self, is_patient: bool) -> bool:
        """Whether the script runs, or the machine is too busy to tell."""
        try:
            return self._is_locked() or await self._scripts.is_running(UNIT)
        except OSError as error:
            if is_patient and error.errno in MACHINE_BUSY:
                self.when_busy(error)
                return True
            raise

    async def _end(self) -> None:
        """End a script that an earlier run of the agent started, and all of its group."""
        await self._scripts.end(UNIT)
        try:
            leader = int(self._lock.read_text())
        except ValueError:
            # It was killed before it could write down who it is.
            return
        for number, grace in ((signal.SIGTERM, TERMINATION_GRACE), (signal.SIGKILL, 0.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, number)
            await deferLater(self._programs.clock, grace)

    async def renew_rescue(self, version: int) -> None:
        """
        Let the release that has proved itself bring its own rescue script, where there can be one.

        :raises InstallFailed: when it cannot; the one before stays then.
        :raises OSError: when its script cannot be started.
        """
        folder = self._config.prefix / "current" / "box-configuration-daemon" / "rescue"
        if self._scripts.units and (folder / _PLACE).exists():
            ended = await self._scripts.run(
                "opq-box-place-rescue", [str(folder / _PLACE)], folder, version, _PLACE_TIMEOUT
            )
            if ended.status != 0:
                raise InstallFailed(f"{folder / _PLACE} {ended}. {ended.output.strip()}".strip())

    async def reboot(self) -> None:
        """
        Ask the box to reboot; it takes the agent with it.

        :raises RebootFailed: when the command cannot be started or fails.
        """
        command = self._config.reboot_command
        try:
            ended = await self._programs.run(
                command, _REBOOT_TIMEOUT, env={**os.environ}, outlives_us=True
            )
        except OSError as error:
            raise RebootFailed(f"{command[0]} cannot be started: {error.strerror}.") from None
        if ended.status != 0:
            raise RebootFailed(
                f"The reboot command {' '.join(command)} {ended}. Reboot the box by hand. "
                f"{ended.output.strip()[-200:]}".strip()
            )

    def _begin_log(self, chapter: str | None) -> Path:
        """
        Begin a new log, and keep the last few; or a chapter of the log that there is.

        :returns: the log; another one where none can be written there: an update may be what makes
            room.
        """
        for log in (self._config.log, self._state_dir / self._config.log.name):
            with contextlib.suppress(OSError):
                _rotate(log, chapter)
                return log
        return Path(os.devnull)

    def _bound_log(self) -> None:
        """Let a script that says too much begin its log anew: it appends."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > _MAX_LOG:
                os.truncate(self._log, 0)

    def _is_locked(self) -> bool:
        try:
            with files.locked(self._lock):
                return False
        except BlockingIOError:
            return True


def _rotate(log: Path, chapter: str | None) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=log.parent, buffering=0) as room:
        # A full disk takes a name, and no content.
        if room.write(bytes(_LOG_ROOM)) < _LOG_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    logs = [log, *(log.with_name(f"{log.name}.{age}") for age in range(1, _KEPT_LOGS))]
    if chapter is None:
        for newer, older in reversed(list(pairwise(logs))):
            if newer.exists():
                newer.replace(older)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n{chapter}\n" if chapter else "")
