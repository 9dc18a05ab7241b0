"""An archive is checked in a process of its own before it is published."""

import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.extract import child
from opq_twisted.common.errors import ReleaseFailed
from tests.helpers.archives import file, make_archive, name_of, stream, write_archive
from tests.helpers.key_holders import OLD


class ValidateTests(SynchronousTestCase):
    """The result of the check."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.archive = folder / name_of(OLD)

    def validate(self) -> None:
        with self.archive.open("rb", buffering=0) as opened:
            opened.seek(0, 2)
            child.validate(opened, OLD)

    def refuses(self, sentence: str) -> None:
        self.assertEqual(str(self.assertRaises(ReleaseFailed, self.validate)), sentence)

    def test_good(self) -> None:
        """An archive that boxes would unpack is accepted, and nothing is written beside it."""
        make_archive(self.archive, OLD)
        self.validate()
        self.assertEqual(list(self.archive.parent.iterdir()), [self.archive])

    def test_refused(self) -> None:
        """An archive that boxes would refuse is refused with the same reason."""
        write_archive(self.archive, stream(file("VERSION", str(OLD).encode())))
        self.refuses(
            f"Boxes would refuse this release: {name_of(OLD)} is refused: it has no file "
            "install_update.sh."
        )

    def run_instead(self, script: str) -> None:
        make_archive(self.archive, OLD)
        self.patch(child, "child_command", lambda _: [sys.executable, "-c", script])

    def test_cannot(self) -> None:
        """If the process fails for another reason, the error does not blame the archive."""
        self.run_instead("raise SystemExit('There is no memory.')")
        self.refuses(f"Release {OLD} could not be checked: There is no memory.")
        self.run_instead("raise SystemExit(9)")
        self.refuses(f"Release {OLD} could not be checked: status 9.")

    def test_too_long(self) -> None:
        """A check that takes longer than a box allows is ended."""
        self.patch(child, "TIMEOUT", 0.01)
        self.run_instead("import signal; signal.pause()")
        self.assertIn("build a smaller one", str(self.assertRaises(ReleaseFailed, self.validate)))
