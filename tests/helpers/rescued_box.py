"""A folder that stands for a box whose agent does not start, for tests of the rescue."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.helpers.archives import make_archive
from tests.helpers.root_folder import SHIPPED, Result, RootFolder, namespace

#: Says that the agent failed, unless the test sets another result.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$SYSTEMCTL_LOG"
case $* in
    is-active*) echo "${AGENT_STATE:-failed}" ;;
    list-jobs*) echo "${JOBS:-}" ;;
esac
"""
#: Does what install_update.sh does with releases: it keeps the live one as it is.
INSTALLER = b"""#!/bin/sh
echo "I install release $OPQ_VERSION."
{ pwd -P; env | grep -E '^(OPQ_|LANG=)' | sort; } >"$OPQ_STATE_DIR/given"
release=$OPQ_PREFIX/releases/$OPQ_VERSION
[ "$(readlink "$OPQ_PREFIX/current")" = "releases/$OPQ_VERSION" ] &&
    [ -f "$release/VERSION" ] && exit
rm -f "$release/VERSION" && rm -rf "$release" && mkdir -p "$release" || exit
@HERE@
echo fresh >"$release/made"
cp VERSION "$release/VERSION"
ln -sfn "releases/$OPQ_VERSION" "$OPQ_PREFIX/.current.new"
mv -fT "$OPQ_PREFIX/.current.new" "$OPQ_PREFIX/current"
"""
#: Ends the rescue too, which leads the installer's session, as a power cut does.
POWER_CUT = b"read -r _ _ _ _ _ session _ </proc/$$/stat; kill -9 -$session $$"


def installer(here: bytes = b"") -> bytes:
    """Return an installer that runs these commands after removing the old release."""
    return INSTALLER.replace(b"@HERE@", here)


class RescuedBox(RootFolder):
    """A box whose agent does not start."""

    @property
    def state_dir(self) -> Path:
        """The agent's state directory."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """The log of the rescue."""
        return self.folder / "log" / "box_rescue.log"

    @property
    def archive(self) -> Path:
        """The last good archive."""
        return self.state_dir / "archives" / "opq-box-update-100.tar.bz2"

    @property
    def script(self) -> Path:
        """The rescue."""
        return self.prefix / "rescue" / "opq-box-rescue"

    def prepare(self) -> None:
        """Install the rescue."""
        self.script.parent.mkdir(parents=True)
        shutil.copy(SHIPPED / "rescue" / "opq-box-rescue", self.script)
        (self.state_dir / "archives").mkdir(parents=True)
        self.tool("systemctl", SYSTEMCTL)
        # Power cuts are only played here, and the disk of whoever tests has other things to do.
        self.tool("sync", "#!/bin/sh\n")
        self.tool("sleep", '#!/bin/sh\necho "sleep $*" >>"$SYSTEMCTL_LOG"\n')

    def release(self, version: int, *, before: int | None = None) -> Path:
        """Make a complete release, and make it the live one."""
        folder = self.prefix / "releases" / str(version)
        folder.mkdir(parents=True)
        (folder / "VERSION").write_text(f"{version}\n")
        (folder / "made").write_text("long ago\n")
        if before is not None:
            (folder / ".previous").symlink_to(f"../{before}")
        self.link("current", f"releases/{version}")
        self.link("previous", "current/.previous")
        return folder

    def link(self, name: str, target: str) -> None:
        """Let "current" or "previous" lead to a release."""
        (self.prefix / name).unlink(missing_ok=True)
        (self.prefix / name).symlink_to(target)

    def last_good(self, script: bytes = INSTALLER.replace(b"@HERE@", b"")) -> None:
        """Make the archive of release 100 the last good one."""
        make_archive(self.archive, 100, script=script)
        self.call_last_good()

    def call_last_good(self) -> None:
        """Link the archive as the agent does when its release is confirmed."""
        digest = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        self.digest.write_text(f"{digest}  {self.archive.name}\n")
        (self.archive.parent / "last-good").unlink(missing_ok=True)
        (self.archive.parent / "last-good").symlink_to(self.archive.name)

    @property
    def digest(self) -> Path:
        """The digest of the last good archive."""
        return self.archive.with_name(f"{self.archive.name}.sha256")

    def change(self, old: str, new: str) -> None:
        """Change a line of the script."""
        text = self.script.read_text()
        assert f"\n{old}\n" in text
        self.script.write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))

    def start(self, shell: str = "dash", **environment: str) -> "subprocess.Popen[str]":
        """Start the rescue as its unit does."""
        return subprocess.Popen(
            [*namespace(), shell, "/opt/opq/rescue/opq-box-rescue"],
            env={
                **self.environment,
                "OPQ_STATE_DIR": str(self.state_dir),
                "LOGS_DIRECTORY": str(self.log.parent),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def rescue(self, shell: str = "dash", **environment: str) -> Result:
        """Run the rescue to its end."""
        with self.start(shell, **environment) as process:
            said, _ = process.communicate()
        return Result(process.args, process.returncode, said)

    @property
    def current(self) -> tuple[str, str] | None:
        """The version of the live release, and when it was made; None if it is incomplete."""
        folder = self.prefix / "current"
        if not (folder / "VERSION").exists():
            return None
        return (folder / "VERSION").read_text().strip(), (folder / "made").read_text().strip()

    @property
    def releases(self) -> set[str]:
        """The names of all releases."""
        return {path.name for path in (self.prefix / "releases").iterdir()}

    @property
    def seen(self) -> Path:
        """The rescue's record of the agent's journal."""
        return self.state_dir / "rescue.seen"

    def let_hours_pass(self, hours: int = 4, *, boot: str | None = None) -> None:
        """Let hours pass for the agent, perhaps in another boot."""
        journal, now, when, stood = self.seen.read_text().splitlines()
        stood = str(int(stood) + hours * 3600)
        self.seen.write_text("\n".join([journal, boot or now, when, stood]) + "\n")

    @property
    def rescued(self) -> str | None:
        """The version in the note that the agent reads."""
        path = self.state_dir / "rescued"
        return path.read_text() if path.exists() else None

    @property
    def tries(self) -> list[str]:
        """The rescues that were counted."""
        return [line for line in self._counted if line != "waited"]

    @property
    def pauses(self) -> int:
        """The number of recorded pauses."""
        return self._counted.count("waited")

    @property
    def _counted(self) -> list[str]:
        path = self.state_dir / "rescue.tries"
        return path.read_text().splitlines() if path.exists() else []


ASKED = "is-active opq-box-agent.service"
RESTARTED = "--no-block restart opq-box-agent.service"
REBOOTED = [ASKED, "reboot", "sleep 600", RESTARTED]
PAUSED = [ASKED, "sleep 600"]
