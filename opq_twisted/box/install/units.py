"""Runs the scripts of a release in transient systemd units, independent of the agent's unit."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import Deferred

from opq_twisted.box.install.processes import TERMINATION_GRACE, ProcessResult, ProcessRunner

#: Exists if systemd is the first process (sd_booted(3)).
SYSTEMD = Path("/run/systemd/system")

#: Seconds that systemd may take to start a unit, and to report its end.
_UNIT_GRACE = 60.0

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@frozen
class TransientUnits:
    """
    Runs one script at a time under each name.

    With systemd, each script runs in a unit of its own: it continues if the agent's unit is
    stopped, and has none of the restrictions of that unit. Without systemd, it runs in a session
    of its own.
    """

    runner: ProcessRunner
    prefix: Path
    state_dir: Path
    has_systemd: bool
    #: The agent's own unit, which is started again after a script; None if there is none.
    agent: str | None = None

    def run(
        self,
        name: str,
        argv: Sequence[str],
        folder: Path,
        version: int,
        timeout: float,
        log: Path | None = None,
    ) -> Deferred[ProcessResult]:
        """
        Run a script in its folder, without input, with the environment that releases rely on.

        It continues when the Deferred is cancelled, and when the agent ends.

        :param name: of the unit.
        :param argv: the program must be in the usual path, or have an absolute path, for systemd.
        :param version: of the release.
        :param timeout: seconds until the script and its children get SIGTERM, and then SIGKILL.
        :param log: a file to which the output is appended; otherwise the result has its end.
        :raises OSError: if the script cannot be started, or the log cannot be opened.
        """
        env = self._environment(version)
        if self.has_systemd:
            # Without this variable, install_update.sh moves itself into a unit of its own.
            env["OPQ_UNIT"] = f"{name}.service"
            return self.runner.run(
                [
                    *self._systemd_run(name, folder, env, timeout, log),
                    # systemd would expand $ itself (systemd.service(5), command lines).
                    *(each.replace("$", "$$") for each in argv),
                ],
                timeout + TERMINATION_GRACE + _UNIT_GRACE,
                env={"PATH": _PATH},
                survives_agent=True,
            )
        files = {0: os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)}
        try:
            if log is not None:
                files[1] = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                files[2] = files[1]
            return self.runner.run(
                argv, timeout, env=env, folder=folder, files=files, survives_agent=True
            )
        finally:
            for fd in set(files.values()):
                os.close(fd)

    async def is_running(self, name: str) -> bool:
        """Whether the unit of this name runs, starts or stops."""
        if not self.has_systemd:
            return False
        unit = f"{name}.service"
        result = await self.systemctl("show", "--property=ActiveState", "--value", unit)
        return result.output.strip() in ("active", "activating", "deactivating", "reloading")

    async def stop(self, name: str) -> None:
        """Stop the unit of this name, with all of its processes."""
        if self.has_systemd:
            await self.systemctl("stop", f"{name}.service")

    def systemctl(self, *arguments: str) -> Deferred[ProcessResult]:
        """Run systemctl."""
        return self.runner.run(["systemctl", *arguments], _UNIT_GRACE, env={"PATH": _PATH})

    def _environment(self, version: int) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if key.startswith("OPQ_")}
        return {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            **ours,
            "OPQ_VERSION": str(version),
            "OPQ_PREFIX": os.fspath(self.prefix),
            "OPQ_STATE_DIR": os.fspath(self.state_dir),
            # The agent reboots the box itself, after it has recorded that in the journal.
            "OPQ_REBOOT": "no",
        }

    def _systemd_run(
        self, name: str, folder: Path, env: Mapping[str, str], timeout: float, log: Path | None
    ) -> list[str]:
        output = ["--pipe"]
        if log is not None:
            output = [f"--property=Standard{stream}=append:{log}" for stream in ("Output", "Error")]
        properties = {
            "RuntimeMaxSec": f"{timeout:.0f}",
            "TimeoutStopSec": f"{TERMINATION_GRACE:.0f}",
            # Processes that the script leaves behind are killed: daemons need units of their own.
            "KillMode": "control-group",
            # Its mounts end too: a rollback may have to remove the folder of a mount point.
            "PrivateMounts": "yes",
        }
        if self.agent is not None:
            properties["ExecStopPost"] = f"-/bin/systemctl --no-block start {self.agent}"
        return [
            *("systemd-run", "--quiet", "--collect", "--wait", f"--unit={name}"),
            # The default is the command, and systemd warns about each line of a longer one.
            f"--description=OPQ box: {name}, of release {env['OPQ_VERSION']}",
            "--service-type=exec",
            *output,
            f"--working-directory={folder}",
            *(f"--property={key}={value}" for key, value in properties.items()),
            *(f"--setenv={key}={value}" for key, value in env.items()),
            "--",
        ]


def own_unit() -> str | None:
    """Return the name of this process's systemd service; None if it has none."""
    try:
        unit = Path("/proc/self/cgroup").read_text().strip().rpartition("/")[2]
    except OSError:
        return None
    return unit if unit.endswith(".service") and "INVOCATION_ID" in os.environ else None
