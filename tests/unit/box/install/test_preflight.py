"""What keeps a box from taking an installation, measured with real programs."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

from opq_twisted.box.config import UpdaterConfig
from opq_twisted.box.install import persistence, preflight, units
from opq_twisted.box.install.preflight import Preflight, Room
from opq_twisted.box.install.processes import ProcessRunner
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common.errors import BoxUnfit
from tests.helpers.box_fakes import NEW, OLD, ChildrenCase


class PreflightCase(ChildrenCase):
    """A box in a folder, with all that it needs."""

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
        """A box that has all it needs is fit, and nothing stays of the measurement."""
        self.script("#!/bin/sh")
        await self.preflight.require(NEW, self.folder)
        self.assertIsNone(await self.preflight.blame(NEW))
        left = {path.name for folder in (self.prefix, self.state_dir) for path in folder.iterdir()}
        self.assertEqual(left, {"unpacked"})

    async def test_no_folder(self) -> None:
        """A prefix that cannot be made, or written in, is named with the reason."""
        self.prefix.write_text("This is no folder.")
        error = await self.unfit()
        self.assertEqual(
            str(error),
            f"The box cannot write in {self.prefix}: File exists. Mend that, as by making room "
            "there.",
        )

    async def test_disk_full(self) -> None:
        """A name that can be made, but not filled, is no room."""
        self.tool("head", "echo 'head: write error: No space left on device' >&2; exit 1")
        self.assertIn(": No space left on device. Mend that", str(await self.unfit()))
        self.assertEqual(list(self.prefix.iterdir()), [])

    async def test_noexec(self) -> None:
        """A folder in which no program can be run is found by running one."""
        self.tool("chmod", 'exec /bin/chmod 600 "$2"')
        self.assertEqual(
            str(await self.unfit()),
            f"The box cannot run programs in {self.state_dir}: Permission denied. Mount it without "
            "noexec.",
        )

    async def test_interpreter(self) -> None:
        """What the first line of a script names has to be there before it is installed."""
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
        """A script that is odd in another way is its release's affair."""
        for line in ("#!/no/shell\r", "", "echo *", "#!/usr/bin/env sh", "#!/bin/false"):
            with self.subTest(line=line):
                self.script(line)
                await self.preflight.require(NEW, self.folder)

    async def test_room(self) -> None:
        """The installed copy has to have room, and how much it needs is known from then on."""
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
        self.assertEqual((await self.unfit(room=error.room)).room, error.room)
        self.patch(preflight, "_free", lambda path: Room(24 << 20, 1000))
        await self.preflight.require(NEW, self.folder)
        await self.preflight.require(NEW, room=error.room)

    async def test_inodes(self) -> None:
        """So has each of its files, and each in its wheels."""
        (self.folder / "a.whl").write_bytes(bytes(100 * 4096))
        self.patch(preflight, "_free", lambda path: Room(1 << 40, 90))
        self.assertIn("and the file system has room for 90.", str(await self.unfit(self.folder)))

    async def test_forgetful(self) -> None:
        """A box that forgets all at each restart is not fit, and nothing is started for that."""
        self.patch(persistence, "is_forgotten", lambda path: path == self.prefix)
        self.assertIn(
            f"The box forgets at each restart what is written in {self.prefix}",
            str(await self.unfit()),
        )
        self.assertFalse(self.prefix.exists())

    async def test_busy(self) -> None:
        """A box that cannot start a program is not fit."""

        def spawn(*args: Any, **kwargs: Any) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(self.children, "spawnProcess", spawn)
        self.assertEqual(
            str(await self.unfit()), "The box cannot start programs: Too many open files."
        )

    async def test_not_measured(self) -> None:
        """Nor is one on which nothing can be measured."""
        self.tool("setsid", "echo no more processes >&2; exit 1")
        self.assertEqual(
            str(await self.unfit()),
            "The box cannot run what an installation needs: no more processes.",
        )

    async def test_running(self) -> None:
        """Whether what was unpacked can be run does not depend on more."""
        self.prefix.write_text("This is no folder.")
        await self.preflight.require_running(NEW)
        self.tool("chmod", 'exec /bin/chmod 600 "$2"')
        with self.assertRaises(BoxUnfit):
            await self.preflight.require_running(NEW)


class BlameTests(PreflightCase):
    """Whether the box is to blame for an installation that has failed."""

    async def test_log(self) -> None:
        """An installer whose output cannot be written fails for that."""
        self.log.parent.rmdir()
        self.log.parent.write_text("This is no folder.")
        await self.preflight.require(NEW)
        self.assertIn(f"cannot write in {self.log.parent}: ", str(await self.preflight.blame(NEW)))

    async def test_memory(self) -> None:
        """What the kernel has killed meanwhile tells of too little memory."""
        kills = 3
        self.patch(preflight, "_memory_kills", lambda: kills)
        await self.preflight.require(NEW)
        self.assertIsNone(await self.preflight.blame(NEW))
        kills = 4
        self.assertEqual(
            await self.preflight.blame(NEW),
            "The box ran out of memory. Stop the program that uses it.",
        )

    async def test_boot(self) -> None:
        """A kernel that did not fit has filled the partition that it was for."""
        boot = self.root / "boot"
        self.patch(preflight, "_BOOT", (self.root / "none", boot))
        self.patch(Path, "is_mount", lambda path: path == boot)
        for size, said in ((1 << 20, None), (1000, f"There is no room in {boot}. Make some.")):
            self.patch(preflight, "_free", lambda path, size=size: Room(size, 1000))
            self.assertEqual(await self.preflight.blame(NEW), said)

    async def test_kills_counted(self) -> None:
        """The kernel tells of them."""
        self.assertGreaterEqual(preflight._memory_kills(), 0)


class UnfinishedTests(PreflightCase):
    """What an interrupted installation has left."""

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
        """Only what is no release goes: not the live one, nor the last good one."""
        await self.preflight.require(NEW)
        self.assertEqual(self.releases, {"100", "200", str(OLD), "400.aside", "mine"})

    async def test_after(self) -> None:
        """It goes after a failure, too, when it has been found to fill the disk."""
        self.tool("head", f"[ ! -e {self.prefix}/releases/300 ] || exit 1; exec /usr/bin/head $*")
        self.assertIn("cannot write in", str(await self.preflight.blame(NEW)))
        self.assertNotIn("300", self.releases)
        self.assertIsNone(await self.preflight.blame(NEW))

    async def test_installing(self) -> None:
        """Not while somebody installs it."""
        with (self.prefix / ".install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await self.preflight.require(NEW)
        self.assertIn("300", self.releases)
