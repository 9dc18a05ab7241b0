"""The operators' file is read again when it has changed."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.web.operators import Operator, Role, TokenHash
from opq_twisted.fleet.web.operators_file import OperatorsFile

ANNA = Operator("anna", Role.OPERATOR, TokenHash.of("anna"))
VERA = Operator("vera", Role.VIEWER, TokenHash.of("vera"))


class OperatorsFileTests(SynchronousTestCase):
    """A file with one operator."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.write(ANNA)
        self.changes = 0

    def write(self, *lines: object, mode: int = 0o640) -> None:
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.chmod(mode)
        new.replace(self.path)

    def open(self) -> OperatorsFile:
        file = OperatorsFile(self.path)
        file.observers.append(self.changed)
        return file

    def changed(self) -> None:
        self.changes += 1

    def test_change(self) -> None:
        """A changed file is valid at once, and the observers are told."""
        file = self.open()
        self.assertEqual(file.operators(), {"anna": ANNA})
        self.write(VERA)
        self.assertEqual(file.operators(), {"vera": VERA})
        self.assertEqual(file.operators(), {"vera": VERA})
        self.assertEqual(self.changes, 1)

    def test_same_size_and_time(self) -> None:
        """A copy that keeps the time of its original is noticed, also if it has the same size."""
        file = self.open()
        before = self.path.stat()
        self.path.write_text(self.path.read_text().replace("anna", "hans"))
        os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual([*file.operators()], ["hans"])

    def test_touched(self) -> None:
        """A file whose content is the same tells nobody."""
        file = self.open()
        os.utime(self.path, (0, 0))
        file.operators()
        self.assertEqual(self.changes, 0)

    def test_mistake(self) -> None:
        """A file that is wrong, or gone, changes nothing until it is right again."""
        file = self.open()
        self.write(VERA, "nonsense")
        self.assertEqual(file.operators(), {"anna": ANNA})
        self.path.unlink()
        self.assertEqual(file.operators(), {"anna": ANNA})
        self.assertEqual(self.changes, 0)
        self.write(VERA)
        self.assertEqual(file.operators(), {"vera": VERA})

    def test_cannot_start(self) -> None:
        """At the start the sentence names the file and the line."""
        self.write(ANNA, "nonsense")
        error = str(self.assertRaises(CannotStart, self.open))
        self.assertIn(f"The operators' file {self.path}, line 2: ", error)
        self.path.unlink()
        self.assertIn("No such file", str(self.assertRaises(CannotStart, self.open)))
        self.path.write_bytes(b"\xff")
        self.assertIn("not UTF-8", str(self.assertRaises(CannotStart, self.open)))
        self.path.write_bytes(b"#" * 300_000)
        self.assertIn("more than", str(self.assertRaises(CannotStart, self.open)))

    def test_open_to_others(self) -> None:
        """A file that everybody can write is refused."""
        self.write(ANNA, mode=0o646)
        self.assertIn("chmod o-rwx", str(self.assertRaises(CannotStart, self.open)))
        self.write(ANNA, mode=0o644)
        self.assertEqual(self.open().operators(), {"anna": ANNA})
