"""Reading a JSON object from an untrusted source."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.cli.untrusted_json import Document


class DocumentTests(SynchronousTestCase):
    """Each method returns a value of its type, whatever the object contains."""

    def test_read(self) -> None:
        """A value of the right type is returned."""
        found = Document.parse(b'{"a": "x\\n y", "b": 2, "c": 1.5, "d": true, "e": {"f": 1}}')
        self.assertEqual((found.text("a"), found.integer("b"), found.number("c")), ("x y", 2, 1.5))
        self.assertTrue(found.flag("d"))
        self.assertEqual(found.part("e").integer("f"), 1)
        self.assertEqual(Document({"g": [{"f": 1}, 2]}).parts("g"), [Document({"f": 1})])

    def test_other_kinds(self) -> None:
        """A value of another type counts as missing."""
        for value in (None, True, -1, 1e16, 10**400, "1", [], [1], {}, {"x": 1}):
            found = Document({"x": value})
            with self.subTest(value=value):
                self.assertIsInstance(found.text("x"), str)
                self.assertIsNone(found.number("x"))
                self.assertIsNone(found.integer("x"))
                self.assertIs(found.flag("x"), value is True)
                self.assertIsInstance(found.part("x").content, dict)
                self.assertIsInstance(found.parts("x"), list)
        self.assertIsNone(Document({"x": 1.0}).integer("x"))
        self.assertEqual(len(Document({"x": "y" * 10**6}).text("x")), 2000)

    def test_no_object(self) -> None:
        """Anything but a JSON object is refused."""
        deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        long = b'{"x":' + b"1" * 10_000 + b"}"
        for data in (b"", b"[]", b"1", b"{", b'{"x": NaN}', b'{"x": "\xff"}', deep, long):
            with self.subTest(data=data[:20]):
                self.assertRaises(ValueError, Document.parse, data)
