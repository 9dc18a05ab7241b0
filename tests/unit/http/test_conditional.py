"""Conditional requests are evaluated by RFC 9110 section 13."""

from email.utils import formatdate

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import NOT_MODIFIED, PRECONDITION_FAILED
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from opq_twisted.http.conditional import evaluate, range_applies

ETAG = b'"5bf-1a2b"'
MODIFIED = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT
GOES_ON = None

BEFORE, THEN, AFTER = (formatdate(MODIFIED + shift, usegmt=True) for shift in (-1, 0, 1))

Sent = list[tuple[str, str]]

# All rules of section 13.1 for single fields, then the order of section 13.2.2.
TABLE: list[tuple[Sent, int | None]] = [
    ([], GOES_ON),
    # If-Match: strong comparison.
    ([("If-Match", '"5bf-1a2b"')], GOES_ON),
    ([("If-Match", '"other"')], PRECONDITION_FAILED),
    ([("If-Match", 'W/"5bf-1a2b"')], PRECONDITION_FAILED),
    ([("If-Match", "*")], GOES_ON),
    ([("If-Match", " * ")], GOES_ON),
    ([("If-Match", '"*"')], PRECONDITION_FAILED),
    ([("If-Match", '"a", "5bf-1a2b", "c"')], GOES_ON),
    ([("If-Match", '"a","5bf-1a2b"')], GOES_ON),
    ([("If-Match", '"a, b" , W/"x",\t"5bf-1a2b"')], GOES_ON),
    ([("If-Match", '"a"'), ("If-Match", '"5bf-1a2b"')], GOES_ON),
    ([("If-Match", '"a, 5bf-1a2b"')], PRECONDITION_FAILED),
    ([("If-Match", '"5bf-1a2b')], PRECONDITION_FAILED),
    ([("If-Match", "5bf-1a2b")], PRECONDITION_FAILED),
    ([("If-Match", "")], PRECONDITION_FAILED),
    # If-None-Match: weak comparison.
    ([("If-None-Match", '"5bf-1a2b"')], NOT_MODIFIED),
    ([("If-None-Match", 'W/"5bf-1a2b"')], NOT_MODIFIED),
    ([("If-None-Match", '"other"')], GOES_ON),
    ([("If-None-Match", '"5BF-1A2B"')], GOES_ON),
    ([("If-None-Match", "*")], NOT_MODIFIED),
    ([("If-None-Match", '"a", W/"5bf-1a2b"')], NOT_MODIFIED),
    ([("If-None-Match", '"a"'), ("If-None-Match", '"5bf-1a2b"')], NOT_MODIFIED),
    ([("If-None-Match", ', , "5bf-1a2b",')], NOT_MODIFIED),
    ([("If-None-Match", '"\xe4", "5bf-1a2b"')], NOT_MODIFIED),
    ([("If-None-Match", "5bf-1a2b")], GOES_ON),
    ([("If-None-Match", "")], GOES_ON),
    # If-Modified-Since: also in the two older date formats.
    ([("If-Modified-Since", BEFORE)], GOES_ON),
    ([("If-Modified-Since", THEN)], NOT_MODIFIED),
    ([("If-Modified-Since", AFTER)], NOT_MODIFIED),
    ([("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")], NOT_MODIFIED),
    ([("If-Modified-Since", "Sun Nov  6 08:49:37 1994")], NOT_MODIFIED),
    ([("If-Modified-Since", "Sun Nov  6 08:49:36 1994")], GOES_ON),
    # If-Unmodified-Since.
    ([("If-Unmodified-Since", BEFORE)], PRECONDITION_FAILED),
    ([("If-Unmodified-Since", THEN)], GOES_ON),
    ([("If-Unmodified-Since", AFTER)], GOES_ON),
    # Precedence.
    ([("If-Match", '"5bf-1a2b"'), ("If-Unmodified-Since", BEFORE)], GOES_ON),
    ([("If-Match", '"other"'), ("If-Unmodified-Since", AFTER)], PRECONDITION_FAILED),
    ([("If-None-Match", '"other"'), ("If-Modified-Since", AFTER)], GOES_ON),
    ([("If-None-Match", '"5bf-1a2b"'), ("If-Modified-Since", BEFORE)], NOT_MODIFIED),
    ([("If-Match", '"other"'), ("If-None-Match", '"5bf-1a2b"')], PRECONDITION_FAILED),
    ([("If-Match", '"5bf-1a2b"'), ("If-None-Match", '"5bf-1a2b"')], NOT_MODIFIED),
    ([("If-Match", '"5bf-1a2b"'), ("If-Modified-Since", AFTER)], NOT_MODIFIED),
    ([("If-Unmodified-Since", AFTER), ("If-None-Match", '"other"')], GOES_ON),
    ([("If-Unmodified-Since", BEFORE), ("If-None-Match", '"5bf-1a2b"')], PRECONDITION_FAILED),
]

NO_DATES = (
    "",
    "0",
    "yesterday",
    "1994-11-06T08:49:37Z",
    "Sun, 06 Foo 2094 08:49:37 GMT",
    "Sun, 06 Nov 2094 GMT",
    "Sun, 06 Nov 0000 08:49:37 GMT",
    "Sun, xx Nov 2094 08:49:37 GMT",
    "Sun, \xb2 Nov 2094 08:49:37 GMT",
    f"{AFTER}, {AFTER}",
)


def request(sent: Sent) -> Request:
    made = Request(DummyChannel(), False)
    for name, value in sent:
        made.requestHeaders.addRawHeader(name.encode(), value.encode("latin-1"))
    return made


class EvaluateTests(SynchronousTestCase):
    """`evaluate`, row by row."""

    def test_table(self) -> None:
        """Each combination of fields has the result of the RFC."""
        for sent, expected in TABLE:
            self.assertEqual(evaluate(request(sent), ETAG, MODIFIED), expected, repr(sent))

    def test_no_dates(self) -> None:
        """An invalid date is ignored (sections 13.1.3 and 13.1.4)."""
        for text in NO_DATES:
            for name in ("If-Modified-Since", "If-Unmodified-Since"):
                self.assertIsNone(evaluate(request([(name, text)]), ETAG, MODIFIED), repr(text))

    def test_nobody_knows_when(self) -> None:
        """Dates are ignored if the modification time is unknown."""
        for name in ("If-Modified-Since", "If-Unmodified-Since"):
            for date in (BEFORE, AFTER):
                self.assertIsNone(evaluate(request([(name, date)]), ETAG))


# Section 13.1.5: If-Range, and whether the client's part belongs to this file.
IF_RANGE: list[tuple[str | None, bool]] = [
    (None, True),
    ('"5bf-1a2b"', True),
    ('"other"', False),
    ('W/"5bf-1a2b"', False),
    ('"5bf-1a2b", "other"', False),
    ("*", False),
    ("5bf-1a2b", False),
    ("", False),
    (THEN, True),
    (BEFORE, False),
    (AFTER, False),
    ("yesterday", False),
]


class IfRangeTests(SynchronousTestCase):
    """`range_applies`."""

    def applies(self, validator: str | None, now: float) -> bool:
        request = Request(DummyChannel(), False)
        if validator is not None:
            request.requestHeaders.addRawHeader("If-Range", validator)
        return range_applies(request, ETAG, MODIFIED, now)

    def test_table(self) -> None:
        """Each validator has its result."""
        for validator, expected in IF_RANGE:
            self.assertIs(self.applies(validator, MODIFIED + 60), expected, validator)

    def test_weak_date(self) -> None:
        """Within its second, a date proves nothing: the file may change again."""
        self.assertFalse(self.applies(THEN, MODIFIED + 0.9))
        self.assertTrue(self.applies(THEN, MODIFIED + 1))
        self.assertTrue(self.applies('"5bf-1a2b"', MODIFIED))
