"""Runs the scripts that a release brings, out of the reach of what confines or ends the agent."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import Deferred

from opq_twisted.box.install.processes import TERMINATION_GRACE, ProcessResult, ProcessRunner

#: It is there when systemd is the first process (sd_booted(3)).
SYSTEMD = Path("/run/systemd/system")

#: Seconds that systemd may take to start a unit, and to tell that it has ended.
_UNIT_GRACE = 60.0

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@frozen
class TransientUnits:
    """
    Runs one script at a time under each name.

    Where systemd runs each has a unit of its own: the agent's may be stopped meanwhile, and what
    the agent may not do does not bind it. Elsewhere it has a session of its own.
    """

    programs: ProcessRunner
    prefix: Path
    state_dir: Path
    #: Whether units can be made.
    units: bool
    #: The agent's own unit, which a script may have stopped; None when there is none.
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
        Run it in its folder, with no input, and what a release's scripts may rely on around it.

        It goes on when the Deferred is cancelled, and when the agent ends.

        :param name: of its unit.
        :param argv: a program on the usual path, or with an absolute one: systemd knows no other.
        :param version: of the release.
        :param timeout: seconds until it and all it has started get SIGTERM, and SIGKILL after that.
        :param log: where its output is appended; otherwise the last of it is in what is returned.
        :raises OSError: when it cannot be started, or the log cannot be opened.
        """
        env = self._environment(version)
        if self.units:
            # install_update.sh moves itself into a unit of its own where it has none.
            env["OPQ_UNIT"] = f"{name}.service"
            return self.programs.run(
                [
                    *self._unit(name, folder, env, timeout, log),
                    # systemd would put variables of its own in (systemd.service(5), command lines).
                    *(each.replace("$", "$$") for each in argv),
                ],
                timeout + TERMINATION_GRACE + _UNIT_GRACE,
                env={"PATH": _PATH},
                outlives_us=True,
            )
        files = {0: os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)}
        try:
            if log is not None:
                files[1] = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                files[2] = files[1]
            return self.programs.run(
                argv, timeout, env=env, folder=folder, files=files, outlives_us=True
            )
        finally:
            for fd in set(files.values()):
                os.close(fd)

    async def is_running(self, name: str) -> bool:
        """Whether a unit of this name works, or is about to."""
        if not self.units:
            return False
        unit = f"{name}.service"
        ended = await self.systemctl("show", "--property=ActiveState", "--value", unit)
        return ended.output.strip() in ("active", "activating", "deactivating", "reloading")

    async def end(self, name: str) -> None:
        """End the unit of this name, and all that it has started."""
        if self.units:
            await self.systemctl("stop", f"{name}.service")

    def systemctl(self, *arguments: str) -> Deferred[ProcessResult]:
        """Ask systemd."""
        return self.programs.run(["systemctl", *arguments], _UNIT_GRACE, env={"PATH": _PATH})

    def _environment(self, version: int) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if key.startswith("OPQ_")}
        return {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            **ours,
            "OPQ_VERSION": str(version),
            "OPQ_PREFIX": os.fspath(self.prefix),
            "OPQ_STATE_DIR": os.fspath(self.state_dir),
            # The agent reboots the box, when it has written down that it does.
            "OPQ_REBOOT": "no",
        }

    def _unit(
        self, name: str, folder: Path, env: Mapping[str, str], timeout: float, log: Path | None
    ) -> list[str]:
        output = ["--pipe"]
        if log is not None:
            output = [f"--property=Standard{stream}=append:{log}" for stream in ("Output", "Error")]
        properties = {
            "RuntimeMaxSec": f"{timeout:.0f}",
            "TimeoutStopSec": f"{TERMINATION_GRACE:.0f}",
            # What it starts and leaves behind ends with it: daemons belong into units of their own.
            "KillMode": "control-group",
            # So does what it mounts: the way back may lead through the removal of that folder.
            "PrivateMounts": "yes",
        }
        if self.agent is not None:
            properties["ExecStopPost"] = f"-/bin/systemctl --no-block start {self.agent}"
        return [
            *("systemd-run", "--quiet", "--collect", "--wait", f"--unit={name}"),
            # By default it is the command, and systemd warns of each line of one that has several.
            f"--description=OPQ box: {name}, of release {env['OPQ_VERSION']}",
            "--service-type=exec",
            *output,
            f"--working-directory={folder}",
            *(f"--property={key}={value}" for key, value in properties.items()),
            *(f"--setenv={key}={value}" for key, value in env.items()),
            "--",
        ]


def own_unit() -> str | None:
    """Tell the unit of this process; None when it is not a service of systemd's."""
    try:
        unit = Path("/proc/self/cgroup").read_text().strip().rpartition("/")[2]
    except OSError:
        return None
    return unit if unit.endswith(".service") and "INVOCATION_ID" in os.environ else None
