"""When the server signs a timestamp, what it names, and what it never does."""

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
from tests.helpers.archives import make_archive, name_of
from tests.helpers.signed_metadata import DAY, Signed, channel, make_key, under_id

NOW = 1_700_000_000
RELEASE = 1_600_000_000


class TimestampTestCase(SynchronousTestCase):
    """Signed metadata beside real archives, and the key to its timestamp."""

    def setUp(self) -> None:
        self.updates = Path(self.mktemp()).absolute()
        self.updates.mkdir()
        self.catalog = Catalog(self.updates)
        self.signed = Signed(self.updates, NOW)
        self.folder = MetadataFolder(self.updates)
        self.now: float = NOW

    def archive(self, version: int = RELEASE) -> Path:
        path = make_archive(self.updates / name_of(version), version)
        self.catalog.rescan()
        return path

    def look(self, key: Signer | str | None = "timestamp") -> MetadataState:
        """Look with the key of a role, with another key, or with none."""
        signer = self.signed.keys[key] if isinstance(key, str) else key
        return refresh_timestamp(self.folder, self.catalog.snapshot, signer, self.now)

    def assertSigned(self, because: str, snapshot: int) -> Timestamp:
        """A look signs a timestamp that boxes accept, and the next look finds nothing to do."""
        metadata_state = self.look()
        assert metadata_state.signed is not None, metadata_state.alerts
        self.assertIn(because, metadata_state.signed)
        timestamp = self.signed.read_timestamp()
        self.assertEqual(timestamp.snapshot_meta.version, snapshot)
        self.assertEqual(metadata_state.documents["timestamp"].signed, timestamp)
        self.assertEqual(metadata_state.documents["snapshot"].signed.version, snapshot)
        self.assertIsNone(self.look().signed)
        return timestamp

    def assertAlerts(
        self, *sentences: str, key: Signer | str | None = "timestamp"
    ) -> MetadataState:
        """A look signs nothing, and tells of this only."""
        before = self.content()
        metadata_state = self.look(key)
        self.assertEqual([alert.sentence for alert in metadata_state.alerts], list(sentences))
        self.assertIsNone(metadata_state.signed)
        self.assertEqual(self.content(), before)
        return metadata_state

    def assertWaits(self, told: int, waiting: str) -> None:
        """A look leaves boxes with what they were told of, and says what is waited for."""
        metadata_state = self.look()
        self.assertEqual([alert.sentence for alert in metadata_state.alerts], [waiting])
        self.assertEqual(self.signed.read_timestamp().snapshot_meta.version, told)
        self.assertEqual(metadata_state.documents["snapshot"].signed.version, told)

    def content(self) -> bytes | None:
        path = self.signed.folder / "timestamp.json"
        return path.read_bytes() if path.exists() else None


class ReasonTests(TimestampTestCase):
    """Why there has to be a new timestamp."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_none(self) -> None:
        """The first one: good for 7 days, with the version, length and hash of the snapshot."""
        timestamp = self.assertSigned("there was none", 1)
        self.assertEqual(timestamp.expires, datetime.fromtimestamp(NOW + 7 * DAY, UTC))
        timestamp.snapshot_meta.verify_length_and_hashes(
            (self.signed.folder / "1.snapshot.json").read_bytes()
        )
        self.assertEqual(set(timestamp.snapshot_meta.hashes or {}), {"sha256"})
        self.assertIsNotNone(timestamp.snapshot_meta.length)

    def test_mode(self) -> None:
        """Whoever copies the folder may read it, though the service's umask would forbid that."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.look()
        mode = (self.signed.folder / "timestamp.json").stat().st_mode
        self.assertEqual(mode & 0o777, 0o644)

    def test_new_snapshot(self) -> None:
        """A newer snapshot is named at once."""
        self.look()
        self.signed.publish(2)
        self.assertSigned("names snapshot 1", 2)

    def test_half_of_its_life(self) -> None:
        """It is signed anew when half of its life is over, and not before."""
        self.look()
        self.now = NOW + 3.5 * DAY - 1
        self.assertIsNone(self.look().signed)
        self.now = NOW + 3.5 * DAY
        self.assertSigned("half of the old one's life is over", 1)

    def test_expired(self) -> None:
        """An expired one is replaced, whatever kept the server from it."""
        self.look()
        self.now = NOW + 30 * DAY
        self.assertSigned("half of the old one's life is over", 1)

    def test_absurd_expiry(self) -> None:
        """One that was signed while the clock was far ahead is replaced."""
        self.signed.timestamp(7, 1, days=8)
        self.assertIsNone(self.look().signed)
        self.signed.timestamp(8, 1, days=8.1)
        self.assertSigned("the old one lives too long", 1)

    def test_wrong_signature(self) -> None:
        """One that is not signed as the root wants it is replaced, however fresh it is."""
        self.signed.timestamp(7, 1, signer=make_key())
        self.assertSigned("there was none that boxes accept", 1)

    def test_damaged(self) -> None:
        """One that is not whole is replaced."""
        self.look()
        path = self.signed.folder / "timestamp.json"
        path.write_bytes(path.read_bytes()[:-10])
        self.assertSigned("there was none that boxes accept", 1)

    def test_snapshot_replaced(self) -> None:
        """One that names another file of the same version is replaced."""
        self.look()
        self.signed.snapshot(1, 1, days=300)
        self.assertSigned("the old one names another file", 1)

    def test_key_rotated(self) -> None:
        """A new root that names another key makes the old timestamp worthless."""
        before = self.assertSigned("there was none", 1)
        self.signed.rotate("timestamp", 2)
        self.now += 1
        after = self.assertSigned("there was none that boxes accept", 1)
        self.assertGreater(after.version, before.version)

    def test_not_because_of_another_root(self) -> None:
        """A new root that leaves the key as it is needs no new timestamp."""
        self.look()
        self.signed.root(2)
        metadata_state = self.look()
        self.assertIsNone(metadata_state.signed)
        self.assertEqual(metadata_state.documents["root"].signed.version, 2)


class VersionTests(TimestampTestCase):
    """The timestamp's version never goes back."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_time(self) -> None:
        """It is the time, so that nothing need be remembered."""
        self.assertEqual(self.assertSigned("", 1).version, NOW)
        (self.signed.folder / "timestamp.json").unlink()
        self.now += 60
        self.assertEqual(self.assertSigned("", 1).version, NOW + 60)

    def test_clock_set_back(self) -> None:
        """After one that was signed when the clock was ahead, it is one more than that."""
        self.signed.timestamp(NOW + 500, 1, days=1)
        self.assertEqual(self.assertSigned("", 1).version, NOW + 501)

    def test_not_signed(self) -> None:
        """One that nobody signed does not count: anybody could have used up the versions."""
        self.signed.timestamp(10**18, 1, signer=make_key())
        self.assertEqual(self.assertSigned("", 1).version, NOW)

    def test_after_a_rotation(self) -> None:
        """Nor does that of a key that was rotated: boxes forget it, and whoever stole it is out."""
        self.signed.timestamp(10**18, 1)
        self.signed.rotate("timestamp", 2)
        self.assertEqual(self.assertSigned("", 1).version, NOW)

    def test_last_one(self) -> None:
        """A thief of the key can use up all versions: the log says what to do about it."""
        self.signed.timestamp(int("9" * 4300), 1, days=1)
        self.assertAlerts(
            "No version comes after that of timestamp.json: whoever signed it has the key too. "
            "Make another one: opq-release rotate timestamp."
        )

    def test_within_a_second(self) -> None:
        """Two in one second differ."""
        self.look()
        self.signed.publish(2)
        self.assertEqual(self.assertSigned("", 2).version, NOW + 1)


class CompleteTests(TimestampTestCase):
    """A snapshot is named when boxes can follow it to the end."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.archive()
        self.signed.init().publish(1, self.path)
        self.assertSigned("", 1)

    def test_targets_missing(self) -> None:
        """Its targets have to be there."""
        self.signed.publish(2, self.path)
        (self.signed.folder / "2.targets.json").unlink()
        self.assertWaits(1, "Snapshot 2 is not announced yet: 2.targets.json is not there.")
        self.signed.targets(2, {"stable": channel(self.path)})
        self.assertSigned("names snapshot 1", 2)

    def test_half_copied(self) -> None:
        """Neither it nor its targets may be half copied."""
        self.signed.publish(2, self.path)
        for name in ("2.snapshot.json", "2.targets.json"):
            path = self.signed.folder / name
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            self.assertWaits(
                1,
                f"Snapshot 2 is not announced yet: {name} is damaged or incomplete.",
            )
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
                1,
                f"Snapshot 2 is not announced yet: 2.{role}.json is not signed by enough of the "
                f"keys that version 1 of root names for {role}.",
            )

    def test_expired(self) -> None:
        """Neither may have expired."""
        self.signed.publish(2, self.path, days=-1)
        self.assertWaits(
            1,
            "Snapshot 2 is not announced yet: 2.snapshot.json has expired; "
            "sign it again with: opq-release resign.",
        )
        self.signed.snapshot(2, 2)
        self.assertWaits(
            1,
            "Snapshot 2 is not announced yet: 2.targets.json has expired; "
            "sign it again with: opq-release resign.",
        )

    def test_other_hash(self) -> None:
        """The targets have to be those that it names, where it names a length or hashes."""
        self.signed.targets(2, {"stable": channel(self.path)})
        self.signed.snapshot(2, 2, hashes={"sha256": "ab" * 32})
        self.assertWaits(
            1,
            "Snapshot 2 is not announced yet: 2.targets.json is not the file that "
            "2.snapshot.json names.",
        )

    def test_wrong_name(self) -> None:
        """A file says itself which version it is, and whose."""
        folder = self.signed.folder
        (folder / "2.snapshot.json").write_bytes((folder / "1.snapshot.json").read_bytes())
        self.assertWaits(1, "Snapshot 2 is not announced yet: 2.snapshot.json holds version 1.")
        (folder / "2.snapshot.json").write_bytes((folder / "1.targets.json").read_bytes())
        self.assertWaits(
            1,
            "Snapshot 2 is not announced yet: 2.snapshot.json holds the metadata of another role.",
        )

    def test_rollback(self) -> None:
        """It may not name older targets than the one before: boxes would refuse it."""
        self.signed.publish(2, self.path)
        self.assertSigned("", 2)
        self.signed.snapshot(3, 1)
        self.assertWaits(
            2,
            "Snapshot 3 is not announced yet: boxes know a newer version of "
            "targets.json from 2.snapshot.json.",
        )

    def test_archive_missing(self) -> None:
        """The archive of each channel has to be on offer, whole, with the length that is signed."""
        newer = make_archive(Path(self.mktemp()).with_name(name_of(RELEASE + 1)), RELEASE + 1)
        self.signed.targets(2, {"stable": channel(self.path), "beta": channel(newer)})
        self.signed.snapshot(2, 2)
        self.assertWaits(
            1,
            f"Snapshot 2 is not announced yet: channel beta leads to {newer.name}, "
            "which is not on offer.",
        )
        size = newer.stat().st_size
        make_archive(self.updates / newer.name, RELEASE + 1, {"more": b"x" * 999})
        self.catalog.rescan()
        self.assertWaits(
            1,
            f"Snapshot 2 is not announced yet: channel beta leads to {newer.name} of {size} bytes, "
            f"but the one on offer has {(self.updates / newer.name).stat().st_size}.",
        )
        newer.rename(self.updates / newer.name)
        self.catalog.rescan()
        self.assertSigned("names snapshot 1", 2)

    def test_archive_before_missing(self) -> None:
        """So has that of the release that boxes take until their turn comes."""
        older = make_archive(Path(self.mktemp()).with_name(name_of(RELEASE - 1)), RELEASE - 1)
        custom = {"rollout": {"percent": 1, "salt": "x"}, "before": describe_before(channel(older))}
        self.signed.publish(2, self.path, custom=custom)
        self.assertWaits(
            1,
            f"Snapshot 2 is not announced yet: channel stable leads to {older.name}, "
            "which is not on offer.",
        )
        older.rename(self.updates / older.name)
        self.catalog.rescan()
        self.assertSigned("names snapshot 1", 2)

    def test_archive_taken_away(self) -> None:
        """What boxes were told of already goes on being told, also without its archive."""
        self.path.unlink()
        self.catalog.rescan()
        self.now += 4 * DAY
        self.assertSigned("half of the old one's life is over", 1)
        self.assertAlerts(
            f"The announced channel stable leads to {self.path.name}, which is not on offer. "
            "Put it back, or run opq-release drop."
        )

    def test_channel_left_alone(self) -> None:
        """An archive that one channel has lost does not hold back what is new in another."""
        old, newer = channel(self.path), self.archive(RELEASE + 1)
        self.path.unlink()
        self.catalog.rescan()
        self.signed.targets(2, {"stable": old, "beta": channel(newer)})
        self.signed.snapshot(2, 2)
        self.assertSigned("names snapshot 1", 2)
        self.assertAlerts(
            f"The announced channel stable leads to {self.path.name}, which is not on offer. "
            "Put it back, or run opq-release drop."
        )

    def test_next_best(self) -> None:
        """Of several newer ones the newest that is complete is named."""
        for version in (2, 3, 4):
            self.signed.publish(version, self.path)
        (self.signed.folder / "4.targets.json").unlink()
        metadata_state = self.look()
        self.assertEqual(self.signed.read_timestamp().snapshot_meta.version, 3)
        self.assertEqual(
            [alert.sentence for alert in metadata_state.alerts],
            ["Snapshot 4 is not announced yet: 4.targets.json is not there."],
        )

    def test_never_back(self) -> None:
        """When the named one is gone, boxes are not taken back to an older one."""
        self.signed.publish(2, self.path)
        self.assertSigned("", 2)
        (self.signed.folder / "2.snapshot.json").unlink()
        self.now += 4 * DAY
        self.assertAlerts("Snapshot 2 can be announced no longer: 2.snapshot.json is not there.")

    def test_never_back_after_a_rotation(self) -> None:
        """Nor are they when the timestamp's key was rotated, and the archive is gone too."""
        newer = self.archive(RELEASE + 1)
        self.signed.publish(2, newer)
        self.assertSigned("", 2)
        self.signed.rotate("timestamp", 2)
        newer.unlink()
        self.catalog.rescan()
        self.assertSigned("there was none that boxes accept", 2)

    def test_expired_later(self) -> None:
        """One that has expired meanwhile is told of no longer: boxes would refuse it."""
        self.now += 366 * DAY
        self.assertAlerts(
            "Snapshot 1 can be announced no longer: 1.snapshot.json has expired; "
            "sign it again with: opq-release resign."
        )

    def test_snapshot_key_rotated(self) -> None:
        """After a new root named another key for it, the snapshot has to be signed again."""
        self.signed.rotate("snapshot", 2)
        self.now += 4 * DAY
        self.assertAlerts(
            "Snapshot 1 can be announced no longer: 1.snapshot.json is not signed by enough of "
            "the keys that version 2 of root names for snapshot."
        )
        self.signed.publish(2, self.path)
        self.assertSigned("names snapshot 1", 2)

    def test_many_old_ones(self) -> None:
        """Of old snapshots that nobody follows any more only the newest are looked at."""
        for version in range(2, 40):
            self.signed.snapshot(version, 1000)
        self.assertWaits(1, "Snapshot 39 is not announced yet: 1000.targets.json is not there.")


class RootTests(TimestampTestCase):
    """Which root counts."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)
        self.assertSigned("", 1)

    def test_not_by_the_one_before(self) -> None:
        """A root that the one before did not sign is none that boxes come to."""
        self.signed.root(2, signers=[make_key()])
        metadata_state = self.assertAlerts(
            "No box will accept 2.root.json: 2.root.json is not signed by enough of the keys that "
            "version 2 of root names for root."
        )
        self.assertEqual(metadata_state.documents["root"].signed.version, 1)
        before = self.signed.keys["root"]
        self.signed.keys["root"] = make_key()
        self.signed.root(2)
        self.assertAlerts(
            "No box will accept 2.root.json: 2.root.json is not signed by enough of the keys that "
            "version 1 of root names for root."
        )
        self.signed.root(2, signers=[before, self.signed.keys["root"]])
        self.assertAlerts()

    def test_the_first_that_is_there(self) -> None:
        """Roots that were removed are not asked."""
        self.signed.rotate("root", 2)
        (self.signed.folder / "1.root.json").unlink()
        self.assertEqual(self.assertAlerts().documents["root"].signed.version, 2)

    def test_false_id(self) -> None:
        """A root that gives a key the id of another one is not followed."""
        right = self.signed.keys["targets"]
        false = under_id(make_key(), right.public_key.keyid)
        self.signed.keys["targets"] = false
        self.signed.root(2)
        self.assertAlerts(
            "No box will accept 2.root.json: 2.root.json cannot be trusted: root 2 gives a key the "
            f"id {right.public_key.keyid[:12]!r}, which is not its own."
        )

    def test_gap(self) -> None:
        """A root to which no other leads stops nothing, and is told of."""
        self.signed.root(9)
        metadata_state = self.assertAlerts("No box will accept 9.root.json: root 2 is not there.")
        self.assertEqual(metadata_state.documents["root"].signed.version, 1)

    def test_first_damaged(self) -> None:
        """Where the first one is damaged, the chain begins with the next."""
        self.signed.root(2)
        path = self.signed.folder / "1.root.json"
        path.write_bytes(path.read_bytes()[:-10])
        metadata_state = self.assertAlerts(
            "No box will accept 1.root.json: 1.root.json is damaged or incomplete."
        )
        self.assertEqual(metadata_state.documents["root"].signed.version, 2)

    def test_by_number(self) -> None:
        """The tenth comes after the ninth."""
        for version in range(2, 11):
            self.signed.root(version)
        self.assertEqual(self.assertAlerts().documents["root"].signed.version, 10)

    def test_none(self) -> None:
        """Without a root nothing is signed."""
        (self.signed.folder / "1.root.json").unlink()
        self.assertAlerts("There is no root.json.")

    def test_half_copied(self) -> None:
        """Half a root is none; the one before counts on."""
        self.signed.root(2)
        path = self.signed.folder / "2.root.json"
        path.write_bytes(path.read_bytes()[:-10])
        metadata_state = self.assertAlerts(
            "No box will accept 2.root.json: 2.root.json is damaged or incomplete."
        )
        self.assertEqual(metadata_state.documents["root"].signed.version, 1)


class KeyTests(TimestampTestCase):
    """The timestamp's key, and what keeps it from being used."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init()

    def test_not_in_the_root(self) -> None:
        """A key that the root does not name signs nothing, and is told of before it is needed."""
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
        """A root that wants two keys for it cannot be served with one."""
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
        """That it cannot be written is said, and what there was stays."""
        self.signed.publish(1)
        path = self.signed.folder / "timestamp.json"
        path.mkdir()
        sentence = f"Cannot write {path}: Is a directory."
        self.assertEqual([each.sentence for each in self.look().alerts], [sentence])
        self.assertEqual([each.name for each in self.signed.folder.glob(".*")], [])
        path.rmdir()
        self.assertSigned("", 1)

    def test_clock_behind(self) -> None:
        """With a clock that shows a time before the newest release was built nothing is signed."""
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
        """Without a snapshot there is nothing to sign, and without the folder nothing to do."""
        self.assertAlerts("There is no snapshot to announce.")
        self.signed.folder.rename(self.mktemp())
        metadata_state = self.assertAlerts(
            f"There is no signed metadata in {self.signed.folder}. Make it with: opq-release init."
        )
        self.assertFalse(metadata_state.present)


class FollowTests(TimestampTestCase):
    """A server without the key watches what another signs, and writes nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_well(self) -> None:
        """All is told of that the timestamp leads to; what is newer is none of its business."""
        self.signed.timestamp(5, 1)
        self.signed.publish(2)
        metadata_state = self.assertAlerts(key=None)
        self.assertEqual(
            {role: document.signed.version for role, document in metadata_state.documents.items()},
            {"root": 1, "timestamp": 5, "snapshot": 1, "targets": 1},
        )

    def test_gone(self) -> None:
        """Without metadata there is nothing to say."""
        self.signed.folder.rename(self.mktemp())
        self.assertFalse(self.assertAlerts(key=None).present)

    def test_missing(self) -> None:
        """That there is no timestamp is said."""
        self.assertAlerts("No box accepts the timestamp: timestamp.json is not there.", key=None)

    def test_expired(self) -> None:
        """That it was not copied in time is said; how old it is goes on being told."""
        self.signed.timestamp(5, 1, days=-1)
        metadata_state = self.assertAlerts(
            "The timestamp has expired. Copy tuf/ from the server that signs it.", key=None
        )
        self.assertIn("timestamp", metadata_state.documents)

    def test_gap(self) -> None:
        """That it leads nowhere is said."""
        self.signed.timestamp(5, 1)
        (self.signed.folder / "1.targets.json").unlink()
        self.assertAlerts(
            "The timestamp announces snapshot 1, but boxes cannot follow it: 1.targets.json is not "
            "there.",
            key=None,
        )


class FileTests(TimestampTestCase):
    """What is no file of the metadata is not taken for one."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init().publish(1)

    def test_links(self) -> None:
        """A link within the folder counts, one that leads out does not."""
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
        """Nor does a folder that is a link out of the updates directory."""
        elsewhere = Path(self.mktemp()).absolute()
        self.signed.folder.rename(elsewhere)
        self.signed.folder.symlink_to(elsewhere)
        self.assertAlerts(
            "No box will accept 1.root.json: tuf is a link that leads out of the updates directory."
        )

    def test_too_long(self) -> None:
        """A file that is longer than a box takes does not count."""
        path = self.signed.folder / "1.root.json"
        path.write_bytes(path.read_bytes() + b" " * 512_000)
        self.assertAlerts(
            "No box will accept 1.root.json: 1.root.json is longer than a box accepts: "
            "512000 bytes."
        )

    def test_read_once(self) -> None:
        """What has not changed is not read again, and what has is."""
        self.look()
        self.look()
        parsed: list[bytes] = []
        real = Metadata.from_bytes

        def parse(data: bytes) -> Metadata[Any]:
            parsed.append(data)
            return real(data)

        self.patch(Metadata, "from_bytes", parse)
        self.look()
        self.assertEqual(parsed, [])
        self.signed.snapshot(1, 1, days=200)
        self.look()
        self.assertEqual(parsed[:1], [(self.signed.folder / "1.snapshot.json").read_bytes()])
