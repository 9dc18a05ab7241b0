"""The box's page as HTML: times, releases and the timeline."""

import re
from string import Template
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.report.record import ReportRecord, SentReport
from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Status
from opq_twisted.box.web.branding import Branding
from opq_twisted.box.web.page_html import older_texts, render
from tests.helpers.box_fakes import NEW, OLD

NOW = 1_700_100_000.0
FAILED = Attempt(NEW, NOW - 900, NOW - 300, "failed", f"Release {NEW} ended.", 1)


class RenderTests(SynchronousTestCase):
    """`render`, one value of the template at a time."""

    def setUp(self) -> None:
        self.reports = ReportRecord()

    def show(self, name: str, *attempts: Attempt, **status: Any) -> str:
        status = {"installed": OLD, "last_check": NOW - 60, **status}
        branding = Branding("OPQ Box", "icon.svg", b"image/svg+xml", b"")
        return render(Template(f"${name}"), branding, Status(**status), attempts, self.reports, NOW)

    def test_release(self) -> None:
        """A release is shown by the time at which it was built, and its number is a detail."""
        self.assertEqual(
            self.show("installed"),
            f'<time datetime="2023-11-14T22:13:20Z" title="Release {OLD}">'
            "14 November 2023, 22:13 UTC</time>",
        )
        self.assertEqual(self.show("installed", installed=None), "unknown")
        self.assertEqual(self.show("available", available=OLD), "nothing newer")
        self.assertIn(f'"Release {NEW}"', self.show("available", available=NEW))

    def test_release_in_sentence(self) -> None:
        """So is a release in a sentence; other numbers stay."""
        text = self.show("message_html", message=f"Release {NEW} needs 1234567890 B.")
        plain = re.sub("<[^>]*>", "", text)
        self.assertEqual(plain, "The release of 14 November 2023, 22:15 UTC needs 1234567890 B.")

    def test_today(self) -> None:
        """A time of today is shown without its date."""
        self.assertIn(">today, 01:59 UTC<", self.show("last_check"))
        self.assertIn(
            ">17 November 2023, 02:00 UTC<", self.show("next_check", next_check=NOW + 86400)
        )
        self.assertEqual(self.show("next_check_hidden"), "hidden")

    def test_no_moment(self) -> None:
        """An impossible time is shown as a number."""
        self.assertEqual(self.show("next_check", next_check=1e18), "1000000000000000000")

    def test_history(self) -> None:
        """An attempt has an outcome, a release, a time, a duration and a reason, each once."""
        for attempt, words in (
            (
                evolve(FAILED, outcome="updated", reason=f"The box runs release {NEW}."),
                "Updated to the release of 14 November 2023, 22:15 UTC"
                "today, 01:55 UTC, took about 10 minutes",
            ),
            (
                evolve(FAILED, reason="", size=12_300_000, fetched=80_000),
                "Failed to install the release of 14 November 2023, 22:15 UTC"
                "today, 01:55 UTC, took about 10 minutes, fetched 0.08 MB of 12.3 MB",
            ),
            (
                FAILED,
                "Failed to install the release of 14 November 2023, 22:15 UTC"
                "today, 01:55 UTC, took about 10 minutes"
                "The release of 14 November 2023, 22:15 UTC ended.",
            ),
            (
                evolve(FAILED, version=None, reason="<Nobody> is there."),
                "Failed to updatetoday, 01:55 UTC, took about 10 minutes&lt;Nobody&gt; is there.",
            ),
            (
                evolve(FAILED, outcome="returned", reason="It is not healthy."),
                "Went back from the release of 14 November 2023, 22:15 UTC"
                "today, 01:55 UTC, took about 10 minutesIt is not healthy.",
            ),
        ):
            with self.subTest(attempt=attempt):
                plain = re.sub("<[^>]*>", "", self.show("recent", attempt))
                self.assertEqual(plain, words)

    def test_told(self) -> None:
        """A reason that the headline gives is not repeated below."""
        status = {"stage": Stage.FAILED, "last_attempt": FAILED, "last_check": None}
        self.assertIn("ended.", self.show("message_html", FAILED, **status))
        self.assertNotIn("ended.", self.show("recent", FAILED, **status))
        self.assertNotEqual(self.show("past", **status), self.show("past", last_attempt=FAILED))

    def test_older_page(self) -> None:
        """The script of an older release, which is open in a browser, finds its texts."""
        shown = older_texts(Status(installed=OLD))
        self.assertEqual(shown["installed"], "14 November 2023, 22:13 UTC")
        self.assertEqual((shown["available"], shown["checked"]), ("unknown", ""))

    def test_reports(self) -> None:
        """The last report is shown with line breaks, and escaped, with its time and answer."""
        self.assertEqual(
            (self.show("no_reports_hidden"), self.show("reports_hidden")), ("", "hidden")
        )
        self.reports.fingerprint = "ab" * 16
        self.assertEqual(
            (self.show("no_reports_hidden"), self.show("reports_hidden")), ("hidden", "")
        )
        self.assertEqual(self.show("fingerprint"), "ab" * 16)
        self.assertEqual(self.show("last_report"), "none since the agent started")
        self.assertEqual(self.show("report_hidden"), "hidden")
        self.reports.last = SentReport('{"channel":"<b>"}', NOW - 300, "It is <accepted>.")
        self.assertIn(">today, 01:55 UTC<", self.show("last_report"))
        self.assertEqual(self.show("report_answer"), "It is &lt;accepted&gt;.")
        self.assertEqual(self.show("report"), "{\n  &quot;channel&quot;: &quot;&lt;b&gt;&quot;\n}")

    def test_left(self) -> None:
        """The time left is shown if it is known."""
        took = {"rebooting": 41.0, "confirming": 69.0, "installing": 84.0}
        busy = {"stage": Stage.INSTALLING, "message": Stage.INSTALLING.message}
        self.assertEqual(self.show("left", **busy, stage_took=took), "about 3 minutes left")
        self.assertEqual(self.show("left", **busy), "")
        self.assertEqual(self.show("left_hidden", **busy), "hidden")
