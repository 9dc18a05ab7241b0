"""install_update.sh and `place` install the rescue."""

import shutil
import signal

from tests.helpers.root_folder import (
    AGENT,
    ENABLED,
    SHIPPED,
    InstallCase,
    Result,
    RootFolder,
    require_bash,
)
from tests.helpers.torture import TORTURE, stride


class RescueTests(InstallCase):
    """The installation and the replacement of the rescue."""

    def setUp(self) -> None:
        super().setUp()
        self.box.unpack(100)
        self.drop_in = self.box.units / "opq-box-agent.service.d" / "rescue.conf"
        self.unit = self.box.units / "opq-box-rescue.service"
        self.script = self.box.prefix / "rescue" / "opq-box-rescue"
        self.files = (self.script, self.unit, self.drop_in)

    def place(self, *shell: str, box: RootFolder | None = None, **environment: str) -> Result:
        """Run the live release's `place`, as the agent does when it has confirmed an update."""
        command = f"/opt/opq/current/{AGENT}/rescue/place"
        return (box or self.box).call(*shell, command, OPQ_PREFIX="/opt/opq", **environment)

    def assert_shipped(self) -> None:
        for path in self.files:
            shipped = next((SHIPPED / "rescue").rglob(path.name))
            self.assertEqual(path.read_text(), shipped.read_text())
            self.assertEqual(path.stat().st_mode & 0o777, 0o755 if path == self.script else 0o644)
        self.assertEqual([path.name for path in self.script.parent.iterdir()], ["opq-box-rescue"])
        self.assertEqual([path.name for path in self.drop_in.parent.iterdir()], ["rescue.conf"])

    def test_installed(self) -> None:
        """An install installs the rescue before the release is live."""
        said = self.box.install(100, managed=True)
        self.assert_shipped()
        self.assertLess(said.index("rescue.conf in place"), said.index("is now current"))

    def test_kept(self) -> None:
        """An unconfirmed update installs only missing files."""
        self.box.install(100, managed=True)
        self.script.write_text("old")
        self.drop_in.write_text("old")
        self.unit.unlink()
        self.install(200, managed=True)
        self.assertEqual((self.script.read_text(), self.drop_in.read_text()), ("old", "old"))
        self.assertEqual(
            self.unit.read_text(), (SHIPPED / "rescue" / "opq-box-rescue.service").read_text()
        )

    def test_replaced(self) -> None:
        """A confirmed update installs its own rescue; a second time changes nothing."""
        self.box.install(100, managed=True)
        for path in self.files:
            path.write_text("old")
        self.box.asked()
        self.assertEqual(self.place().returncode, 0)
        self.assert_shipped()
        self.assertEqual(self.box.asked(), ["daemon-reload", ENABLED])
        times = [path.stat().st_mtime_ns for path in self.files]
        again = self.place()
        self.assertEqual((again.returncode, again.stdout, again.stderr), (0, "", ""))
        self.assertEqual(self.box.asked(), [])
        self.assertEqual([path.stat().st_mtime_ns for path in self.files], times)

    def test_release_without_a_rescue(self) -> None:
        """A release without a rescue keeps the existing one."""
        self.box.install(100, managed=True)
        shutil.rmtree(self.box.unpack(200) / AGENT / "rescue")
        self.box.install(200, managed=True)
        self.assert_shipped()

    def test_no_room(self) -> None:
        """If the rescue cannot be installed, the release does not become the live one."""
        self.box.tool(
            "chmod", '#!/bin/sh\ncase $2 in */rescue/*) exit 1 ;; esac\nexec /bin/chmod "$@"\n'
        )
        result = self.box.run(100, managed=True)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.box.version("current"), None)
        self.assertFalse(self.script.exists())

    def test_interrupted(self) -> None:
        """Each file is the old or the new one, and no unit is newer than the files it needs."""
        require_bash()
        self.box.install(100, managed=True)
        for path in self.files:
            path.write_text("old")
        # As the rescue of a release was that had no timer yet.
        (self.box.units / "timers.target.wants" / "opq-box-rescue.timer").unlink()
        found = set()
        for count in range(1, 200, stride(11)):
            box = self.box.copy(self.box.folder.parent / str(count))
            result = self.place("bash", box=box, KILL_AT=str(count))
            files = [box.folder / path.relative_to(self.box.folder) for path in self.files]
            old = tuple(path.read_text() == "old" for path in files)
            found.add(old)
            if result.returncode == 0:
                break
            self.assertEqual(result.returncode, -signal.SIGKILL, result)
            self.assertEqual(self.place(box=box).returncode, 0)
            self.assertTrue(box.is_timer_enabled)
            for path, shipped in zip(files, self.files, strict=True):
                source = next((SHIPPED / "rescue").rglob(shipped.name))
                self.assertEqual(path.read_text(), source.read_text())
            shutil.rmtree(box.folder)
        in_order = {
            (True, True, True),
            (False, True, True),
            (False, False, True),
            (False, False, False),
        }
        self.assertEqual(found, in_order if TORTURE else found & in_order)
