"""Tests of the content of a report."""

import json
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.strict_json import MAX_NUMBER
from opq_twisted.report.document import MAX_ATTEMPTS, MAX_SIZE, AttemptReport
from opq_twisted.report.parse import ReportInvalid, parse
from tests.helpers import example_report

ATTEMPT = AttemptReport(
    id="0" * 32,
    release=1547947203,
    previous=1547860803,
    began=1790000000,
    took=412,
    automatic=True,
    stage="idle",
    outcome="returned",
    reason="unhealthy-service",
    fetched=141500,
    size=12300000,
)

REPORT = evolve(example_report.REPORT, refused=(1547900000,), attempts=(ATTEMPT,))


def changed(**changes: Any) -> bytes:
    """Write the report with other values, which may be of wrong types."""
    return json.dumps({**json.loads(REPORT.to_json()), **changes}).encode()


class TestParse(SynchronousTestCase):
    """What a server reads."""

    def refuse(self, body: bytes) -> str:
        """Return the sentence with which a report is refused."""
        return str(self.assertRaises(ReportInvalid, parse, body))

    def test_round_trip(self) -> None:
        """A report is read as it was written."""
        for report in (REPORT, evolve(REPORT, attempts=(), refused=(), pubkey="a" * 64)):
            self.assertEqual(parse(report.to_json()), report)

    def test_names_on_the_wire(self) -> None:
        """The release that ran before is called `from`, and absent keys are not written."""
        content = json.loads(REPORT.to_json())
        self.assertEqual(content["attempts"][0]["from"], 1547860803)
        self.assertEqual(content["format"], 1)
        self.assertNotIn("pubkey", content)

    def test_longest(self) -> None:
        """The longest report that a box writes fits into the limit."""
        most = evolve(
            ATTEMPT, release=MAX_NUMBER, previous=MAX_NUMBER, fetched=MAX_NUMBER, size=MAX_NUMBER
        )
        report = evolve(
            REPORT, attempts=(most,) * MAX_ATTEMPTS, refused=(2**40,) * 100, pubkey="a" * 64
        )
        self.assertLess(len(report.to_json()), MAX_SIZE)

    def test_unknown_fields(self) -> None:
        """Fields of a newer agent are ignored."""
        self.assertEqual(parse(changed(more={"x": [1]})), REPORT)

    def test_not_a_report(self) -> None:
        """What is no JSON object of format 1 is refused, however it is made."""
        deep = b"[" * 5000 + b"]" * 5000
        for body in (b"", b"\xff", b"[]", b"null", b"1", deep, b'{"format": NaN}', b"{}"):
            self.refuse(body)
        self.assertIn("format 1", self.refuse(changed(format=2)))
        self.assertIn("larger", self.refuse(REPORT.to_json() + b" " * MAX_SIZE))

    def test_wrong_values(self) -> None:
        """A field with a wrong type or an impossible value is named."""
        wrong: list[tuple[str, Any]] = [
            ("key", "short"),
            ("key", 7),
            ("seq", "41"),
            ("seq", True),
            ("seq", -1),
            ("seq", 2**53),
            ("seq", 1.5),
            ("box", None),
            ("agent", "<script>"),
            ("channel", "'; DROP TABLE box; --"),
            ("boot", "é"),
            ("arch", "a" * 33),
            ("waiting", ["turn"]),
            ("refused", [1] * 101),
            ("refused", {"1": 1}),
            ("attempts", [{}] * 21),
            ("attempts", None),
            ("pubkey", "A" * 64),
        ]
        for name, value in wrong:
            self.assertIn(name, self.refuse(changed(**{name: value})), (name, value))

    def test_wrong_attempt(self) -> None:
        """A wrong field of an attempt is named with its place."""
        plain = json.loads(REPORT.to_json())["attempts"][0]
        for name, value in (("id", "x"), ("automatic", 1), ("began", -1), ("took", 1e300)):
            sentence = self.refuse(changed(attempts=[plain, {**plain, name: value}]))
            self.assertIn(f"attempts[1].{name}", sentence)
        self.assertIn("attempts[0]", self.refuse(changed(attempts=[7])))
