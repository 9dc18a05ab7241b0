"""Settings that are probably a mistake get a warning."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.mistakes import find_warnings
from opq_twisted.box.config.settings import BoxConfig, UpdaterConfig


class WarningTests(SynchronousTestCase):
    """`find_warnings`."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.touch()

    def find(self, url: str, box_id: int = 1, allow_unsigned: bool = False) -> list[str]:
        updater = UpdaterConfig(trusted_root=self.root, allow_unsigned=allow_unsigned)
        return find_warnings(BoxConfig(url, box_id, updater))

    def test_none(self) -> None:
        """A signed box with a number of its own gets no warning, even over http."""
        for url in ("http://updates.example.net:8151", "http://myexample.org", "https://10.0.0.1"):
            self.assertEqual(self.find(url), [])

    def test_box_id(self) -> None:
        """A box without a number is told how to get one."""
        [warning] = self.find("https://updates.example.net", box_id=0)
        self.assertIn("opq-box setup --box-id auto", warning)

    def test_sample(self) -> None:
        """The URL of the sample configuration is nobody's server."""
        [warning] = self.find("http://updates.example.org:8151")
        self.assertIn("opq-box setup --server URL", warning)

    def test_no_root(self) -> None:
        """Without a trusted root, the box installs nothing, or what the network gives it."""
        self.root.unlink()
        [warning] = self.find("http://updates.example.net")
        self.assertIn("installs no release", warning)
        [warning] = self.find("http://updates.example.net", allow_unsigned=True)
        self.assertIn("not encrypted", warning)
        self.assertEqual(self.find("https://updates.example.net", allow_unsigned=True), [])

    def test_dangling_root(self) -> None:
        """A dangling link counts as a root: the box refuses unsigned releases because of it."""
        self.root.unlink()
        self.root.symlink_to("nowhere")
        self.assertEqual(self.find("http://updates.example.net"), [])
