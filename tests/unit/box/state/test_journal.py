"""The journal survives failing disks and power cuts."""

import errno
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import evolve, fields_dict
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Attempt, Blocked, Entry, EntryChanges
from opq_twisted.box.state.stages import Stage
from opq_twisted.common import files
from opq_twisted.common.errors import CannotStart
from tests.helpers.box_fakes import NEW, NEWER, OLD, logged
from tests.helpers.failing_disk import counting

HASHES = {"sha256": "ab" * 32}
RELEASE = Release(NEW, 4096, {"sha256": "ab" * 32, "sha512": "ef" * 64})


def attempt(number: int, outcome: str = "failed") -> Attempt:
    return Attempt(NEW, float(number), number + 0.5, outcome, f"Reason {number}.")


class JournalTests(SynchronousTestCase):
    """The entry that a journal gives after this agent, or an earlier one, has written it."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "journal.json"

    def open(self, boot_id: str = "first boot") -> Journal:
        return Journal(self.path, boot_id)

    def test_new(self) -> None:
        """Without a file the box is idle, and knows nothing."""
        self.assertEqual(self.open().entry, Entry())

    def test_round_trip(self) -> None:
        """The next agent reads the same entry."""
        journal = self.open()
        journal.write(stage=Stage.INSTALLING, release=RELEASE, started=12.5, tries=2)
        journal.block(Release(NEWER), "It is \N{LATIN SMALL LETTER U WITH DIAERESIS}bel.")
        self.assertEqual(self.open().entry, journal.entry)
        journal.end(Stage.IDLE, attempt(1, "updated"))
        self.assertEqual(self.open().entry, journal.entry)

    def test_older_format(self) -> None:
        """The format of an older agent, with one hash, is read, and written in the new format."""
        for written, release in (
            ({"version": NEW, "size": 4096, "sha256": "ab" * 32}, Release(NEW, 4096, HASHES)),
            ({"version": NEW, "size": None, "sha256": None}, Release(NEW)),
            (None, None),
        ):
            with self.subTest(written=written):
                refused = [{"version": OLD, "sha256": "cd" * 32, "reason": "Bad."}]
                content = {"format": 1, "stage": "installing", "release": written}
                self.path.write_text(json.dumps({**content, "refused": refused}))
                journal = self.open()
                self.assertEqual(journal.entry.stage, Stage.INSTALLING)
                self.assertEqual(journal.entry.release, release)
                self.assertEqual(journal.entry.refused, (Blocked(OLD, "cd" * 32, "Bad."),))
                journal.write(tries=1)
                self.assertEqual(self.open().entry, journal.entry)

    def test_later_format(self) -> None:
        """Keys of a later agent are ignored, also those in attempts and releases."""
        journal = self.open()
        journal.write(stage=Stage.VERIFYING, attempts=(attempt(1),), release=RELEASE)
        content = json.loads(self.path.read_bytes())
        for part in (content, content["attempts"][0], content["release"]):
            part["unheard of"] = {"bytes": 1}
        self.path.write_text(json.dumps(content))
        self.assertEqual((self.open().entry, self.open().trouble), (journal.entry, ""))

    def test_older_attempts(self) -> None:
        """An older agent did not write how many bytes travelled."""
        journal = self.open()
        journal.write(stage=Stage.UNPACKING, release=RELEASE, attempts=(attempt(1),), fetched=9)
        content = json.loads(self.path.read_bytes())
        del content["fetched"], content["whole"]
        for key in ("size", "fetched"):
            del content["attempts"][0][key]
        self.path.write_text(json.dumps(content))
        self.assertEqual(self.open().entry, evolve(journal.entry, fetched=None))

    def test_end(self) -> None:
        """The end of an attempt clears release and tries, and is remembered."""
        journal = self.open()
        journal.write(stage=Stage.INSTALLING, release=RELEASE, tries=2)
        journal.end(Stage.FAILED, attempt(1))
        entry = self.open().entry
        self.assertEqual((entry.stage, entry.release, entry.tries), (Stage.FAILED, None, 0))
        self.assertEqual(entry.attempts, (attempt(1),))

    def test_attempts_bounded(self) -> None:
        """The last 20 attempts are kept, oldest first."""
        journal = self.open()
        for number in range(25):
            journal.end(Stage.FAILED, attempt(number))
        self.assertEqual(self.open().entry.attempts, tuple(map(attempt, range(5, 25))))

    def test_blocked_bounded(self) -> None:
        """The last 100 blocked releases are kept."""
        journal = self.open()
        for version in range(1, 104):
            journal.block(Release(version), "Bad.")
        refused = self.open().entry.refused
        self.assertEqual([item.version for item in refused], list(range(4, 104)))

    def test_blocked_once(self) -> None:
        """A release that is blocked again has the later reason."""
        journal = self.open()
        journal.block(RELEASE, "First.")
        journal.block(RELEASE, "Second.")
        self.assertEqual(journal.entry.refused, (Blocked(NEW, "ab" * 32, "Second."),))

    def test_find_blocked(self) -> None:
        """A release with another digest is another one; an unknown digest matches any."""
        journal = self.open()
        journal.block(RELEASE, "Bad.")
        for release, refused in (
            (RELEASE, True),
            (Release(NEW), True),
            (Release(NEW, None, {"sha256": "cd" * 32}), False),
            (Release(NEWER, None, {"sha256": "ab" * 32}), False),
        ):
            with self.subTest(release=release):
                self.assertEqual(journal.find_blocked(release) is not None, refused)

    def test_postponed(self) -> None:
        """A release whose download was wrong is postponed by an hour, then two, up to a day."""
        journal, now = self.open(), 1_000_000.0
        for hours in (1, 2, 4, 8, 16, 24, 24):
            journal.postpone(RELEASE, now)
            over = now + hours * 3600
            self.assertTrue(self.open().is_postponed(RELEASE, now))
            self.assertTrue(journal.is_postponed(Release(NEW), over - 1))
            self.assertFalse(journal.is_postponed(RELEASE, over))
            now = over
        self.assertFalse(journal.is_postponed(Release(NEWER), now))
        journal.postpone(Release(NEWER), now)
        self.assertFalse(journal.is_postponed(Release(NEWER), now + 3600))

    def test_postponed_by_a_wrong_clock(self) -> None:
        """A clock that was ahead does not postpone a release for years."""
        journal = self.open()
        journal.postpone(RELEASE, 2_000_000_000.0)
        self.assertFalse(journal.is_postponed(RELEASE, 1_600_000_000.0))

    def test_same_boot(self) -> None:
        """The journal knows whether the machine has booted since it was written."""
        self.open("first boot").write(stage=Stage.INSTALLING)
        self.assertTrue(self.open("first boot").same_boot)
        later = self.open("second boot")
        self.assertFalse(later.same_boot)
        later.write(tries=1)
        self.assertTrue(later.same_boot)

    def test_unreadable(self) -> None:
        """A journal that cannot be read is set aside and reported, and the box is idle."""
        journal = self.open()
        journal.write(stage=Stage.INSTALLING, release=RELEASE)
        journal.end(Stage.FAILED, attempt(1))
        good = self.path.read_bytes()
        content = json.loads(good)
        for bad in (
            b"",
            bytes(4096),
            good[: len(good) // 2],
            good[:-1],
            b"\xff" + good,
            b"[]",
            b"null",
            b"[" * 100_000,
            json.dumps({**content, "format": 2}).encode(),
            json.dumps({**content, "stage": "dancing"}).encode(),
            json.dumps({**content, "tries": None}).encode(),
            json.dumps({**content, "release": {"size": 1}}).encode(),
            json.dumps({**content, "attempts": "none"}).encode(),
            json.dumps({"stage": "idle"}).encode(),
        ):
            with self.subTest(bad=bad[:40]):
                self.path.write_bytes(bad)
                said = logged(self)
                entry = self.open().entry
                self.assertEqual(evolve(entry, attempts=(), refused=(), attempt=0), Entry())
                self.assertIn("set aside", said[0])
                self.assertFalse(self.path.exists())
                self.assertEqual(self.path.with_suffix(".unreadable").read_bytes(), bad)

    def test_older_reboot(self) -> None:
        """An older agent wrote the release that waits for a reboot into another key."""
        release = {"version": NEW, "size": 4096, "hashes": HASHES}
        for written in (release, {"version": NEW, "size": 4096, "sha256": "ab" * 32}):
            content = {"format": 1, "stage": "failed", "after_reboot": "rebooting"}
            self.path.write_text(json.dumps({**content, "release": written}))
            entry = self.open().entry
            self.assertEqual((entry.release, entry.awaited), (None, Release(NEW, 4096, HASHES)))

    def test_salvaged(self) -> None:
        """History and blocked releases are salvaged from a journal that is not understood."""
        journal = self.open()
        journal.write(stage=Stage.ROLLING_BACK, release=RELEASE)
        journal.end(Stage.FAILED, evolve(attempt(7), id=7))
        journal.block(Release(OLD, None, {"sha256": "cd" * 32}), "It hangs.")
        content = json.loads(self.path.read_bytes())
        content["attempts"].insert(0, {"version": "unheard of"})
        others = {"release": {"version": NEW, "hashes": {}}, "format": 2}
        for stage, refused in (("idle", []), ("dancing", []), ("returning", [NEW])):
            with self.subTest(stage=stage):
                self.path.write_text(json.dumps({**content, **others, "stage": stage}))
                entry = self.open().entry
                self.assertEqual((entry.stage, entry.release), (Stage.IDLE, None))
                self.assertEqual(entry.attempts, (evolve(attempt(7), id=7),))
                self.assertEqual(entry.attempt, 7)
                self.assertEqual([item.version for item in entry.refused], [OLD, *refused])

    def test_disk_fails_once(self) -> None:
        """A journal that can be read a moment later is not set aside."""
        self.open().write(stage=Stage.ROLLING_BACK, release=RELEASE)
        real, failing = Path.open, [OSError(errno.EIO, "Input/output error")] * 2

        def fail(path: Path, mode: str) -> Any:
            if failing:
                raise failing.pop()
            return real(path, mode)

        self.patch(Path, "open", fail)
        self.assertEqual(self.open().entry.stage, Stage.ROLLING_BACK)

    def test_not_a_file(self) -> None:
        """A journal that is a folder does not stop the agent."""
        self.path.mkdir()
        self.assertEqual(self.open().entry, Entry())
        self.open().write(stage=Stage.CHECKING)
        self.assertEqual(self.open().entry.stage, Stage.CHECKING)

    def test_cannot_be_set_aside(self) -> None:
        """The next entry replaces a bad journal that cannot be set aside."""
        self.path.write_bytes(b"garbage")
        self.path.with_suffix(".unreadable").mkdir()
        said = logged(self)
        journal = self.open()
        self.assertIn("cannot be set aside: ", said[-1])
        journal.write(stage=Stage.CHECKING)
        self.assertEqual(self.open().entry.stage, Stage.CHECKING)

    def test_machine_busy(self) -> None:
        """If the machine is too busy to open the journal, the agent does not start."""
        self.open().write(stage=Stage.INSTALLING)

        def refuse(*_: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with self.assertRaises(CannotStart), mock.patch.object(Path, "open", refuse):
            self.open()
        self.assertEqual(self.open().entry.stage, Stage.INSTALLING)

    def test_disk_full(self) -> None:
        """If the entry cannot be written, it stays unchanged, in memory as on the disk."""
        journal = self.open()
        journal.write(stage=Stage.DOWNLOADING, release=RELEASE)
        before = journal.entry
        with counting(1), self.assertRaises(OSError) as caught:
            journal.write(stage=Stage.VERIFYING)
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        self.assertEqual(journal.entry, before)
        self.assertEqual(self.open().entry, before)
        self.assertEqual(os.listdir(self.folder), ["journal.json"])

    def test_next_attempt(self) -> None:
        """Each attempt has a number, and an identifier of its own."""
        journal = self.open()
        journal.write(fetched=9)
        found = []
        for number in (1, 2):
            journal.write(**journal.next_attempt(12.5, OLD))
            entry = journal.entry
            self.assertEqual((entry.attempt, entry.started, entry.previous), (number, 12.5, OLD))
            self.assertIsNone(entry.fetched)
            self.assertRegex(entry.uuid, "^[0-9a-f]{32}$")
            found.append(entry.uuid)
        self.assertNotEqual(*found)

    def test_acknowledge(self) -> None:
        """An attempt that the server has stored is marked, by one write, or none."""
        journal = self.open()
        for number in range(4):
            # The first one began under an older agent.
            uuid = f"{number:032x}" if number else ""
            journal.end(Stage.FAILED, evolve(attempt(number), uuid=uuid))
        uuids = [each.uuid for each in journal.entry.attempts]
        written = self.count_writes()
        journal.acknowledge([uuids[1], uuids[3], "ab" * 16, ""], 7)
        self.assertEqual(len(written), 1)
        marked = [each.reported for each in self.open().entry.attempts]
        self.assertEqual(marked, [False, True, False, True])
        for uuids_again in ([uuids[1], uuids[3]], ["ab" * 16], [""], []):
            journal.acknowledge(uuids_again, 8)
        self.assertEqual(len(written), 1)
        self.assertEqual(journal.seq, 8)

    def test_acknowledge_disk_full(self) -> None:
        """If that cannot be written, the attempt is reported again."""
        journal = self.open()
        journal.end(Stage.FAILED, evolve(attempt(1), uuid="ab" * 16))
        with counting(1), self.assertRaises(OSError):
            journal.acknowledge(["ab" * 16], 1)
        self.assertFalse(journal.entry.attempts[0].reported)

    def test_sequence_number(self) -> None:
        """The sequence number of the last report comes to the disk with the next entry."""
        journal = self.open()
        journal.seq = 41
        self.assertEqual(self.open().seq, 0)
        journal.write(tries=1)
        self.assertEqual((self.open().seq, self.open().entry.seq), (41, 41))
        journal.acknowledge([], 40)
        self.assertEqual(journal.seq, 41, "it never falls")

    def test_unreported(self) -> None:
        """An agent up to 0.2.0 wrote nothing about reports."""
        journal = self.open()
        journal.write(stage=Stage.UNPACKING, release=RELEASE, attempts=(attempt(1),))
        content = json.loads(self.path.read_bytes())
        for key in ("uuid", "previous", "code", "seq"):
            del content[key]
        for key in ("uuid", "previous", "automatic", "stage", "tries", "code", "reported"):
            del content["attempts"][0][key]
        self.path.write_text(json.dumps(content))
        self.assertEqual(self.open().entry, journal.entry)
        self.assertEqual((self.open().entry.uuid, self.open().trouble), ("", ""))

    def count_writes(self) -> list[Path]:
        """Collect the paths of the files that are written from now on."""
        real, written = files.write, list[Path]()

        def write(path: Path, data: bytes) -> None:
            written.append(path)
            real(path, data)

        self.patch(files, "write", write)
        return written

    def test_changes(self) -> None:
        """Every field of the entry may be changed, except for those that each write sets."""
        keys = set(fields_dict(Entry)) - {"boot_id", "seq"}
        self.assertEqual(EntryChanges.__optional_keys__, keys)

    def test_stages(self) -> None:
        """A box is at rest only if it is idle, or if the update has failed."""
        at_rest = {stage for stage in Stage if stage.at_rest}
        self.assertEqual(at_rest, {Stage.IDLE, Stage.FAILED})
