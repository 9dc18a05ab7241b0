"""What a box reports, and what it does not."""

import json
import platform
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cattrs
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted import __version__
from opq_twisted.archive.release import Release
from opq_twisted.box.config.settings import BoxConfig, UpdaterConfig
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.report.compose import Composer
from opq_twisted.box.report.identity import load_identity
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Attempt, Blocked, Entry
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.versions import Installed
from opq_twisted.common.strict_json import MAX_NUMBER
from opq_twisted.report.codes import Waiting
from opq_twisted.report.document import MAX_ATTEMPTS, MAX_SIZE, AttemptReport, Report
from opq_twisted.report.parse import parse
from opq_twisted.report.signature import is_proved, key_id
from tests.helpers.box_fakes import NEW, NEWER, OLD

NOW = 1_790_000_500.0
RELEASE = Release(NEW, 4096, {"sha256": "ab" * 32})

#: The keys of a report, and of an attempt in it: what the page about privacy lists.
KEYS = {
    *("format", "key", "seq", "box", "agent", "release", "channel", "install", "root"),
    *("snapshot", "boot", "arch", "python", "waiting", "last_good", "refused", "attempts"),
    "next_in",
}
ATTEMPT_KEYS = {
    *("id", "release", "from", "began", "took", "automatic", "stage", "outcome", "reason"),
    *("tries", "fetched", "size"),
}


def uuid(number: int) -> str:
    return f"{number:032x}"


def attempt(number: int, **changes: Any) -> Attempt:
    """Make an attempt that has ended."""
    return evolve(
        Attempt(
            NEW,
            started=NOW - 500,
            ended=NOW - 88,
            outcome="returned",
            reason="The service /opt/secret on blackbox is inactive.",
            id=number,
            size=12_300_000,
            fetched=141_500,
            uuid=uuid(number),
            previous=OLD,
            automatic=True,
            stage="returning",
            tries=1,
            code="unhealthy-service",
        ),
        **changes,
    )


class ComposeCase(SynchronousTestCase):
    """A box with a key and an empty journal."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.journal = Journal(self.folder / "journal.json", "b007")
        self.archives = ArchiveStore(self.folder)
        self.metadata = self.folder / "tuf"
        self.metadata.mkdir()
        self.waiting: Waiting | None = None
        self.is_signed = True
        self.config = BoxConfig(
            "http://updates.example:8151",
            7,
            UpdaterConfig(name="the box in the kitchen", install="automatic", channel="beta"),
        )
        identity = load_identity(self.folder / "box.key")
        assert identity is not None
        self.identity = identity

    def make(self, token: str | None = None, now: Callable[[], float] = lambda: NOW) -> Composer:
        return Composer(
            identity=self.identity,
            config=self.config,
            token=token,
            installed=Installed(self.folder / "VERSION", self.folder / "IMAGE", OLD),
            archives=self.archives,
            journal=self.journal,
            is_signed=lambda: self.is_signed,
            boot_id="0f3a64a4-2f3e-4ee2-8ab5-91c5e0cbdf1d",
            metadata=self.metadata,
            waiting=lambda: self.waiting,
            now=now,
        )

    def sent(self, report: Report) -> Report:
        """What a server reads."""
        body = report.to_json()
        self.assertLessEqual(len(body), MAX_SIZE)
        return parse(body)

    def compose(self, **options: Any) -> Report:
        return self.sent(self.make().compose(1, **options))

    def write_metadata(self, name: str, content: bytes) -> None:
        (self.metadata / name).write_bytes(content)


class ComposerTests(ComposeCase):
    """The parts of a report."""

    def test_box(self) -> None:
        """A report tells what the box is and runs."""
        self.archives.keep_as_last_good(Release(OLD, None, {"sha256": "cd" * 32}))
        self.journal.write(refused=(Blocked(NEW, None, "Bad."), Blocked(NEWER, None, "Worse.")))
        self.waiting = Waiting.TURN
        for name, version in (("root.json", 3), ("snapshot.json", 12)):
            self.write_metadata(name, json.dumps({"signed": {"version": version}}).encode())
        report = self.sent(self.make().compose(41))
        self.assertEqual(
            report,
            Report(
                key=key_id(self.identity.public),
                seq=41,
                box=7,
                agent=__version__,
                release=OLD,
                channel="beta",
                install="automatic",
                root=3,
                snapshot=12,
                boot=report.boot,
                arch=report.arch,
                python="3.11",
                waiting="turn",
                last_good=OLD,
                refused=(NEW, NEWER),
                next_in=3 * 3600,
            ),
        )
        self.assertEqual(len(report.boot), 8)
        self.assertNotEqual(report.boot, "0f3a64a4", "a hash, not the identifier itself")

    def test_introduce(self) -> None:
        """With an introduction come the public key, and a proof if there is a token."""
        report = self.sent(self.make(token="secret").compose(1))
        self.assertEqual((report.pubkey, report.proof), (None, None))
        report = self.sent(self.make().compose(1, introduce=True))
        self.assertEqual((report.pubkey, report.proof), (self.identity.public.hex(), None))
        report = self.sent(self.make(token="secret").compose(1, introduce=True))
        self.assertEqual(report.pubkey, self.identity.public.hex())
        self.assertTrue(is_proved("secret", self.identity.public, report.proof))

    def test_ended(self) -> None:
        """An attempt that has ended has its outcome, and the code of its error."""
        self.journal.end(Stage.IDLE, attempt(1))
        self.assertEqual(
            self.compose().attempts,
            (
                AttemptReport(
                    id=uuid(1),
                    release=NEW,
                    previous=OLD,
                    began=1_790_000_000,
                    took=412,
                    automatic=True,
                    stage="returning",
                    outcome="returned",
                    reason="unhealthy-service",
                    tries=1,
                    fetched=141_500,
                    size=12_300_000,
                ),
            ),
        )

    def test_under_way(self) -> None:
        """An attempt that may have changed the box is reported without an outcome, as the last."""
        self.journal.end(Stage.IDLE, attempt(1))
        changes: dict[str, Any] = {"uuid": uuid(2), "previous": OLD, "release": RELEASE, "tries": 1}
        changes |= {"started": NOW - 60, "fetched": 0}
        for stage in Stage:
            with self.subTest(stage=stage):
                self.journal.write(stage=stage, **changes)
                first, *others = self.compose().attempts
                self.assertEqual(first.id, uuid(1))
                expected = AttemptReport(
                    id=uuid(2),
                    release=NEW,
                    previous=OLD,
                    began=int(NOW) - 60,
                    took=60,
                    automatic=False,
                    stage=stage.value,
                    fetched=0,
                    size=4096,
                )
                self.assertEqual(others, [expected] if stage.may_be_live else [])

    def test_acknowledged(self) -> None:
        """An attempt that the server has stored is not reported again."""
        for number in (1, 2, 3):
            self.journal.end(Stage.IDLE, attempt(number))
        self.journal.acknowledge([uuid(1), uuid(3)], 1)
        self.assertEqual([each.id for each in self.compose().attempts], [uuid(2)])

    def test_of_older_agents(self) -> None:
        """Attempts that an older agent began are not reported."""
        self.journal.end(Stage.IDLE, attempt(1, uuid=""))
        self.journal.write(stage=Stage.REBOOTING, release=RELEASE, uuid="")
        self.assertEqual(self.compose().attempts, ())

    def test_most(self) -> None:
        """If the report has no place for all attempts, it has the newest ones."""
        for number in range(30):
            self.journal.end(Stage.IDLE, attempt(number))
        self.journal.write(stage=Stage.INSTALLING, release=RELEASE, uuid=uuid(30))
        for most, numbers in (
            (1, range(30, 31)),
            (3, range(28, 31)),
            (MAX_ATTEMPTS, range(11, 31)),
            (MAX_ATTEMPTS + 9, range(11, 31)),
        ):
            found = [each.id for each in self.compose(most=most).attempts]
            self.assertEqual(found, [uuid(number) for number in numbers])

    def test_updated(self) -> None:
        """A success has no reason."""
        self.journal.end(Stage.IDLE, attempt(1, outcome="updated", code=""))
        (found,) = self.compose().attempts
        self.assertEqual((found.outcome, found.reason), ("updated", None))

    def test_clock_set(self) -> None:
        """A clock that was set makes no negative time, and none that no number can hold."""
        ended = attempt(1, started=1e300, ended=0.0)
        self.journal.end(Stage.IDLE, ended)
        (found,) = self.compose().attempts
        self.assertEqual((found.began, found.took), (MAX_NUMBER, 0))

    def test_metadata(self) -> None:
        """Without legible metadata no versions are reported; nor if the box trusts no root."""
        good = json.dumps({"signed": {"version": 3}}).encode()
        self.write_metadata("root.json", good)
        self.assertEqual((self.compose().root, self.compose().snapshot), (3, None))
        for bad in (
            b"",
            bytes(100),
            b"[]",
            b'{"signed": 1}',
            b'{"signed": {"version": "3"}}',
            b'{"signed": {"version": -1}}',
            b'{"signed": {"version": 1e999}}',
            b"[" * 60_000,
            good + b" " * 70_000,
        ):
            with self.subTest(bad=bad[:30]):
                self.write_metadata("root.json", bad)
                self.assertIsNone(self.compose().root)
        self.write_metadata("root.json", good)
        self.is_signed = False
        self.assertIsNone(self.compose().root)

    def test_no_last_good(self) -> None:
        """A disk that fails hides the last good release, and nothing more."""
        (self.folder / "last-good").mkdir()
        self.assertIsNone(self.compose().last_good)

    def test_impossible_number(self) -> None:
        """A box number that no report can hold counts as none."""
        for number in (-1, MAX_NUMBER + 1, 10**400):
            self.config = evolve(self.config, box_id=number)
            self.assertEqual(self.compose().box, 0)

    def test_sequence_number(self) -> None:
        """A sequence number that no report can hold becomes the largest one."""
        self.assertEqual(self.sent(self.make().compose(2**60)).seq, MAX_NUMBER)


class PrivacyTests(ComposeCase):
    """Nothing but the listed fields leaves the box."""

    def test_fields(self) -> None:
        """A report has exactly these fields, and no names, paths or sentences."""
        self.patch_names()
        self.journal.write(cause="It said blackbox /opt/secret.", code="install-status")
        self.journal.block(RELEASE, "The service of blackbox is inactive.")
        self.journal.postpone(RELEASE, NOW, "There is no room in /opt/secret.")
        self.journal.end(Stage.IDLE, attempt(1))
        self.journal.write(stage=Stage.ROLLING_BACK, release=RELEASE, uuid=uuid(2))
        for introduce, more in ((False, set[str]()), (True, {"pubkey", "proof"})):
            body = self.make(token="our token").compose(1, introduce=introduce).to_json()
            content = json.loads(body)
            self.assertEqual(set(content), KEYS | more)
            for each in content["attempts"]:
                self.assertEqual(set(each), ATTEMPT_KEYS)
            self.assertEqual(len(content["attempts"]), 2)
            for secret in (
                *("blackbox", "kitchen", "secret", "inactive", "room", "our token"),
                *("updates.example", "/", "0f3a64a4"),
            ):
                self.assertNotIn(secret.encode(), body)

    def patch_names(self) -> None:
        """Give the machine a name that would be seen in a report."""
        self.patch(socket, "gethostname", lambda: "blackbox")
        self.patch(platform, "node", lambda: "blackbox")


#: Whatever a journal that `cattrs` structures can contain.
INTEGERS = st.integers() | st.integers(-(2**53) - 2, 2**53 + 2)
TEXTS = st.text(max_size=50) | st.sampled_from([*(stage.value for stage in Stage), "updated", ""])
UUIDS = st.text(max_size=40) | st.integers(0, 9).map(uuid)
FLOATS = st.floats() | st.floats(0, 2e9)
OPTIONAL = st.none() | INTEGERS
RELEASES = st.none() | st.builds(Release, INTEGERS, OPTIONAL)
ATTEMPTS = st.builds(
    Attempt,
    OPTIONAL,
    FLOATS,
    FLOATS,
    TEXTS,
    TEXTS,
    INTEGERS,
    OPTIONAL,
    OPTIONAL,
    UUIDS,
    OPTIONAL,
    st.booleans(),
    TEXTS,
    INTEGERS,
    TEXTS,
    st.booleans(),
)
ENTRIES = st.builds(
    Entry,
    stage=st.sampled_from(Stage),
    release=RELEASES,
    started=FLOATS,
    uuid=UUIDS,
    previous=OPTIONAL,
    tries=INTEGERS,
    attempts=st.lists(ATTEMPTS, max_size=30).map(tuple),
    refused=st.lists(st.builds(Blocked, INTEGERS, st.none(), TEXTS), max_size=120).map(tuple),
    fetched=OPTIONAL,
    seq=INTEGERS,
)


class AnyJournalTests(ComposeCase):
    """Whatever the journal contains, a server can read the report."""

    @settings(max_examples=200)
    @given(entry=ENTRIES, now=FLOATS, most=st.integers(1, 30))
    def test_any(self, entry: Entry, now: float, most: int) -> None:
        """Any journal becomes a report that the server takes, with each attempt at most once."""
        self.journal.entry = entry
        composer = self.make(token="secret", now=lambda: now)
        report = composer.compose(entry.seq, introduce=True, most=most)
        self.assertEqual(self.sent(report), report)
        ids = [each.id for each in report.attempts]
        self.assertEqual(len(ids), len(set(ids)))

    def test_longest(self) -> None:
        """The longest journal that the agent writes becomes a report within the limit."""
        huge: dict[str, Any] = {"version": MAX_NUMBER, "previous": MAX_NUMBER, "tries": MAX_NUMBER}
        huge |= {"size": MAX_NUMBER, "fetched": MAX_NUMBER, "stage": "x" * 32, "code": "x" * 32}
        for number in range(30):
            self.journal.end(Stage.IDLE, attempt(number, outcome="x" * 32, ended=1e300, **huge))
        self.journal.write(refused=tuple(Blocked(MAX_NUMBER - n, None, "") for n in range(100)))
        report = self.sent(self.make(token="secret").compose(MAX_NUMBER, introduce=True))
        self.assertEqual((len(report.attempts), len(report.refused)), (20, 100))

    def test_on_disk(self) -> None:
        """A journal with NaN and Infinity, which Python reads, becomes a report, too."""
        self.journal.end(Stage.IDLE, attempt(1))
        path = self.folder / "journal.json"
        content = json.loads(path.read_bytes())
        content["attempts"][0] |= {"started": float("nan"), "ended": float("inf")}
        path.write_text(json.dumps(content))
        self.journal = Journal(path, "b007")
        self.assertEqual(
            cattrs.unstructure(self.journal.entry)["attempts"][0]["ended"], float("inf")
        )
        (found,) = self.compose().attempts
        self.assertEqual((found.began, found.took), (0, 0))
