"""The checks of a box before and after an installation, with real programs."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.install import persistence, preflight, units
from opq_twisted.box.install.preflight import Preflight, Room
from opq_twisted.box.install.processes import ProcessRunner
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common.errors import BoxUnfit
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.child_processes import ChildrenCase


class PreflightCase(ChildrenCase):
    """A fit box in a folder."""

    def prepare(self) -> None:
        self.prefix, self.state_dir = self.root / "prefix", self.root / "state"
        self.log = self.root / "log" / "box_update.log"
        self.folder = self.state_dir / "unpacked"
        self.tools = self.root / "tools"
        for folder in (self.folder, self.tools, self.log.parent):
            folder.mkdir(parents=True)
        self.patch(units, "_PATH", f"{self.tools}:{os.environ['PATH']}")
        self.preflight = self.make()

    def make(self, **settings: Any) -> Preflight:
        config = UpdaterConfig(**{"prefix": self.prefix, "log": self.log, **settings})
        programs = ProcessRunner(self.clock, self.children)
        return Preflight(
            TransientUnits(programs, config.prefix, self.state_dir, has_systemd=False), config
        )

    def tool(self, name: str, script: str) -> None:
        """Put a program before the machine's own."""
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def script(self, first_line: str, name: str = "install_update.sh") -> None:
        """Unpack a script with this first line."""
        (self.folder / name).write_text(f"{first_line}\nexit 0\n")

    async def unfit(self, folder: Path | None = None, room: int = 0) -> BoxUnfit:
        with self.assertRaises(BoxUnfit) as caught:
            await self.preflight.require(NEW, folder, room)
        error: BoxUnfit = caught.exception
        return error


class FitTests(PreflightCase):
    """Whether the box is fit."""

    async def test_fit(self) -> None:
        """A fit box passes, and nothing remains of the check."""
        self.script("#!/bin/sh")
        await self.preflight.require(NEW, self.folder)
        self.assertIsNone(await self.preflight.find_problem(NEW))
        left = {path.name for folder in (self.prefix, self.state_dir) for path in folder.iterdir()}
        self.assertEqual(left, {"unpacked"})

    async def test_no_folder(self) -> None:
        """The error names a prefix that cannot be created or written, with the reason."""
        self.prefix.write_text("This is no folder.")
        error = await self.unfit()
        self.assertEqual(
            str(error),
            f"The box cannot write in {self.prefix}: File exists. Fix that, for example by "
            "making room there.",
        )

    async def test_disk_full(self) -> None:
        """A disk on which files can be created but not written is not fit."""
        self.tool("head", "echo 'head: write error: No space left on device' >&2; exit 1")
        error = await self.unfit()
        self.assertIn(": No space left on device. Fix that", str(error))
        self.assertEqual(error.code, "no-room")
        self.assertEqual(list(self.prefix.iterdir()), [])

    async def test_noexec(self) -> None:
        """A folder in which programs cannot be run is found by running one."""
        self.tool("chmod", 'exec /bin/chmod 600 "$2"')
        error = await self.unfit()
        self.assertEqual(
            str(error),
            f"The box cannot run programs in {self.state_dir}: Permission denied. Mount it without "
            "noexec.",
        )
        self.assertEqual(error.code, "disk")

    async def test_interpreter(self) -> None:
        """The interpreter in the first line of a script must exist."""
        for name in ("install_update.sh", "verify_update.sh"):
            broken = self.tools / "broken"
            broken.write_text("#!/no/such/loader\n")
            broken.chmod(0o755)
            for line, needed in (
                ("#!/no/such/shell -eu", "/no/such/shell -eu"),
                ("#! /no/such/shell", "/no/such/shell"),
                ("#!/usr/bin/env no-such-python", "/usr/bin/env no-such-python"),
                (f"#!{broken}", str(broken)),
            ):
                with self.subTest(line=line, name=name):
                    self.script("#!/bin/sh")
                    self.script(line, name)
                    self.assertEqual(
                        str(await self.unfit(self.folder)),
                        f"This box cannot run {needed}, which {name} needs. Install it.",
                    )
            (self.folder / name).unlink()

    async def test_no_fault_of_the_box(self) -> None:
        """A script with another fault is the release's fault."""
        for line in ("#!/no/shell\r", "", "echo *", "#!/usr/bin/env sh", "#!/bin/false"):
            with self.subTest(line=line):
                self.script(line)
                await self.preflight.require(NEW, self.folder)

    async def test_room(self) -> None:
        """The installed release must have room, and the error has the needed size."""
        (self.folder / "kernel").write_bytes(bytes(3 << 20))
        (self.folder / "wheels").mkdir()
        (self.folder / "wheels" / "a.whl").write_bytes(bytes(1 << 20))
        self.patch(preflight, "_free", lambda path: Room(20 << 20, 1000))
        error = await self.unfit(self.folder)
        self.assertEqual(
            str(error),
            f"The installed release needs 24 MiB free under {self.prefix}, and there are 20 MiB. "
            "Make room.",
        )
        self.assertGreater(error.room, 7 << 20)
        self.assertEqual(error.code, "no-room")
        self.assertEqual((await self.unfit(room=error.room)).room, error.room)
        self.patch(preflight, "_free", lambda path: Room(24 << 20, 1000))
        await self.preflight.require(NEW, self.folder)
        await self.preflight.require(NEW, room=error.room)

    async def test_inodes(self) -> None:
        """There must be inodes for each of its files, and for those in its wheels."""
        (self.folder / "a.whl").write_bytes(bytes(100 * 4096))
        self.patch(preflight, "_free", lambda path: Room(1 << 40, 90))
        error = await self.unfit(self.folder)
        self.assertIn("and the file system has room for 90.", str(error))
        self.assertEqual(error.code, "no-room")

    async def test_forgetful(self) -> None:
        """A box that loses its files at each restart is not fit; no program is started."""
        self.patch(persistence, "is_forgotten", lambda path: path == self.prefix)
        self.assertIn(
            f"The box forgets at each restart what is written in {self.prefix}",
            str(await self.unfit()),
        )
        self.assertFalse(self.prefix.exists())

    async def test_busy(self) -> None:
        """A box that cannot start programs is not fit."""

        def spawn(*args: Any, **kwargs: Any) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(self.children, "spawnProcess", spawn)
        error = await self.unfit()
        self.assertEqual(str(error), "The box cannot start programs: Too many open files.")
        self.assertEqual(error.code, "busy")

    async def test_not_measured(self) -> None:
        """A box on which the check cannot run is not fit."""
        self.tool("setsid", "echo no more processes >&2; exit 1")
        self.assertEqual(
            str(await self.unfit()),
            "The box cannot run what an installation needs: no more processes.",
        )

    async def test_running(self) -> None:
        """The check before running unpacked programs needs nothing else."""
        self.prefix.write_text("This is no folder.")
        await self.preflight.require_running(NEW)
        self.tool("chmod", 'exec /bin/chmod 600 "$2"')
        with self.assertRaises(BoxUnfit):
            await self.preflight.require_running(NEW)


class BlameTests(PreflightCase):
    """The check whether the box is to blame for a failed installation."""

    async def problem(self) -> tuple[str, str] | None:
        """The sentence and the code of what is found."""
        found = await self.preflight.find_problem(NEW)
        return None if found is None else (str(found), found.code)

    async def test_log(self) -> None:
        """A log that cannot be written is the box's fault."""
        self.log.parent.rmdir()
        self.log.parent.write_text("This is no folder.")
        await self.preflight.require(NEW)
        self.assertIn(
            f"cannot write in {self.log.parent}: ", str(await self.preflight.find_problem(NEW))
        )

    async def test_memory(self) -> None:
        """Processes that the kernel has killed meanwhile show a lack of memory."""
        kills = 3
        self.patch(preflight, "_memory_kills", lambda: kills)
        await self.preflight.require(NEW)
        self.assertIsNone(await self.preflight.find_problem(NEW))
        kills = 4
        self.assertEqual(
            await self.problem(),
            ("The box ran out of memory. Stop the program that uses it.", "busy"),
        )

    async def test_boot(self) -> None:
        """A boot partition without room is the box's fault."""
        boot = self.root / "boot"
        self.patch(preflight, "_BOOT", (self.root / "none", boot))
        self.patch(Path, "is_mount", lambda path: path == boot)
        found = (f"There is no room in {boot}. Make some.", "no-room")
        for size, expected in ((1 << 20, None), (1000, found)):
            self.patch(preflight, "_free", lambda path, size=size: Room(size, 1000))
            self.assertEqual(await self.problem(), expected)

    async def test_kills_counted(self) -> None:
        """The kernel counts them."""
        self.assertGreaterEqual(preflight._memory_kills(), 0)


class UnfinishedTests(PreflightCase):
    """The remains of an interrupted installation."""

    def prepare(self) -> None:
        super().prepare()
        for name in ("100", "200", "300", str(OLD), "400.aside", "mine"):
            (self.prefix / "releases" / name).mkdir(parents=True)
        (self.prefix / "releases" / "100" / "VERSION").write_text("100\n")
        (self.prefix / "current").symlink_to("releases/200")
        archives = self.state_dir / "archives"
        archives.mkdir()
        (archives / "last-good").symlink_to(f"opq-box-update-{OLD}.tar.bz2")
        (self.prefix / ".install.lock").touch()

    @property
    def releases(self) -> set[str]:
        return {path.name for path in (self.prefix / "releases").iterdir()}

    async def test_removed(self) -> None:
        """Only remains are removed, not the live or the last good release."""
        await self.preflight.require(NEW)
        self.assertEqual(self.releases, {"100", "200", str(OLD), "400.aside", "mine"})

    async def test_after(self) -> None:
        """The remains are removed after a failure too, once they were found to fill the disk."""
        self.tool("head", f"[ ! -e {self.prefix}/releases/300 ] || exit 1; exec /usr/bin/head $*")
        self.assertIn("cannot write in", str(await self.preflight.find_problem(NEW)))
        self.assertNotIn("300", self.releases)
        self.assertIsNone(await self.preflight.find_problem(NEW))

    async def test_installing(self) -> None:
        """They are not removed while an installation runs."""
        with (self.prefix / ".install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await self.preflight.require(NEW)
        self.assertIn("300", self.releases)
