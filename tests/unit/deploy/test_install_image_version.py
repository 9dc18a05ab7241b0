"""install_update.sh records the release of which the box's image was made."""

import shutil
import signal

from tests.helpers.root_folder import PYTHON, InstallCase


class ImageVersionTests(InstallCase):
    """The record is made once, and belongs to the first release on the box."""

    def test_first_release(self) -> None:
        """The first installed release stays recorded as that of the box's image."""
        for version in (200, 300, 100):
            self.box.unpack(version)
            said = self.box.install(version)
            self.assertEqual("Recorded release 200" in said, version == 200)
            self.assertEqual(self.box.image_file.read_text(), "200\n")

    def test_older_box(self) -> None:
        """On a box without a record that has releases, the live one is recorded."""
        for version in (100, 200, 300):
            self.box.unpack(version)
        self.box.install(100)
        self.box.install(200)
        self.box.image_file.unlink()
        self.box.install(300)
        self.assertEqual(self.box.image(), 200)

    def test_reinstall(self) -> None:
        """If the live release is installed again, it is recorded."""
        self.install(100)
        self.box.image_file.unlink()
        self.box.install(100)
        self.assertEqual(self.box.image(), 100)

    def test_live_version_unknown(self) -> None:
        """If the version of the live release is unknown, the next one is recorded."""
        for version in (100, 200):
            self.box.unpack(version)
        old = self.box.prefix / "current" / "VERSION"
        for text in ("", "v1", "0", "1" * 16, "1 2", "\0\0\0\0", None):
            self.box.install(100)
            self.box.image_file.unlink()
            old.unlink() if text is None else old.write_text(text)
            self.box.install(200)
            self.assertEqual(self.box.image(), 200, text)

    def test_kept(self) -> None:
        """A record is never replaced, whatever its content is."""
        self.box.unpack(100)
        self.box.prefix.mkdir()
        self.box.image_file.write_text("")
        self.box.install(100)
        self.assertEqual(self.box.image_file.read_text(), "")
        self.box.image_file.unlink()
        self.box.image_file.symlink_to("gone")
        self.box.install(100)
        self.assertTrue(self.box.image_file.is_symlink())

    def test_cut_short(self) -> None:
        """The record gets its name only when it is complete and on the disk."""
        self.box.unpack(100)
        sync = shutil.which("sync")
        self.box.tool(
            "sync",
            f'#!/bin/sh\ncase $1 in *IMAGE*) : >"$1"; kill -9 0 ;; esac\nexec {sync} "$@"\n',
        )
        self.assertEqual(self.box.run(100).returncode, -signal.SIGKILL)
        self.assertEqual((self.box.image(), self.box.version("current")), (None, None))
        (self.box.folder / "bin" / "sync").unlink()
        self.box.install(100)
        self.assertEqual(self.box.image(), 100)

    def test_refused_release(self) -> None:
        """A release that is not made current is not recorded."""
        for version in (100, 200):
            self.box.unpack(version)
        self.box.tool("python", PYTHON.replace('echo "$0" "$@"', "exit 1"))
        self.assert_refused(self.box.run(100), "wheels/ lacks what the agent needs")
        self.assertEqual(self.box.image(), None)
        self.box.tool("python", PYTHON)
        self.box.install(200)
        self.assertEqual(self.box.image(), 200)
