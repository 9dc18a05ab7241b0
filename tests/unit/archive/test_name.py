"""An update's version has exactly one name."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.name import UpdateName, parse_version
from opq_twisted.common.errors import InvalidName
from tests.helpers.torture import examples

GREATEST = 10**15 - 1


class UpdateNameTests(SynchronousTestCase):
    """`opq-box-update-VERSION.tar.bz2`."""

    @examples(100)
    @given(st.integers(1, GREATEST))
    def test_round_trip(self, version: int) -> None:
        """A formatted name is parsed as the same version."""
        self.assertEqual(UpdateName.parse(str(UpdateName(version))), UpdateName(version))

    @examples(100)
    @given(st.text())
    def test_one_spelling(self, text: str) -> None:
        """Each text that is parsed as a name equals the formatted name."""
        try:
            name = UpdateName.parse(f"opq-box-update-{text}.tar.bz2")
        except InvalidName:
            return
        self.assertEqual(str(name), f"opq-box-update-{text}.tar.bz2")

    def test_folder(self) -> None:
        """The folder in the archive has the archive's name without its suffix."""
        self.assertEqual(UpdateName(1547860803).folder, "opq-box-update-1547860803")

    def test_order_by_number(self) -> None:
        """Versions are compared as numbers: ten digits are newer than nine."""
        names = [UpdateName(1000000000), UpdateName(999999999), UpdateName(2)]
        self.assertEqual([name.version for name in sorted(names)], [2, 999999999, 1000000000])

    def test_greatest(self) -> None:
        """Fifteen digits are accepted, and a JSON reader with doubles keeps them exact."""
        name = UpdateName.parse(f"opq-box-update-{GREATEST}.tar.bz2")
        self.assertEqual(json.loads(str(name.version), parse_int=float), GREATEST)

    def test_refused(self) -> None:
        """Any other name is refused, in a sentence with the template."""
        for text in (
            "",
            "opq-box-update-.tar.bz2",
            "opq-box-update-0.tar.bz2",
            "opq-box-update-01547860803.tar.bz2",
            "opq-box-update-+1.tar.bz2",
            "opq-box-update--1.tar.bz2",
            "opq-box-update-1_0.tar.bz2",
            "opq-box-update-1.0.tar.bz2",
            "opq-box-update- 1.tar.bz2",
            "opq-box-update-\u0661.tar.bz2",
            "opq-box-update-1\u0662.tar.bz2",
            "opq-box-update-²3.tar.bz2",
            "opq-box-update-\uff11.tar.bz2",
            "opq-box-update-1000000000000000.tar.bz2",
            "opq-box-update-" + "9" * 5000 + ".tar.bz2",
            "opq-box-update-1.tar.gz",
            "opq-box-update-1.tar.bz2\n",
            "opq-box-update-1.tar.bz2\0",
            "opq-box-update-1xtar.bz2",
            "opq-box-update-1.tar.bz2.part",
            "OPQ-box-update-1.tar.bz2",
            " opq-box-update-1.tar.bz2",
            "../opq-box-update-1.tar.bz2",
            "opq-box-update-\udcff.tar.bz2",
        ):
            error = self.assertRaises(InvalidName, UpdateName.parse, text)
            self.assertIn("opq-box-update-VERSION.tar.bz2", str(error))


class ParseVersionTests(SynchronousTestCase):
    """The content of `VERSION` and of responses of `/version`."""

    def test_good(self) -> None:
        """A version may end with a newline, which editors add."""
        for text in ("1547860803", "1547860803\n", "1547860803\r\n"):
            self.assertEqual(parse_version(text), 1547860803)

    def test_refused(self) -> None:
        """Any other text is refused; the sentence quotes only its start."""
        for text in (
            "",
            "\n",
            "0",
            "01",
            "-1",
            "1.5",
            "1 2",
            "1_0",
            "²",
            "\u0661",
            "1" * 16,
            "<html>",
        ):
            self.assertRaises(InvalidName, parse_version, text)
        # str.strip() takes off more than int() does.
        self.assertEqual(parse_version("\x1c1547860803\n"), 1547860803)
        error = self.assertRaises(InvalidName, parse_version, "x" * 10_000)
        self.assertLess(len(str(error)), 200)
