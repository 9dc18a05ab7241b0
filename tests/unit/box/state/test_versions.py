"""The installed release, and that of the box's image."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.state.versions import Installed
from tests.helpers.box_fakes import NEW, OLD


class InstalledTests(SynchronousTestCase):
    """`install_update.sh` writes two files."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.installed = Installed(folder / "VERSION", folder / "IMAGE_VERSION")

    def test_content(self) -> None:
        """Each file holds a version; None if it does not."""
        cases: list[tuple[bytes, int | None]] = [
            (b"1700000000\n", OLD),
            (b"1700000000", OLD),
            (b"", None),
            (b"\xff", None),
            (b"\0" * 11, None),
            (b"unknown", None),
            (b"1" * 1000, None),
        ]
        for content, expected in cases:
            with self.subTest(content=content):
                self.installed.version_file.write_bytes(content)
                self.installed.image_file.write_bytes(content)
                self.assertEqual(self.installed.version, expected)
                self.assertEqual(self.installed.image, expected)

    def test_missing(self) -> None:
        """A file may be missing, or hold something else."""
        self.installed.image_file.mkdir()
        self.assertIsNone(self.installed.version)
        self.assertIsNone(self.installed.image)

    def test_changes(self) -> None:
        """A release that was installed meanwhile is seen."""
        self.installed.version_file.write_text(f"{OLD}\n")
        self.assertEqual(self.installed.version, OLD)
        self.installed.version_file.write_text(f"{NEW}\n")
        self.assertEqual(self.installed.version, NEW)

    def test_newest_known(self) -> None:
        """The newer of both is known to be in the past; 0 if both are unknown."""
        self.assertEqual(self.installed.newest_known, 0)
        self.installed.image_file.write_text(f"{NEW}\n")
        self.assertEqual(self.installed.newest_known, NEW)
        self.installed.version_file.write_text(f"{OLD}\n")
        self.assertEqual(self.installed.newest_known, NEW)
        self.installed.version_file.write_text(f"{NEW + 1}\n")
        self.assertEqual(self.installed.newest_known, NEW + 1)
