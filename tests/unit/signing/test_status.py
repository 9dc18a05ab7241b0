"""Tests of the inspection behind `opq-release status`."""

import os
import shutil
import time
from datetime import UTC, datetime, timedelta

from tuf.api.metadata import Metadata, MetaFile, Root, TargetFile

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.root_keys import ROLES
from opq_twisted.signing.status import ChannelStatus, Inspection, inspect
from opq_twisted.trust import repository_reader
from opq_twisted.trust.repository_reader import Document
from tests.helpers.archives import name_of
from tests.helpers.key_holders import NEW, NEWER, OLD, HoldersCase
from tests.helpers.signed_metadata import make_key


class InspectionTests(HoldersCase):
    """The problems that `status` reports."""

    def inspect(self, days: float = 0) -> Inspection:
        return inspect(self.repository, datetime.now(UTC) + timedelta(days=days))

    def assert_needs(self, found: Inspection, *words: str) -> None:
        self.assertEqual(len(found.problems), len(words), found.problems)
        for problem, word in zip(found.problems, words, strict=True):
            self.assertIn(word, problem)
            self.assertTrue(problem.endswith("."), problem)

    def test_well(self) -> None:
        """A good repository has no problems."""
        self.publish(OLD, critical=True)
        self.publish(NEW, "beta")
        self.publish(NEWER, "beta", rollout=30)
        self.serve()
        found = self.inspect()
        self.assert_needs(found)
        self.assertEqual([role.role for role in found.roles], list(ROLES))
        self.assertEqual({role.role: role.version for role in found.roles}["targets"], 4)
        for role in found.roles:
            self.assertEqual(role.threshold, 1)
            self.assertEqual(len(role.keys[0]), 12)
        self.assertEqual([role.days_left for role in found.roles], [365.0, 365.0, 365.0, 7.0])
        self.assertEqual(
            {channel.channel: channel for channel in found.channels},
            {
                "stable": ChannelStatus("stable", OLD, None, True, False, None, True),
                "beta": ChannelStatus("beta", NEWER, 30, False, False, NEW, True),
            },
        )

    def test_soon(self) -> None:
        """Metadata that expires within 14 days is reported; a timestamp within 3 days."""
        self.serve()
        self.assert_needs(self.inspect(3.9))
        self.assert_needs(self.inspect(4.5), "timestamp expires in 2.5 days")
        found = self.inspect(352)
        words = ("root expires in 13", "targets expires in 13", "snapshot expires in 13")
        self.assert_needs(found, *words, "timestamp has expired")

    def test_late(self) -> None:
        """Metadata that is valid for years, because a clock was ahead, is reported."""
        self.serve()
        self.assert_needs(self.inspect(-364))
        roles = ("root", "targets", "snapshot")
        words = [f"{role} expires in 765 days, and" for role in roles]
        self.assert_needs(self.inspect(-400), *words)

    def test_expired(self) -> None:
        """Expired metadata is reported."""
        self.serve()
        expired = [f"The {role} has expired" for role in ("root", "targets", "snapshot")]
        self.assert_needs(self.inspect(366), *expired, "The timestamp has expired")

    def test_no_timestamp(self) -> None:
        """A missing timestamp is reported after a few minutes."""
        self.assert_needs(self.inspect())
        self.assert_needs(self.inspect(0.01), "There is no timestamp")

    def test_old_timestamp(self) -> None:
        """So is a timestamp for an older snapshot."""
        self.serve()
        self.publish(OLD)
        self.assert_needs(self.inspect())
        self.assert_needs(self.inspect(0.01), "names snapshot 1 and not 2")

    def test_rotated_timestamp(self) -> None:
        """A timestamp that is signed with an old key is reported."""
        self.serve()
        self.signer.rotate(["timestamp"], {})
        self.assert_needs(self.inspect(), "give the server that key")

    def test_damaged_timestamp(self) -> None:
        """A timestamp that cannot be read is reported."""
        (self.tuf / "timestamp.json").write_bytes(b"?")
        self.assert_needs(self.inspect(), "timestamp.json is damaged")

    def test_archives(self) -> None:
        """A missing or different archive of a channel is reported."""
        self.publish(OLD)
        archive = self.updates / name_of(OLD)
        with archive.open("ab") as more:
            more.write(b"more")
        found = self.inspect()
        self.assert_needs(found, "put back")
        self.assertFalse(found.channels[0].is_there)
        archive.unlink()
        self.assert_needs(self.inspect(), "cannot be read")

    def test_refused_by_boxes(self) -> None:
        """A root that no box accepts is reported, and everything else as well."""
        root = Metadata[Root].from_file(str(self.tuf / "1.root.json"))
        root.signed.version = 2
        self.repository.place(Document.of(root))
        self.assert_needs(self.inspect(), "Boxes would refuse")

    def test_bad_channel(self) -> None:
        """A channel that no box can follow is reported."""
        current = self.signer.current()
        targets = current.targets.signed
        targets.targets["stable"] = TargetFile(1, {"sha256": "00"}, "stable")
        targets.version = 2
        current.targets.metadata.sign(self.key_folder.signers(current.root, "targets")[0])
        current.snapshot.signed.version = 2
        current.snapshot.signed.meta["targets.json"] = MetaFile(2)
        current.snapshot.metadata.sign(self.key_folder.signers(current.root, "snapshot")[0])
        parts = current.targets.metadata, current.snapshot.metadata
        self.repository.place(*(Document.of(each) for each in parts))
        found = self.inspect()
        self.assert_needs(found, "no box can follow")
        self.assertEqual(found.channels, [])

    def test_heals(self) -> None:
        """The next release in such a channel repairs it."""
        self.test_bad_channel()
        self.publish(OLD)
        self.serve()
        self.assert_needs(self.inspect())

    def test_interrupted(self) -> None:
        """Files of an interrupted run, which boxes never see, are no problem."""
        self.publish(OLD)
        self.serve()
        numbers = self.repository.numbers("snapshot")
        saved = (self.tuf / "1.root.json").read_bytes()
        self.signer.rotate(["targets", "snapshot"], {})
        (self.tuf / "2.root.json").unlink()
        self.assertEqual((self.tuf / "1.root.json").read_bytes(), saved)
        self.assertGreater(self.repository.numbers("snapshot"), numbers)
        found = self.inspect(0.01)
        self.assert_needs(found)
        self.assertEqual({role.role: role.version for role in found.roles}["snapshot"], 2)

    def test_wrong_clock(self) -> None:
        """A snapshot with a time in the future is treated like an old one."""
        future = time.time() + 86400
        os.utime(self.tuf / "1.snapshot.json", (future, future))
        self.assert_needs(self.inspect(), "There is no timestamp")

    def test_no_file(self) -> None:
        """A FIFO or a folder instead of a file is reported, without blocking."""
        path = self.tuf / "1.targets.json"
        path.unlink()
        os.mkfifo(path)
        self.assert_needs(self.inspect(), "1.targets.json cannot be read (It is not a regular")
        path.unlink()
        path.mkdir()
        self.assert_needs(self.inspect(), "1.targets.json cannot be read (Is a directory)")

    def test_endless(self) -> None:
        """A file that is too long for boxes is not read to its end."""
        path = self.tuf / "timestamp.json"
        path.symlink_to("/dev/zero")
        self.assert_needs(self.inspect(), "not a regular file")
        path.unlink()
        path.touch()
        os.truncate(path, 1 << 40)
        self.assert_needs(self.inspect(), "more than 16384 bytes")

    def test_too_many(self) -> None:
        """The number of names that are read is bounded."""
        self.patch(repository_reader, "_MAX_FILES", 2)
        error = self.assertRaises(ReleaseFailed, self.inspect)
        self.assertIn("more than 2 files", str(error))

    def test_false_id(self) -> None:
        """A root that gives a key the id of another one is reported."""
        root = self.repository.roots()[-1]
        [keyid] = root.signed.roles["targets"].keyids
        root.signed.keys[keyid] = make_key().public_key
        root.to_file(str(self.tuf / "1.root.json"))
        error = self.assertRaises(ReleaseFailed, self.inspect)
        self.assertIn("which is not its own", str(error))

    def test_no_snapshot(self) -> None:
        """Without a snapshot the other roles are shown."""
        (self.tuf / "1.snapshot.json").unlink()
        found = self.inspect()
        self.assert_needs(found, "holds no snapshot")
        self.assertEqual(found.roles[0].version, 1)

    def test_nothing(self) -> None:
        """Without a root the inspection fails."""
        shutil.rmtree(self.tuf)
        self.assertIn("opq-release init", str(self.assertRaises(ReleaseFailed, self.inspect)))
