"""Tests of when the server signs a timestamp, and for which metadata."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Timestamp
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.trust.offer import describe_before
from opq_twisted.trust.pace import PaceSource
from tests.helpers.archives import make_archive, name_of
from tests.helpers.signed_metadata import DAY, Signed, channel, make_key, under_id

NOW = 1_700_000_000
RELEASE = 1_600_000_000

#: The release and those a second before and after it, as sentences name them.
NAMED = "the release of 13 September 2020, 12:26 UTC"


class TimestampTestCase(SynchronousTestCase):
    """Signed metadata beside real archives, and the key to its timestamp."""

    def setUp(self) -> None:
        self.updates = Path(self.mktemp()).absolute()
        self.updates.mkdir()
        self.catalog = Catalog(self.updates)
        self.signed = Signed(self.updates, NOW)
        self.folder = MetadataFolder(self.updates)
        self.now: float = NOW
        #: Knows the pace of the rollouts.
        self.pace: PaceSource | None = None

    def archive(self, version: int = RELEASE) -> Path:
        path = make_archive(self.updates / name_of(version), version)
        self.catalog.rescan()
        return path

    def check(self, key: Signer | str | None = "timestamp") -> MetadataState:
        """Check the metadata with the key of a role, with another key, or with none."""
        signer = self.signed.keys[key] if isinstance(key, str) else key
        return refresh_timestamp(self.folder, self.catalog.snapshot, signer, self.now, self.pace)

    def assertSigned(self, because: str, snapshot: int) -> Timestamp:
        """A check signs a timestamp that boxes accept, and the next check signs nothing."""
        metadata_state = self.check()
        assert metadata_state.signed is not None, metadata_state.alerts
        self.assertIn(because, metadata_state.signed)
        timestamp = self.signed.read_timestamp()
        self.assertEqual(timestamp.snapshot_meta.version, snapshot)
        self.assertEqual(metadata_state.documents["timestamp"].signed, timestamp)
        self.assertEqual(metadata_state.documents["snapshot"].signed.version, snapshot)
        self.assertIsNone(self.check().signed)
        return timestamp

    def assertAlerts(
        self, *sentences: str, key: Signer | str | None = "timestamp"
    ) -> MetadataState:
        """A check signs nothing, and has these alerts."""
        before = self.content()
        metadata_state = self.check(key)
        self.assertEqual([alert.sentence for alert in metadata_state.alerts], list(sentences))
        self.assertIsNone(metadata_state.signed)
        self.assertEqual(self.content(), before)
        return metadata_state

    def assertWaits(self, reason: str, *, announced: int = 1, waiting: int = 2) -> None:
        """A check keeps the announced snapshot, and says why the next one waits."""
        metadata_state = self.check()
        sentence = f"Snapshot {waiting} is not announced yet: {reason}"
        self.assertEqual([alert.sentence for alert in metadata_state.alerts], [sentence])
        self.assertEqual(self.signed.read_timestamp().snapshot_meta.version, announced)
        self.assertEqual(metadata_state.documents["snapshot"].signed.version, announced)

    def assertRootRefused(self, version: int, reason: str, newest: int | None = None) -> None:
        """A check says why no box will accept a root; boxes use the newest of the others."""
        state = self.assertAlerts(f"No box will accept {version}.root.json: {reason}")
        if newest is not None:
            self.assertEqual(state.documents["root"].signed.version, newest)

    def content(self) -> bytes | None:
        path = self.signed.folder / "timestamp.json"
        return path.read_bytes() if path.exists() else None


class ReasonTests(TimestampTestCase):
    """The reasons for a new timestamp."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_none(self) -> None:
        """The first one is valid for 7 days, with the version, length and hash of the snapshot."""
        timestamp = self.assertSigned("there was none", 1)
        self.assertEqual(timestamp.expires, datetime.fromtimestamp(NOW + 7 * DAY, UTC))
        timestamp.snapshot_meta.verify_length_and_hashes(
            (self.signed.folder / "1.snapshot.json").read_bytes()
        )
        self.assertEqual(set(timestamp.snapshot_meta.hashes or {}), {"sha256"})
        self.assertIsNotNone(timestamp.snapshot_meta.length)

    def test_mode(self) -> None:
        """All users may read it, whatever the umask of the service is."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.check()
        mode = (self.signed.folder / "timestamp.json").stat().st_mode
        self.assertEqual(mode & 0o777, 0o644)

    def test_new_snapshot(self) -> None:
        """A newer snapshot is announced at once."""
        self.check()
        self.signed.publish(2)
        self.assertSigned("names snapshot 1", 2)

    def test_half_of_its_life(self) -> None:
        """It is signed again when half of its life is over, and not before."""
        self.check()
        self.now = NOW + 3.5 * DAY - 1
        self.assertIsNone(self.check().signed)
        self.now = NOW + 3.5 * DAY
        self.assertSigned("half of the old one's life is over", 1)

    def test_expired(self) -> None:
        """An expired one is replaced."""
        self.check()
        self.now = NOW + 30 * DAY
        self.assertSigned("half of the old one's life is over", 1)

    def test_absurd_expiry(self) -> None:
        """One that was signed while the clock was far ahead is replaced."""
        self.signed.timestamp(7, 1, days=8)
        self.assertIsNone(self.check().signed)
        self.signed.timestamp(8, 1, days=8.1)
        self.assertSigned("the old one lives too long", 1)

    def test_wrong_signature(self) -> None:
        """One that is not signed as the root requires is replaced, even if it is fresh."""
        self.signed.timestamp(7, 1, signer=make_key())
        self.assertSigned("there was none that boxes accept", 1)

    def test_damaged(self) -> None:
        """A damaged one is replaced."""
        self.check()
        path = self.signed.folder / "timestamp.json"
        path.write_bytes(path.read_bytes()[:-10])
        self.assertSigned("there was none that boxes accept", 1)

    def test_snapshot_replaced(self) -> None:
        """One that names another file of the same version is replaced."""
        self.check()
        self.signed.snapshot(1, 1, days=300)
        self.assertSigned("the old one names another file", 1)

    def test_key_rotated(self) -> None:
        """After a new root names another key, the timestamp is replaced."""
        before = self.assertSigned("there was none", 1)
        self.signed.rotate("timestamp", 2)
        self.now += 1
        after = self.assertSigned("there was none that boxes accept", 1)
        self.assertGreater(after.version, before.version)

    def test_not_because_of_another_root(self) -> None:
        """A new root with the same key needs no new timestamp."""
        self.check()
        self.signed.root(2)
        metadata_state = self.check()
        self.assertIsNone(metadata_state.signed)
        self.assertEqual(metadata_state.documents["root"].signed.version, 2)


class VersionTests(TimestampTestCase):
    """The timestamp's version never decreases."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_time(self) -> None:
        """It is the time, so that it need not be stored."""
        self.assertEqual(self.assertSigned("", 1).version, NOW)
        (self.signed.folder / "timestamp.json").unlink()
        self.now += 60
        self.assertEqual(self.assertSigned("", 1).version, NOW + 60)

    def test_clock_set_back(self) -> None:
        """After a timestamp from a clock that was ahead, it is one more than that one's version."""
        self.signed.timestamp(NOW + 500, 1, days=1)
        self.assertEqual(self.assertSigned("", 1).version, NOW + 501)

    def test_not_signed(self) -> None:
        """The version of an unsigned timestamp does not count, because anybody could write it."""
        self.signed.timestamp(10**18, 1, signer=make_key())
        self.assertEqual(self.assertSigned("", 1).version, NOW)

    def test_after_a_rotation(self) -> None:
        """Nor does the version of a timestamp whose key was rotated, because boxes forget it."""
        self.signed.timestamp(10**18, 1)
        self.signed.rotate("timestamp", 2)
        self.assertEqual(self.assertSigned("", 1).version, NOW)

    def test_last_one(self) -> None:
        """If a thief of the key uses up all versions, the alert names the remedy."""
        self.signed.timestamp(int("9" * 4300), 1, days=1)
        self.assertAlerts(
            "No version comes after that of timestamp.json: whoever signed it has the key too. "
            "Make another one: opq-release rotate timestamp."
        )

    def test_within_a_second(self) -> None:
        """Two timestamps in one second have different versions."""
        self.check()
        self.signed.publish(2)
        self.assertEqual(self.assertSigned("", 2).version, NOW + 1)


class CompleteTests(TimestampTestCase):
    """A snapshot is announced when boxes can follow it to the end."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.archive()
        self.signed.init().publish(1, self.path)
        self.assertSigned("", 1)

    def test_targets_missing(self) -> None:
        """A snapshot waits for its targets."""
        self.signed.publish(2, self.path)
        (self.signed.folder / "2.targets.json").unlink()
        self.assertWaits("2.targets.json is not there.")
        self.signed.targets(2, {"stable": channel(self.path)})
        self.assertSigned("names snapshot 1", 2)

    def test_half_copied(self) -> None:
        """Neither the snapshot nor its targets may be half copied."""
        self.signed.publish(2, self.path)
        for name in ("2.snapshot.json", "2.targets.json"):
            path = self.signed.folder / name
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            self.assertWaits(f"{name} is damaged or incomplete.")
            path.write_bytes(whole)
        self.assertSigned("names snapshot 1", 2)

    def test_not_signed(self) -> None:
        """Both have to be signed by the keys that the root names for them."""
        for role in ("snapshot", "targets"):
            right = self.signed.keys[role]
            self.signed.keys[role] = make_key()
            self.signed.publish(2, self.path)
            self.signed.keys[role] = right
            if role == "targets":
                self.signed.snapshot(2, 2)
            self.assertWaits(
                f"2.{role}.json is not signed by enough of the "
                f"keys that version 1 of root names for {role}."
            )

    def test_expired(self) -> None:
        """Neither may have expired."""
        self.signed.publish(2, self.path, days=-1)
        self.assertWaits("2.snapshot.json has expired; sign it again with: opq-release resign.")
        self.signed.snapshot(2, 2)
        self.assertWaits("2.targets.json has expired; sign it again with: opq-release resign.")

    def test_other_hash(self) -> None:
        """The targets need the length and hashes that the snapshot names, if any."""
        self.signed.targets(2, {"stable": channel(self.path)})
        self.signed.snapshot(2, 2, hashes={"sha256": "ab" * 32})
        self.assertWaits("2.targets.json is not the file that 2.snapshot.json names.")

    def test_wrong_name(self) -> None:
        """The version and role in a file have to agree with its name."""
        folder = self.signed.folder
        (folder / "2.snapshot.json").write_bytes((folder / "1.snapshot.json").read_bytes())
        self.assertWaits("2.snapshot.json holds version 1.")
        (folder / "2.snapshot.json").write_bytes((folder / "1.targets.json").read_bytes())
        self.assertWaits("2.snapshot.json holds the metadata of another role.")

    def test_rollback(self) -> None:
        """A snapshot with older targets than the previous one is not announced: boxes refuse it."""
        self.signed.publish(2, self.path)
        self.assertSigned("", 2)
        self.signed.snapshot(3, 1)
        self.assertWaits(
            "boxes know a newer version of targets.json from 2.snapshot.json.",
            announced=2,
            waiting=3,
        )

    def test_archive_missing(self) -> None:
        """The archive of each channel has to be on offer, with the signed length."""
        newer = make_archive(Path(self.mktemp()).with_name(name_of(RELEASE + 1)), RELEASE + 1)
        self.signed.targets(2, {"stable": channel(self.path), "beta": channel(newer)})
        self.signed.snapshot(2, 2)
        self.assertWaits(
            f"channel beta leads to {NAMED}, which is not here or not whole: "
            f"copy {newer.name} to this server."
        )
        size = newer.stat().st_size
        make_archive(self.updates / newer.name, RELEASE + 1, {"more": b"x" * 999})
        self.catalog.rescan()
        self.assertWaits(
            f"channel beta leads to {NAMED}, of {size} bytes, but the one here has "
            f"{(self.updates / newer.name).stat().st_size}: "
            f"copy the signed {newer.name} to this server."
        )
        newer.rename(self.updates / newer.name)
        self.catalog.rescan()
        self.assertSigned("names snapshot 1", 2)

    def test_archive_before_missing(self) -> None:
        """So has the archive of a channel's previous release."""
        older = make_archive(Path(self.mktemp()).with_name(name_of(RELEASE - 1)), RELEASE - 1)
        custom = {"rollout": {"percent": 1, "salt": "x"}, "before": describe_before(channel(older))}
        self.signed.publish(2, self.path, custom=custom)
        self.assertWaits(
            f"channel stable leads to {NAMED}, "
            f"which is not here or not whole: copy {older.name} to this server."
        )
        older.rename(self.updates / older.name)
        self.catalog.rescan()
        self.assertSigned("names snapshot 1", 2)

    def test_archive_taken_away(self) -> None:
        """An announced snapshot stays announced, even without its archive."""
        self.path.unlink()
        self.catalog.rescan()
        self.now += 4 * DAY
        self.assertSigned("half of the old one's life is over", 1)
        self.assertAlerts(
            f"The announced channel stable leads to {NAMED}, which is not here or not whole: copy "
            f"{self.path.name} to this server, or end the channel with: opq-release drop stable."
        )

    def test_channel_left_alone(self) -> None:
        """A missing archive of one channel does not delay a release in another one."""
        old, newer = channel(self.path), self.archive(RELEASE + 1)
        self.path.unlink()
        self.catalog.rescan()
        self.signed.targets(2, {"stable": old, "beta": channel(newer)})
        self.signed.snapshot(2, 2)
        self.assertSigned("names snapshot 1", 2)
        self.assertAlerts(
            f"The announced channel stable leads to {NAMED}, which is not here or not whole: copy "
            f"{self.path.name} to this server, or end the channel with: opq-release drop stable."
        )

    def test_next_best(self) -> None:
        """Of several newer snapshots the newest complete one is announced."""
        for version in (2, 3, 4):
            self.signed.publish(version, self.path)
        (self.signed.folder / "4.targets.json").unlink()
        metadata_state = self.check()
        self.assertEqual(self.signed.read_timestamp().snapshot_meta.version, 3)
        self.assertEqual(
            [alert.sentence for alert in metadata_state.alerts],
            ["Snapshot 4 is not announced yet: 4.targets.json is not there."],
        )

    def test_never_back(self) -> None:
        """If the announced snapshot is gone, an older one is not announced."""
        self.signed.publish(2, self.path)
        self.assertSigned("", 2)
        (self.signed.folder / "2.snapshot.json").unlink()
        self.now += 4 * DAY
        self.assertAlerts("Snapshot 2 can be announced no longer: 2.snapshot.json is not there.")

    def test_never_back_after_a_rotation(self) -> None:
        """Nor is it if the timestamp key was rotated, and the archive is gone too."""
        newer = self.archive(RELEASE + 1)
        self.signed.publish(2, newer)
        self.assertSigned("", 2)
        self.signed.rotate("timestamp", 2)
        newer.unlink()
        self.catalog.rescan()
        self.assertSigned("there was none that boxes accept", 2)

    def test_expired_later(self) -> None:
        """An expired snapshot is no longer announced, because boxes would refuse it."""
        self.now += 366 * DAY
        self.assertAlerts(
            "Snapshot 1 can be announced no longer: 1.snapshot.json has expired; "
            "sign it again with: opq-release resign."
        )

    def test_snapshot_key_rotated(self) -> None:
        """After a new root names another key, the snapshot has to be signed again."""
        self.signed.rotate("snapshot", 2)
        self.now += 4 * DAY
        self.assertAlerts(
            "Snapshot 1 can be announced no longer: 1.snapshot.json is not signed by enough of "
            "the keys that version 2 of root names for snapshot."
        )
        self.signed.publish(2, self.path)
        self.assertSigned("names snapshot 1", 2)

    def test_many_old_ones(self) -> None:
        """Only a limited number of newer snapshots is read."""
        for version in range(2, 40):
            self.signed.snapshot(version, 1000)
        self.assertWaits("1000.targets.json is not there.", waiting=39)


class RootTests(TimestampTestCase):
    """The chain of roots."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)
        self.assertSigned("", 1)

    def test_not_by_the_one_before(self) -> None:
        """A root that the previous root's keys did not sign is not followed."""
        self.signed.root(2, signers=[make_key()])
        self.assertRootRefused(
            2,
            "2.root.json is not signed by enough of the keys that "
            "version 2 of root names for root.",
            newest=1,
        )
        before = self.signed.keys["root"]
        self.signed.keys["root"] = make_key()
        self.signed.root(2)
        self.assertRootRefused(
            2,
            "2.root.json is not signed by enough of the keys that "
            "version 1 of root names for root.",
        )
        self.signed.root(2, signers=[before, self.signed.keys["root"]])
        self.assertAlerts()

    def test_the_first_that_is_there(self) -> None:
        """The chain may start with a later root."""
        self.signed.rotate("root", 2)
        (self.signed.folder / "1.root.json").unlink()
        self.assertEqual(self.assertAlerts().documents["root"].signed.version, 2)

    def test_false_id(self) -> None:
        """A root that gives a key the id of another one is not followed."""
        right = self.signed.keys["targets"]
        false = under_id(make_key(), right.public_key.keyid)
        self.signed.keys["targets"] = false
        self.signed.root(2)
        self.assertRootRefused(
            2,
            "2.root.json cannot be trusted: root 2 gives a key the "
            f"id {right.public_key.keyid[:12]!r}, which is not its own.",
        )

    def test_gap(self) -> None:
        """A root after a gap is reported, and stops nothing."""
        self.signed.root(9)
        self.assertRootRefused(9, "root 2 is not there.", newest=1)

    def test_first_damaged(self) -> None:
        """If the first root is damaged, the chain starts with the next one."""
        self.signed.root(2)
        path = self.signed.folder / "1.root.json"
        path.write_bytes(path.read_bytes()[:-10])
        self.assertRootRefused(1, "1.root.json is damaged or incomplete.", newest=2)

    def test_by_number(self) -> None:
        """Roots are sorted by number."""
        for version in range(2, 11):
            self.signed.root(version)
        self.assertEqual(self.assertAlerts().documents["root"].signed.version, 10)

    def test_none(self) -> None:
        """Without a root nothing is signed."""
        (self.signed.folder / "1.root.json").unlink()
        self.assertAlerts("There is no root.json.")

    def test_half_copied(self) -> None:
        """A half copied root is reported, and the previous one is used."""
        self.signed.root(2)
        path = self.signed.folder / "2.root.json"
        path.write_bytes(path.read_bytes()[:-10])
        self.assertRootRefused(2, "2.root.json is damaged or incomplete.", newest=1)


class KeyTests(TimestampTestCase):
    """The reasons for not using the timestamp key."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init()

    def test_not_in_the_root(self) -> None:
        """A key that the root does not name signs nothing, and is reported before it is needed."""
        key = make_key()
        sentence = (
            f"The key {key.public_key.keyid[:12]} of --timestamp-key is not one that version 1 of "
            "root names for timestamp: no timestamp is signed. Start the server with the right "
            "key, or let the root name this one: opq-release rotate timestamp."
        )
        self.signed.publish(1)
        self.assertAlerts(sentence, key=key)
        self.signed.timestamp(5, 1)
        metadata_state = self.assertAlerts(sentence, key=key)
        self.assertEqual(metadata_state.documents["timestamp"].signed.version, 5)

    def test_two_needed(self) -> None:
        """One key is not enough for a root that requires two."""
        self.signed.publish(1)
        other = make_key()
        root = self.signed.root(1)
        root.signed.add_key(other.public_key, "timestamp")
        root.signed.roles["timestamp"].threshold = 2
        self.signed.write(root, self.signed.keys["root"])
        self.assertAlerts(
            "Version 1 of root requires the signatures of several timestamp keys, and this server "
            "has one: boxes would not accept the new timestamp."
        )

    def test_cannot_be_written(self) -> None:
        """A timestamp that cannot be written is reported, and the old file stays."""
        self.signed.publish(1)
        path = self.signed.folder / "timestamp.json"
        path.mkdir()
        sentence = f"Cannot write {path}: Is a directory."
        self.assertEqual([each.sentence for each in self.check().alerts], [sentence])
        self.assertEqual([each.name for each in self.signed.folder.glob(".*")], [])
        path.rmdir()
        self.assertSigned("", 1)

    def test_clock_behind(self) -> None:
        """With a clock before the newest release nothing is signed."""
        self.signed.publish(1, self.archive())
        self.now = RELEASE - 1
        self.assertAlerts(
            f"This machine's clock shows a time before release {RELEASE} was built, so no "
            "timestamp is signed. Set the clock; if it is right, the clock of the building machine "
            "was ahead: see what opq-release status says on the release machine."
        )
        self.now = RELEASE
        self.assertSigned("", 1)

    def test_nothing_yet(self) -> None:
        """Without a snapshot or without the folder nothing is signed."""
        self.assertAlerts("There is no snapshot to announce.")
        self.signed.folder.rename(self.mktemp())
        metadata_state = self.assertAlerts(
            f"There is no signed metadata in {self.signed.folder}. Run opq-release push on the "
            "release machine, after opq-release init there once."
        )
        self.assertFalse(metadata_state.present)


class FollowTests(TimestampTestCase):
    """A server without the key checks the metadata of another server, and writes nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_well(self) -> None:
        """It shows the announced metadata, and ignores newer files."""
        self.signed.timestamp(5, 1)
        self.signed.publish(2)
        metadata_state = self.assertAlerts(key=None)
        self.assertEqual(
            {role: document.signed.version for role, document in metadata_state.documents.items()},
            {"root": 1, "timestamp": 5, "snapshot": 1, "targets": 1},
        )

    def test_gone(self) -> None:
        """Without metadata there is no alert."""
        self.signed.folder.rename(self.mktemp())
        self.assertFalse(self.assertAlerts(key=None).present)

    def test_missing(self) -> None:
        """A missing timestamp is reported."""
        self.assertAlerts("No box accepts the timestamp: timestamp.json is not there.", key=None)

    def test_expired(self) -> None:
        """An expired timestamp is reported, and still shown."""
        self.signed.timestamp(5, 1, days=-1)
        metadata_state = self.assertAlerts(
            "The timestamp has expired. Copy tuf/ from the server that signs it.", key=None
        )
        self.assertIn("timestamp", metadata_state.documents)

    def test_gap(self) -> None:
        """A timestamp that leads to a missing file is reported."""
        self.signed.timestamp(5, 1)
        (self.signed.folder / "1.targets.json").unlink()
        self.assertAlerts(
            "The timestamp announces snapshot 1, but boxes cannot follow it: 1.targets.json is not "
            "there.",
            key=None,
        )


class FileTests(TimestampTestCase):
    """The files that count as metadata."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_links(self) -> None:
        """A link inside the folder is followed; a link out of it is not."""
        path = self.signed.folder / "1.snapshot.json"
        path.rename(self.signed.folder / "kept")
        path.symlink_to("kept")
        self.assertSigned("", 1)
        (self.signed.folder / "kept").rename(self.updates / "kept")
        path.unlink()
        path.symlink_to("../kept")
        self.now += 4 * DAY
        self.assertAlerts(
            "Snapshot 1 can be announced no longer: 1.snapshot.json cannot be used: "
            "it is a link that leads out of the directory."
        )

    def test_folder_elsewhere(self) -> None:
        """Nor is a folder that is a link out of the updates directory."""
        elsewhere = Path(self.mktemp()).absolute()
        self.signed.folder.rename(elsewhere)
        self.signed.folder.symlink_to(elsewhere)
        self.assertRootRefused(1, "tuf is a link that leads out of the updates directory.")

    def test_too_long(self) -> None:
        """A file that is longer than a box accepts is refused."""
        path = self.signed.folder / "1.root.json"
        path.write_bytes(path.read_bytes() + b" " * 512_000)
        self.assertRootRefused(1, "1.root.json is longer than a box accepts: 512000 bytes.")

    def test_read_once(self) -> None:
        """Only changed files are read again."""
        self.check()
        self.check()
        parsed: list[bytes] = []
        real = Metadata.from_bytes

        def parse(data: bytes) -> Metadata[Any]:
            parsed.append(data)
            return real(data)

        self.patch(Metadata, "from_bytes", parse)
        self.check()
        self.assertEqual(parsed, [])
        self.signed.snapshot(1, 1, days=200)
        self.check()
        self.assertEqual(parsed[:1], [(self.signed.folder / "1.snapshot.json").read_bytes()])
