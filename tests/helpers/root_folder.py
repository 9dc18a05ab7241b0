"""A folder that stands for a machine's root, in which install_update.sh and the rescue run."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Self

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.name import parse_version
from tests.helpers.privileges import lacking, own_mounts
from tests.helpers.project import PROJECT

SHIPPED = PROJECT / "deploy" / "box"
AGENT = "box-configuration-daemon"
#: What is beside the units of releases, and of none.
RESCUE_UNITS = (
    *("opq-box-agent.service.d", "opq-box-rescue.service", "opq-box-rescue.timer"),
    "timers.target.wants",
)
ENABLED = "--quiet enable --now opq-box-rescue.timer"
FINISH = "opq-box-install-finish.service"
#: What systemctl is asked when the script goes on in a unit of its own, and when that ends.
BEGIN_FINISH = ["daemon-reload", f"--quiet enable {FINISH}", f"start {FINISH}"]
END_FINISH = f"--quiet disable {FINISH}"

Result = subprocess.CompletedProcess[str]

#: Stands in for Python, pip and twistd, each of which would take seconds.
PYTHON = """#!/bin/sh
case $* in
    "-I -m venv "*)
        mkdir -p "$5/bin" "$5/lib/python3.11/site-packages"
        cp "$0" "$5/bin/python" && : >"$5/bin/twistd"
        ;;
    *version_info*) echo 3.11 ;;
    *" --target "*)
        while [ "$1" != --target ]; do shift; done
        mkdir -p "$2/bin" && [ ! -e "$STATE/lacks-$4" ]
        ;;
    *) echo "$0" "$@" ;;
esac
"""
BAD_CONFIGURATION = """    *" config "*)
        shift "$(($# - 1))"
        echo "updates_ep is wrong in $1." >&2
        exit 1
        ;;
    *)"""
#: Like the real one it neither stops nor disables a unit that has no file, knows which services are
#: enabled and which are active, from $STATE, and runs a oneshot unit to its end when it is started.
#: The log has no questions. When old.service is stopped, the process group in $STATE/caller ends.
SYSTEMCTL = r"""#!/bin/sh
for last; do :; done
units=/etc/systemd/system
wanted=$units/timers.target.wants/opq-box-rescue.timer
case $* in
    *is-enabled*) [ -e "$wanted" ]; exit ;;
    *is-active*) [ -e "$STATE/active/$last" ]; exit ;;
    list-unit-files*) cd "$STATE/enabled" && ls | sed 's/$/ enabled enabled/'; exit ;;
    show*) [ ! -e "$STATE/ExecStart" ] || cat "$STATE/ExecStart"; exit ;;
esac
echo "$*" >>"$SYSTEMCTL_LOG"
case $* in *"enable --now opq-box-rescue.timer") mkdir -p "${wanted%/*}" && : >"$wanted" ;; esac
for unit; do
    case $unit in *.service) [ -f "$units/$unit" ] || exit 5 ;; *) continue ;; esac
    case $* in
        *disable*) rm -f "$STATE/enabled/$unit" ;;
        *enable*) : >"$STATE/enabled/$unit" ;;
    esac
    case $* in
        *stop* | *--now*)
            rm -f "$STATE/active/$unit"
            [ "$unit" != old.service ] || [ ! -s "$STATE/caller" ] ||
                kill -9 "-$(cat "$STATE/caller")"
            ;;
        *start*)
            : >"$STATE/active/$unit"
            grep -q Type=oneshot "$units/$unit" || continue
            log=$(sed -n 's/^StandardOutput=append://p' "$units/$unit")
            (
                unset OPQ_REBOOT
                eval "set -- $(cat "$units/$unit" "/run/systemd/system/$unit.d/"*.conf 2>/dev/null |
                    sed -n 's/^Environment=//p' | tr '\n' ' ')"
                script=$(sed -n 's/^ExecStart=//p' "$units/$unit")
                setsid --wait env "$@" ${FINISH_SHELL:-} "$script" >>"${log:-/dev/null}" 2>&1
            )
            status=$?
            rm -f "$STATE/active/$unit"
            [ "$status" -eq 0 ] || exit "$status"
            ;;
    esac
done
"""
#: bash reads this before the script; of the script's commands the KILL_AT-th is not run any more.
KILLER = """
set -o functrace
trap '[ "$BASH_SUBSHELL" -gt 0 ] || [ "$((KILL_AT -= 1))" -gt 0 ] || kill -9 0' DEBUG
"""
#: Gives the script a folder of ours as the root of what it changes, and systemd's mark.
ENTER = """
for folder in etc run opt usr/local/bin var/lib var/log; do
    mount --bind "$BOX/$folder" "/$folder"
done
exec "$@"
"""


def require_shell(name: str, reason: str) -> None:
    """Skip a test where a shell is missing."""
    if shutil.which(name) is None:
        raise lacking(reason)


def require_bash() -> None:
    """Skip a test that kills a script before a command of it, where there is no bash."""
    require_shell("bash", "Only bash can stop a script before each command.")


@cache
def namespace() -> list[str]:
    """Return the command that runs another as root in the folder that stands for the root."""
    return [*own_mounts(), "sh", "-euc", ENTER, "sh"]


class RootFolder:
    """A folder that stands for a machine's root, with updates unpacked in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = folder / "opt" / "opq"
        self.units = folder / "etc" / "systemd" / "system"
        self.config = folder / "etc" / "opq" / "opqbox_config.json"
        self.root = folder / "etc" / "opq" / "root.json"
        self.image_file = self.prefix / "IMAGE_VERSION"
        self.calls = folder / "systemctl.log"
        self.update_log = folder / "var" / "log" / "opq" / "box_update.log"
        #: The services that are enabled, and those that are active.
        self.services = folder / "systemd"

    @classmethod
    def fresh(cls, folder: Path) -> Self:
        box = cls(folder)
        for path in (
            "opt",
            "etc/systemd/system",
            "run/systemd/system",
            "usr/local/bin",
            "var/lib",
            "var/log",
            "bin",
            "systemd/enabled",
            "systemd/active",
        ):
            (folder / path).mkdir(parents=True)
        (folder / "killer").write_text(KILLER)
        box.tool("python", PYTHON)
        box.tool("systemctl", SYSTEMCTL)
        return box

    @property
    def state_dir(self) -> Path:
        """The agent's state directory."""
        return self.folder / "var" / "lib" / "opq" / "updater"

    def copy(self, folder: Path) -> Self:
        shutil.copytree(self.folder, folder, symlinks=True)
        return type(self)(folder)

    def tool(self, name: str, script: str) -> None:
        """Put a program first on the script's PATH."""
        executable(self.folder / "bin" / name, script)

    def older_daemon(self) -> None:
        """Give the box the daemon of the older updater, enabled and active."""
        (self.units / "old.service").write_text("[Service]\nExecStart=/usr/local/old\n")
        for state in ("enabled", "active"):
            (self.services / state / "old.service").touch()

    def is_service(self, state: str, unit: str) -> bool:
        """Whether a service is "enabled", or "active"."""
        return (self.services / state / unit).exists()

    def unpack(self, version: int) -> Path:
        """Lay out an update as its archive unpacks, without Python code to run."""
        update = self.folder / f"opq-box-update-{version}"
        shutil.copytree(SHIPPED, update / AGENT)
        (update / AGENT / "install_update.sh").rename(update / "install_update.sh")
        (update / "VERSION").write_text(f"{version}\n")
        (update / "wheels").mkdir()
        return update

    def run(self, version: int, *shell: str, managed: bool = False, **environment: str) -> Result:
        """Run an update's script, as root where systemd runs if `managed`, else in a sandbox."""
        return self._run(version, shell, (), managed, environment)

    def type(
        self, version: int, *arguments: str, managed: bool = False, **environment: str
    ) -> Result:
        """Run an update's script with arguments."""
        return self._run(version, (), arguments, managed, environment)

    def _run(
        self,
        version: int,
        shell: tuple[str, ...],
        arguments: tuple[str, ...],
        managed: bool,
        environment: dict[str, str],
    ) -> Result:
        script = str(self.folder / f"opq-box-update-{version}" / "install_update.sh")
        if managed:
            return self.call(*shell, script, *arguments, **environment)
        sandbox = {
            "OPQ_PREFIX": str(self.prefix),
            "OPQ_SYSTEMD": "no",
            "OPQ_VERSION": str(version),
        }
        return self._start([*shell, script, *arguments], {**sandbox, **environment})

    def changeable(self) -> list[Path]:
        """List all that the script can change."""
        return [
            path
            for name in ("etc", "run", "opt", "usr", "var")
            for path in (self.folder / name).rglob("*")
        ]

    def boot(self, **environment: str) -> Result:
        """Start the unit of an interrupted installation, if it is enabled, as a boot does."""
        shutil.rmtree(self.folder / "run" / "systemd" / "system")
        (self.folder / "run" / "systemd" / "system").mkdir()
        if not self.is_service("enabled", FINISH):
            return Result([], 0, "", "")
        return self.call("systemctl", "start", FINISH, **environment)

    def call(self, *command: str, **environment: str) -> Result:
        """Run a command as root on the box, where systemd runs."""
        return self._start([*namespace(), *command], environment)

    def _start(self, command: list[str], environment: dict[str, str]) -> Result:
        return subprocess.run(
            command,
            env={
                **self.environment,
                "OPQ_PYTHON": str(self.folder / "bin" / "python"),
                **environment,
            },
            capture_output=True,
            text=True,
            start_new_session=True,  # A group of its own, for the killer to kill.
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command on the box."""
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "BOX": str(self.folder),
            "SYSTEMCTL_LOG": str(self.calls),
            "STATE": str(self.services),
            "BASH_ENV": str(self.folder / "killer"),
        }

    def install(self, version: int, *, managed: bool = False, **environment: str) -> str:
        """Run an update's script to its end and return what it said."""
        result = self.run(version, managed=managed, **environment)
        assert result.returncode == 0, result
        return result.stdout

    def version(self, link: str) -> int | None:
        """Return the version of the whole release behind a link, None if there is none."""
        folder = (self.prefix / link).resolve()
        if not (folder / "VERSION").exists():
            return None
        assert (folder / AGENT / "bin" / "opq-box-agent").exists()
        assert (folder / AGENT / "opqbox_config.json").exists()
        assert (folder / "venv" / "bin" / "twistd").exists()
        assert (
            folder == self.prefix.resolve() / "releases" / (folder / "VERSION").read_text().strip()
        )
        return int(folder.name)

    def state(self) -> tuple[int | None, int | None, set[str]]:
        """Return the current version, the previous one, and the names of all releases."""
        names = {path.name for path in (self.prefix / "releases").iterdir()}
        return self.version("current"), self.version("previous"), names

    def image(self) -> int | None:
        """Return the version on record as the image's, None if there is none."""
        return parse_version(self.image_file.read_text()) if self.image_file.exists() else None

    @property
    def is_timer_enabled(self) -> bool:
        """Whether the rescue's timer is started with the box."""
        return (self.units / "timers.target.wants" / "opq-box-rescue.timer").exists()

    def asked(self) -> list[str]:
        """Return what systemctl was asked to do since the last call."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return lines


def executable(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


def service(update: Path, component: str, name: str) -> None:
    """Give an update's component a service."""
    folder = update / component / "systemd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"[Service]\nExecStart=/opt/opq/current/{component}/run\n")


class InstallCase(SynchronousTestCase):
    """A box in a folder of its own, whose path has a space in it."""

    def setUp(self) -> None:
        self.box = RootFolder.fresh(Path(self.mktemp()).absolute() / "a box")

    def install(self, *versions: int, **options: Any) -> str:
        """Unpack and install releases, one after the other; return the last one's output."""
        said = ""
        for version in versions:
            self.box.unpack(version)
            said = self.box.install(version, **options)
        return said

    def assert_refused(self, result: Result, *words: str) -> None:
        self.assertEqual(result.returncode, 1)
        self.assertTrue(result.stderr.startswith("install_update.sh: "), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1)
        for word in words:
            self.assertIn(word, result.stderr)
