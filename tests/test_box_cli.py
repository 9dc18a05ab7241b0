"""What can be done to a box on its command line."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.archives import Archives
from opq_twisted.cli.box import main
from tests.archives import make_archive
from tests.disk import counting
from tests.fakes import NEW, OLD
from tests.test_catalog import name_of


class AdoptTests(SynchronousTestCase):
    """A box gets a release to return to."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        self.state_dir = self.place / "state"
        self.state_dir.mkdir(parents=True)
        self.version_file = self.place / "VERSION"
        self.version_file.write_text(f"{OLD}\n")
        self.config = self.place / "config.json"
        settings = {"version_file": str(self.version_file)}
        self.config.write_text(json.dumps({"updates_ep": "http://x.example", "updater": settings}))
        self.archive = make_archive(self.place / name_of(OLD), OLD)
        self.archives = Archives(self.state_dir / "archives")

    def adopt(self, archive: Path, status: int = 0) -> str:
        options = [f"--config={self.config}", f"--state-dir={self.state_dir}"]
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = main(["adopt", *options, str(archive)])
        self.assertEqual(code, status, error.getvalue())
        return (error if status else out).getvalue()

    def assert_refused(self, archive: Path, *words: str) -> None:
        """Nothing is adopted, nothing stays, and a sentence says why."""
        said = self.adopt(archive, status=1)
        self.assertEqual((said[:9], said.count("\n"), said[-2:]), ("opq-box: ", 1, ".\n"), said)
        for word in words:
            self.assertIn(word, said)
        self.assertIsNone(self.archives.last_good)
        left = {path.name for path in self.state_dir.rglob("*")}
        self.assertLessEqual(left, {"archives", ".lock"})

    def test_adopted(self) -> None:
        """The archive of the release that runs is copied, and is the last good one."""
        self.assertIn(f"Release {OLD} is the one to which", self.adopt(self.archive))
        good = self.archives.last_good
        assert good is not None
        self.assertEqual(good.version, OLD)
        self.assertEqual(self.archives.path(OLD).read_bytes(), self.archive.read_bytes())
        self.assertEqual([path.name for path in self.state_dir.iterdir()], ["archives"])
        self.assertIn("already", self.adopt(self.archive))

    def test_another_release(self) -> None:
        """Another than that which runs is refused; so is any where nobody knows what runs."""
        other = make_archive(self.place / name_of(NEW), NEW)
        self.assert_refused(other, f"The box runs release {OLD}, and not {NEW}")
        self.version_file.unlink()
        self.assert_refused(self.archive, "nobody knows which")

    def test_damaged(self) -> None:
        """What the box could not unpack is no release to return to."""
        data = self.archive.read_bytes()
        self.archive.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 1 :])
        self.assert_refused(self.archive, name_of(OLD))
        inner = make_archive(self.place / "inner.tar.bz2", NEW)
        inner.replace(self.archive)
        self.assert_refused(self.archive, "VERSION")

    def test_not_an_archive(self) -> None:
        """A file with another name, and one that is not there."""
        self.assert_refused(self.place / "VERSION", "VERSION")
        self.archive.unlink()
        self.assert_refused(self.archive, "No such file")

    def test_disk_full(self) -> None:
        """On a full disk nothing is adopted."""
        with counting(1):
            self.assert_refused(self.archive, "No space left")
        self.adopt(self.archive)

    def test_no_configuration(self) -> None:
        """Without a configuration it is not known what runs."""
        self.config.unlink()
        self.assert_refused(self.archive, "configuration")

    def test_program(self) -> None:
        """It is a program of its own, and says what it does."""
        program = Path(sys.executable).with_name("opq-box")
        said = subprocess.run([program, "adopt", "--help"], capture_output=True, text=True).stdout
        self.assertIn("--state-dir", said)
