"""Runs `install_update.sh`, and asks the box to reboot."""

import contextlib
import fcntl
import os
import signal
from itertools import pairwise
from pathlib import Path

from twisted.internet.task import deferLater

from opq_twisted import durable
from opq_twisted.box.config import UpdaterConfig
from opq_twisted.box.processes import TERMINATION_GRACE, Ended, Programs
from opq_twisted.errors import InstallFailed, RebootFailed

SCRIPT = "install_update.sh"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REBOOT_TIMEOUT = 120.0
_KEPT_LOGS = 5

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

    def __init__(self, programs: Programs, config: UpdaterConfig, state_dir: Path) -> None:
        self._programs = programs
        self._config = config
        self._state_dir = state_dir
        self._status = state_dir / "install.status"
        self._lock = state_dir / "install.lock"

    def forget(self) -> None:
        """
        Forget how the last installation ended, before the journal says that the next one begins.

        :raises OSError: when the disk fails.
        """
        self._status.unlink(missing_ok=True)
        durable.sync_folder(self._state_dir)

    async def install(self, folder: Path, version: int) -> None:
        """
        Run the update's script in its folder.

        It has a session of its own, its output goes to the log and its exit status to a file, so
        that it neither ends with the agent nor needs it.

        :raises InstallFailed: when it cannot be started, fails, or takes too long.
        """
        log = self._open_log()
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ended = self._programs.run(
                # flock tells an agent that was restarted that the script still runs: it holds the
                # lock itself, and --close keeps it from daemons that the script starts.
                [
                    *("flock", "--close", os.fspath(self._lock)),
                    *("sh", "-c", _KEEP_STATUS, "sh", SCRIPT, os.fspath(self._status)),
                    os.fspath(self._lock),
                ],
                timeout=self._config.install_timeout,
                env=self._environment(version),
                folder=folder,
                files={0: nothing, 1: log, 2: log},
                outlives_us=True,
            )
        except OSError as error:
            raise InstallFailed(f"{SCRIPT} cannot be started: {error.strerror}.") from None
        finally:
            os.close(log)
            os.close(nothing)
        self._judge(await ended)

    async def wait(self) -> int | None:
        """
        Wait for a script that an earlier run of the agent started.

        :returns: its exit status; None when it ended without one, as in a power cut.
        :raises InstallFailed: when it does not end in time.
        """
        left = self._config.install_timeout
        while self._is_running():
            if left <= 0:
                await self._end()
                raise InstallFailed(f"{SCRIPT} took too long. See {self._config.log}.")
            left -= 1
            await deferLater(self._programs.clock, 1)
        try:
            return int(self._status.read_text())
        except (FileNotFoundError, ValueError):
            return None

    async def _end(self) -> None:
        """End the group of a script that an earlier run of the agent started."""
        try:
            leader = int(self._lock.read_text())
        except ValueError:
            # It was killed before it could write down who it is.
            return
        for number, grace in ((signal.SIGTERM, TERMINATION_GRACE), (signal.SIGKILL, 0.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, number)
            await deferLater(self._programs.clock, grace)

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

    def _judge(self, ended: Ended) -> None:
        if ended.status != 0:
            raise InstallFailed(f"{SCRIPT} {ended}. See {self._config.log} for what it said.")

    def _environment(self, version: int) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if key.startswith("OPQ_")}
        return {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            **ours,
            "OPQ_VERSION": str(version),
            "OPQ_PREFIX": os.fspath(self._config.prefix),
            "OPQ_STATE_DIR": os.fspath(self._state_dir),
            # The agent reboots the box, when it has written down that it does.
            "OPQ_REBOOT": "no",
        }

    def _open_log(self) -> int:
        """Begin a new log, and keep the last few."""
        log = self._config.log
        log.parent.mkdir(parents=True, exist_ok=True)
        logs = [log, *(log.with_name(f"{log.name}.{age}") for age in range(1, _KEPT_LOGS))]
        for newer, older in reversed(list(pairwise(logs))):
            if newer.exists():
                newer.replace(older)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def _is_running(self) -> bool:
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False
