"""Cases for an updater whose steps do what the test says."""

import errno
import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Entry
from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import NoRoom, RebootFailed
from opq_twisted.trust.offer import Offer
from tests.helpers.box_fakes import NEW, OLD, Begun, Bench
from tests.helpers.failing_disk import counting

#: The steps from the click to the reboot, with the stage that the journal tells of by then.
STEPS = [
    Begun("newest", "checking"),
    Begun("fetch", "downloading"),
    Begun("verify", "verifying"),
    Begun("unpack", "unpacking"),
    Begun("forget", "unpacking"),
    Begun("install", "installing"),
    Begun("reboot", "rebooting"),
]


#: Seconds.
DAY = 24 * 3600.0

#: What a box lacks for a while, and what it says then.
WANTS = [
    (NoRoom("It needs 5 MB."), "It needs 5 MB."),
    (OSError(errno.ENOSPC, "No space left on device"), "The box's disk is full."),
    (OSError(errno.EMFILE, "Too many open files"), "The box has too much to do"),
]
GOOD = Release(OLD, None, {"sha256": "cd" * 32})


class UpdaterCase(SynchronousTestCase):
    """An updater whose steps do what the test says."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.bench = Bench(self.folder).start()

    def proceed(self, until: str) -> None:
        """Let each step succeed until this one is under way."""
        while self.bench.steps.names[-1] != until:
            self.succeed()

    def succeed(self) -> None:
        """Let the step that is under way succeed."""
        self.bench.steps.succeed(NEW if self.bench.steps.names[-1] == "newest" else None)
        self.bench.clock.advance(0)

    def click(self, until: str = "newest") -> None:
        """Begin an update, and let its steps succeed until this one is under way."""
        self.bench.updater.begin()
        self.proceed(until)

    def refuse_reboot(self, words: str) -> None:
        """Let the box not be rebooted, however often it is asked."""
        for pause in (2, 10, 0):
            self.bench.steps.fail(RebootFailed(words))
            asked = self.bench.steps.names.count("reboot")
            self.bench.clock.advance(pause / 2)
            self.assertEqual(self.bench.steps.names.count("reboot"), asked)
            self.bench.clock.advance(pause / 2)

    def fail_with(self, error: Exception) -> None:
        """Let the step that is under way fail."""
        if isinstance(error, RebootFailed):
            self.refuse_reboot(str(error))
        else:
            self.bench.steps.fail(error)

    def on_disk(self) -> Entry:
        """The entry that another agent would read."""
        return Journal(self.bench.journal_path, "").entry

    @property
    def refused(self) -> list[int]:
        """The blocked releases in that entry."""
        return [each.version for each in self.on_disk().refused]

    def change_journal(self, **changes: Any) -> None:
        content = json.loads(self.bench.journal_path.read_text())
        self.bench.journal_path.write_text(json.dumps({**content, **changes}))

    def renew(self) -> None:
        """Begin with a box on which nothing has happened yet."""
        self.bench.journal_path.unlink(missing_ok=True)
        self.bench = Bench(self.folder).start()

    def answer(self, answer: int | Offer | Exception | None) -> None:
        """Let the check that is under way have this result."""
        if isinstance(answer, Exception):
            self.bench.steps.fail(answer)
        else:
            self.bench.steps.succeed(answer)
        self.bench.clock.advance(0)

    def check(self, answer: int | Offer | Exception | None) -> Deferred[int | None]:
        """Check once, with this result."""
        checked = self.bench.updater.check()
        self.answer(answer)
        return checked

    def find(self, offer: int | Offer | None, automatic: bool = False) -> None:
        """Begin an update, and let its check find an offer."""
        self.bench.updater.begin(automatic=automatic)
        self.answer(offer)

    def fill_disk(self) -> None:
        """Let the next entry find no room; those after it do."""
        self.enterContext(counting(1))

    def assert_failed(self, reason: str) -> None:
        """The update has failed for this reason, on the page and in the journal."""
        status = self.bench.status
        self.assertEqual((status.stage, status.message), (Stage.FAILED, reason))
        self.assertIsNone(status.progress)
        entry = self.on_disk()
        self.assertEqual((entry.stage, entry.tries), (Stage.FAILED, 0))
        self.assertIsNone(entry.release)
        self.assertEqual(entry.awaited is None, entry.after_reboot is None)
        self.assertEqual(entry.attempts[-1], status.last_attempt)
        self.assertEqual(
            (entry.attempts[-1].outcome, entry.attempts[-1].reason), ("failed", reason)
        )

    def assert_at_rest(self, installed: int) -> None:
        """The box is at rest with this release."""
        status = self.bench.status
        self.assertEqual((status.stage, status.installed), (Stage.IDLE, installed))

    def assert_works_again(self) -> None:
        """A new click goes all the way."""
        before = len(self.bench.steps.begun)
        self.click("reboot")
        self.assertEqual(self.bench.steps.begun[before:], STEPS)


class HealthyCase(UpdaterCase):
    """A box with a last good release, whose new one has to prove itself."""

    def setUp(self) -> None:
        super().setUp()
        self.archives = ArchiveStore(self.folder)
        self.archives.keep_as_last_good(GOOD)

    def boot(self, boot_id: str) -> None:
        """Start the box once more; the test judges how healthy it is."""
        self.bench.make_agent(boot_id)
        self.bench.health.asks = True
        self.bench.start()

    def boot_new(self) -> None:
        """Update, up to the question whether the new release is healthy."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.boot("second boot")
        self.assertEqual(self.bench.steps.names, ["judge"])

    def install_last_good(self) -> None:
        """Let the last good release be installed again, up to the reboot."""
        self.assertEqual(self.bench.status.stage, Stage.ROLLING_BACK)
        for step in ("wait", "unpack", "install"):
            self.assertEqual(self.bench.steps.names[-1], step)
            self.bench.steps.succeed()
        self.bench.set_installed(OLD)
        self.assertEqual(self.bench.steps.names[-1], "wait")
        self.bench.steps.succeed(0)
        self.assertEqual(self.bench.steps.names[-1], "reboot")

    def come_back(self, cause: str, boot_id: str) -> None:
        """Boot with the last good release, whose script has succeeded; the box gives the cause."""
        self.boot(boot_id)
        self.bench.steps.succeed(0)
        self.assert_returned(cause)

    def assert_returned(self, cause: str) -> None:
        """The box is at rest on the last good release, and gives the cause."""
        self.assert_at_rest(OLD)
        message = f"Release {NEW} failed, and the box runs release {OLD} again. {cause}"
        attempt = self.on_disk().attempts[-1]
        self.assertEqual((attempt.version, attempt.outcome), (NEW, "returned"))
        self.assertEqual((self.bench.status.message, attempt.reason), (message, message))
