"""JSON from untrusted sources."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common import strict_json


class ParseTests(SynchronousTestCase):
    """Anything that is not JSON raises ValueError."""

    def test_json(self) -> None:
        """Any kind of JSON value is returned."""
        for text, value in ((b'{"a": [1, 1.5, null]}', {"a": [1, 1.5, None]}), ("true", True)):
            self.assertEqual(strict_json.parse(text), value)

    def test_not_json(self) -> None:
        """Broken, endless and deep documents are refused, and so are numbers that are none."""
        deep, long = b"[" * 100_000 + b"]" * 100_000, b"1" * 10_000
        for text in (b"", b"{", b'"\xff"', b"NaN", b"[-Infinity]", deep, long):
            with self.subTest(text=text[:20]):
                self.assertRaises(ValueError, strict_json.parse, text)

    def test_object(self) -> None:
        """Another kind of value than an object is refused, too."""
        self.assertEqual(strict_json.parse_object(b'{"a": 1}'), {"a": 1})
        for text in (b"", b"[]", b"null", b'"a"', b"1"):
            with self.subTest(text=text):
                self.assertRaises(ValueError, strict_json.parse_object, text)
