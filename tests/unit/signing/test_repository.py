"""Tests of how releases get to boxes, and of what is refused."""

import errno
import hashlib
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from tuf.api.metadata import MetaFile, Snapshot

from opq_twisted.archive.sizes import MAX_ARCHIVE
from opq_twisted.common.errors import KeyUnusable, ReleaseFailed
from opq_twisted.signing import publish as publishing
from opq_twisted.signing.dry_run import is_channel_target
from opq_twisted.signing.publish import Terms, publish
from opq_twisted.signing.root_keys import RootSigner
from opq_twisted.signing.status import inspect
from opq_twisted.trust import metadata_files
from opq_twisted.trust.offer import Offer
from opq_twisted.trust.repository_reader import Document
from tests.helpers.archives import (
    file,
    folder,
    layout,
    make_archive,
    name_of,
    stream,
    write_archive,
)
from tests.helpers.key_holders import NEW, NEWER, OLD, HoldersCase, signer_in


class PublishTests(HoldersCase):
    """The offers of channels."""

    def test_offer(self) -> None:
        """A box is offered the archive's length and hashes, and no term that was not set."""
        archive = self.archive(OLD)
        data = archive.read_bytes()
        sizes: list[int] = []
        publish(self.signer, archive, Terms("stable"), sizes.append)
        self.serve()
        self.assertEqual(
            self.box().asks(),
            Offer(
                OLD,
                len(data),
                {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "sha512": hashlib.sha512(data).hexdigest(),
                },
            ),
        )
        self.assertEqual(sum(sizes), len(data))
        custom = self.newest("targets").targets["stable"].custom
        self.assertEqual(custom, {"version": OLD, "file": name_of(OLD)})
        copy = self.updates / name_of(OLD)
        self.assertEqual(copy.read_bytes(), data)
        self.assertEqual(copy.stat().st_mode & 0o777, 0o644)
        self.assertEqual(
            self.files(),
            {name_of(OLD), "tuf", "tuf/timestamp.json", "tuf/1.root.json"}
            | {
                f"tuf/{number}.{role}.json" for number in (1, 2) for role in ("targets", "snapshot")
            },
        )

    def test_terms(self) -> None:
        """All terms reach the box."""
        self.publish(OLD, critical=True, allow_downgrade=True)
        self.publish(OLD, "beta", rollout=20)
        self.serve()
        offer, other = self.box().asks(), self.box().asks("beta")
        assert offer is not None
        self.assertTrue(offer.critical)
        self.assertTrue(offer.allow_downgrade)
        assert other is not None
        assert other.rollout is not None
        self.assertEqual(other.rollout.percent, 20)

    def test_newer(self) -> None:
        """A box that has seen the old release finds the new one."""
        self.publish(OLD)
        self.serve()
        box = self.box()
        self.assertEqual(box.version(), OLD)
        self.publish(NEW)
        self.assertEqual(box.version(), OLD)
        self.assert_served(NEW, box)

    def test_channels(self) -> None:
        """A channel starts with its first release, and changes no other channel."""
        self.publish(OLD)
        self.publish(NEW, "beta")
        self.serve()
        box = self.box()
        self.assertEqual((box.version(), box.version("beta")), (OLD, NEW))
        self.assertIsNone(box.version("gamma"))

    def test_grows(self) -> None:
        """If the same archive is published again, its rollout grows and keeps its salt."""
        salts = []
        for percent in (10, 50, 100):
            offer = self.publish(NEW, rollout=percent)
            assert offer.rollout is not None
            self.assertEqual(offer.rollout.percent, percent)
            salts.append(offer.rollout.salt)
        self.assertEqual(len(set(salts)), 1)
        self.assertIsNone(self.publish(NEW).rollout)
        offer = self.publish(NEWER, rollout=10)
        assert offer.rollout is not None
        self.assertNotIn(offer.rollout.salt, salts)

    def test_superseded(self) -> None:
        """Old metadata is removed, but never the metadata that boxes follow."""
        self.publish(OLD)
        self.serve()
        announced = self.repository.numbers("snapshot")[-1]
        for percent in range(1, 8):
            self.publish(NEW, rollout=percent)
        newest = [announced + number for number in range(3, 8)]
        for role in ("snapshot", "targets"):
            self.assertEqual(self.repository.numbers(role), [announced, *newest])
        box = self.box()
        self.assertEqual(box.version(), OLD)
        self.assert_served(NEW, box)
        self.publish(NEW)
        self.assertEqual(self.repository.numbers("snapshot"), [*newest[1:], newest[-1] + 1])
        self.assertEqual(self.repository.numbers("root"), [1])

    def test_unknown_timestamp(self) -> None:
        """While the timestamp cannot be read, all metadata stays."""
        (self.tuf / "timestamp.json").write_text("{")
        for percent in range(1, 8):
            self.publish(NEW, rollout=percent)
        self.assertEqual(self.repository.numbers("snapshot"), list(range(1, 9)))

    def test_becomes_critical(self) -> None:
        """The same archive can become critical."""
        self.publish(NEW, rollout=10)
        self.assertTrue(self.publish(NEW, critical=True).critical)
        self.assertTrue(self.publish(NEW, rollout=100, critical=True).critical)

    def test_already_there(self) -> None:
        """An archive in the updates directory is not copied."""
        archive = self.archive(NEW, where=self.updates)
        before = archive.stat()
        publish(self.signer, archive, Terms("stable"), lambda _: None)
        self.assertEqual(archive.stat(), before)

    def test_same_bytes_there(self) -> None:
        """A copy in the updates directory is used."""
        self.archive(NEW, where=self.updates)
        self.publish(NEW)
        self.assert_served(NEW)

    def test_without_top_folder(self) -> None:
        """The archive's root may be the layout, and its names may begin with a dot."""
        for version, top in ((OLD, ""), (NEW, "./")):
            parts = layout(version, top)
            archive = write_archive(self.place / name_of(version), stream(*parts))
            publish(self.signer, archive, Terms("stable"), lambda _: None)

    def test_no_links(self) -> None:
        """On a file system without hard links, the archive gets its name too."""

        def refused(_self: Path, _target: Path) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        self.patch(Path, "hardlink_to", refused)
        self.publish(NEW)
        self.assert_served(NEW)

    def test_interrupted(self) -> None:
        """At every point boxes have the old or the new release; a repetition gives the new one."""
        self.publish(OLD)
        self.serve()
        archive = self.archive(NEW)

        def work() -> None:
            publish(self.signer, archive, Terms("stable"), lambda _: None)

        for point in self.interruptions(work):
            box, other = self.box(), self.box()
            self.assertIn(box.version(), (OLD, NEW), point)
            for target in self.signer.current().targets.signed.targets.values():
                if is_channel_target(target):
                    self.assertIn(target.custom["file"], self.files(), point)
            self.serve()
            self.assertIn(box.version(), (OLD, NEW), point)
            work()
            self.serve()
            for each in (box, other, self.box()):
                self.assertEqual(each.version(), NEW, point)
            self.assertFalse(list(self.updates.glob(".*.part")), point)

    def test_gone_meanwhile(self) -> None:
        """A version that an interrupted run used is never used again."""
        self.publish(OLD)
        orphan = self.tuf / "7.targets.json"
        shutil.copy(self.tuf / "1.targets.json", orphan)
        self.publish(NEW)
        self.assertTrue((self.tuf / "8.targets.json").exists())
        self.assertEqual(self.newest("snapshot").meta["targets.json"].version, 8)


class PlaceTests(HoldersCase):
    """Numbered files are written once."""

    def test_never_again(self) -> None:
        """A numbered file is never overwritten, not even with the same bytes."""
        current = self.signer.current()
        root = Document.of(self.repository.roots()[-1])
        for document in (root, current.targets, current.snapshot):
            error = self.assertRaises(ReleaseFailed, self.repository.place, document)
            self.assertIn("never used twice", str(error))


class PublishRefusalTests(HoldersCase):
    """Releases and metadata that boxes would refuse are not published."""

    def setUp(self) -> None:
        super().setUp()
        self.publish(NEW)

    def refuses(self, archive: Path, *words: str, channel: str = "stable", **terms: Any) -> None:
        self.assert_refused(
            lambda: publish(self.signer, archive, Terms(channel, **terms), lambda _: None), *words
        )
        self.assertFalse(list(self.updates.glob(".opq*")))

    def test_older(self) -> None:
        """An older version is refused, unless boxes may go back."""
        self.refuses(self.archive(OLD), f"older than {NEW}", "--allow-downgrade")
        self.assertTrue(self.publish(OLD, allow_downgrade=True).allow_downgrade)

    def test_future(self) -> None:
        """A version from the future is refused, because boxes would wait until then."""
        self.refuses(self.archive(int(time.time()) + 3600), "lies in the future")

    def test_other_bytes(self) -> None:
        """A name that other bytes in the directory have is refused."""
        self.archive(NEWER, b"of somebody else", self.updates)
        self.refuses(self.archive(NEWER), "with other bytes")

    def test_other_bytes_were_signed(self) -> None:
        """A name that was signed with other bytes is refused, even if that archive is gone."""
        (self.updates / name_of(NEW)).unlink()
        self.refuses(self.archive(NEW, b"other"), "published with other bytes")

    def test_appears_meanwhile(self) -> None:
        """A file that gets the name during the copy is not replaced."""
        archive = self.archive(NEWER, b"ours")

        def progress(_: int) -> None:
            (self.updates / name_of(NEWER)).write_bytes(b"theirs")

        with self.assertRaises(ReleaseFailed):
            publish(self.signer, archive, Terms("stable"), progress)
        self.assertEqual((self.updates / name_of(NEWER)).read_bytes(), b"theirs")
        self.assertEqual(self.repository.numbers("targets"), [1, 2])

    def test_changes_meanwhile(self) -> None:
        """A file that changes while it is read is refused."""
        archive = self.archive(NEWER)

        def progress(_: int) -> None:
            with archive.open("ab") as more:
                more.write(b"more")
            os.utime(archive)

        self.assert_refused(
            lambda: publish(self.signer, archive, Terms("stable"), progress), "changed"
        )

    def test_terms(self) -> None:
        """An invalid percentage or channel is refused, and a critical release with a rollout."""
        for percent in (-1, 101):
            self.refuses(self.archive(NEWER), "from 0 to 100", rollout=percent)
        for percent in (0, 10, 99):
            archive = self.archive(NEWER)
            self.refuses(archive, "--critical or --rollout", rollout=percent, critical=True)
        for name in ("", "Stable", "a/b", "../x", "opq-box-update-1.tar.bz2", "x" * 33):
            self.refuses(self.archive(NEWER), "no name for a channel", channel=name)

    def test_name(self) -> None:
        """A file without the name of an update is refused."""
        archive = self.archive(NEWER)
        self.refuses(archive.rename(archive.with_name("update.tar.bz2")), "the name must be")

    def test_not_a_file(self) -> None:
        """A missing file, a folder or a FIFO is refused, without blocking."""
        path = self.place / name_of(NEWER)
        self.refuses(path, "No such file")
        path.mkdir()
        self.refuses(path, "Is a directory")
        path.rmdir()
        os.mkfifo(path)
        self.refuses(path, "not a regular file")

    def test_hostile(self) -> None:
        """An archive that a box would not unpack is refused, for every part of it."""
        path = self.place / name_of(NEWER)
        make_archive(path, OLD, wrapped=False)
        self.refuses(path, f"its VERSION holds {OLD} and not {NEWER}")
        version = file("VERSION", str(NEWER).encode())
        for members, reason in (
            ([file("install_update.sh", b"x", 0o755)], "no file VERSION"),
            ([folder("other/"), *layout(NEWER, "other/")], "no file VERSION"),
            ([file("VERSION", b"today\n")], f"VERSION does not hold {NEWER}"),
            ([version], "no file install_update.sh"),
            ([version, file("install_update.sh", b"x", 0o644)], "is not executable"),
            ([version, file("install_update.sh", b"#!/bin/sh\r\n", 0o755)], "carriage return"),
            ([*layout(NEWER), folder("a/"), file("a", b"")], "a folder is needed"),
        ):
            write_archive(path, stream(*members))
            self.refuses(path, "Boxes would refuse", reason)
        whole = make_archive(path, NEWER, {"content": os.urandom(1000)}).read_bytes()
        path.write_bytes(whole[:-1])
        self.refuses(path, "not a whole bzip2 file")
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        self.refuses(path, "Boxes would refuse", "damaged")

    def test_more_than_boxes_fetch(self) -> None:
        """An archive that is too large for boxes is refused before it is read."""
        path = self.archive(NEWER)
        os.truncate(path, MAX_ARCHIVE + 1)
        self.refuses(path, f"{MAX_ARCHIVE + 1} bytes", "boxes fetch no more")

    def test_changed_when_it_was_judged(self) -> None:
        """The copied archive is the validated one."""
        path = self.archive(NEWER)

        def validate(*_: object) -> None:
            make_archive(path, NEWER, {"content": b"another"})

        self.patch(publishing, "validate", validate)
        self.refuses(path, "changed while it was read")

    def test_no_archive(self) -> None:
        """A bzip2 file that holds no archive is refused."""
        path = write_archive(self.place / name_of(NEWER), b"x" * 2048)
        self.refuses(path, "Boxes would refuse")

    def test_missing_key(self) -> None:
        """Without the necessary keys nothing is published, and their names are given."""
        [path] = self.keys.glob("snapshot-*.pem")
        path.rename(self.place / "elsewhere")
        self.signer = signer_in(self.place)
        self.refuses(self.archive(NEWER), path.name, "--keys-dir")

    def test_wrong_passphrase(self) -> None:
        """A wrong passphrase is reported before anything is copied."""
        self.signer = signer_in(self.place, b"wrong")
        archive = self.archive(NEWER)
        sizes: list[int] = []
        self.assert_refused(
            lambda: publish(self.signer, archive, Terms("stable"), sizes.append),
            "passphrase",
            kind=KeyUnusable,
        )
        self.assertEqual(sizes, [])

    def test_too_large(self) -> None:
        """Metadata that is larger than boxes read is refused."""
        self.patch(metadata_files, "_MAX_SIZES", {**metadata_files._MAX_SIZES, "targets": 1200})
        self.refuses(self.archive(NEWER), "3.targets.json", "1200 are read")

    def test_at_once(self) -> None:
        """Only one process works in a directory at a time."""
        with self.repository.locked():
            self.refuses(self.archive(NEWER), "Another opq-release")

    def test_numbers_used_up(self) -> None:
        """A file whose version is far too high is refused."""
        for name in ("999999999999999.targets.json", "1002.targets.json"):
            (self.tuf / name).write_bytes(b"")
            self.refuses(self.archive(NEWER), name, "take it away")
            (self.tuf / name).unlink()
        (self.tuf / "1001.targets.json").write_bytes(b"")
        self.publish(NEWER)
        self.assertEqual(self.newest("targets").version, 1002)
        self.signer.resign()
        self.assertEqual(self.newest("targets").version, 1003)

    def test_damaged(self) -> None:
        """A snapshot that is damaged, or differs from its name, is never skipped."""
        newest = self.tuf / "2.snapshot.json"
        good = newest.read_bytes()
        # A fraction cannot be signed.
        fraction = good.replace(b'"spec_version"', b'"x": 1.5, "spec_version"')
        self.assertNotEqual(fraction, good)
        wrong = (good[:-9], fraction, (self.tuf / "2.targets.json").read_bytes())
        for data in (*wrong, (self.tuf / "1.snapshot.json").read_bytes()):
            newest.write_bytes(data)
            self.refuses(self.archive(NEWER), "2.snapshot.json", "restore")


class RestoredTests(HoldersCase):
    """An updates directory that was restored from an old copy."""

    def setUp(self) -> None:
        super().setUp()
        self.publish(OLD)
        copy = self.place / "copy"
        shutil.copytree(self.updates, copy)
        self.publish(NEW)
        self.serve()
        self.seen = self.box()
        self.assertEqual(self.seen.version(), NEW)
        shutil.rmtree(self.updates)
        copy.rename(self.updates)

    def test_refused(self) -> None:
        """Nothing is signed there, because versions that boxes know would be used again."""
        for work in (lambda: self.publish(NEWER), self.signer.resign):
            self.assert_refused(work, "has snapshot 2, but 3 was signed", "opq-release rotate")

    def test_newest_is_lost(self) -> None:
        """With new keys boxes start again, and the next release reaches all of them."""
        self.signer.rotate(["targets", "snapshot", "timestamp"], {})
        self.publish(NEWER)
        self.assert_served(NEWER, self.seen)
        self.assertEqual(self.box().version(), NEWER)

    def test_unreadable(self) -> None:
        """A file that cannot be read does not count as missing."""
        (self.keys / "last-snapshot").write_bytes(b"three")
        self.assert_refused(self.signer.resign, "last-snapshot", "write into it the number")


class ExpiryTests(HoldersCase):
    """Expired metadata can be signed again."""

    def expire(self) -> None:
        """Sign targets and a snapshot that have expired."""
        current = self.signer.current()
        for document in (current.targets.metadata, current.snapshot.metadata):
            role = document.signed.type
            document.signed.version += 1
            document.signed.expires -= timedelta(days=400)
            [signer] = self.key_folder.signers(current.root, role)
            if isinstance(document.signed, Snapshot):
                document.signed.meta["targets.json"] = MetaFile(document.signed.version)
            document.sign(signer)
            self.repository.place(Document.of(document))

    def test_resign(self) -> None:
        """Signed again, it is valid for a year, with the same content."""
        self.publish(OLD)
        self.signer.resign()
        self.assert_served(OLD)
        self.assertEqual(self.repository.numbers("targets"), [1, 2, 3])

    def test_resign_expired(self) -> None:
        """Expired metadata is signed again, too."""
        self.publish(OLD)
        self.expire()
        self.signer.resign()
        self.assert_served(OLD)
        left = self.newest("targets").expires - datetime.now(UTC)
        self.assertLess(abs(left - timedelta(days=365)), timedelta(minutes=1))

    def test_publish_expired(self) -> None:
        """A new release renews expired metadata, too."""
        self.expire()
        self.publish(OLD)
        self.assert_served(OLD)

    def test_expired_root(self) -> None:
        """With an expired root only the next root is signed."""
        later = datetime.now(UTC) + timedelta(days=366)
        signer = RootSigner(self.repository, self.key_folder, lambda: later)
        self.assert_refused(signer.resign, "Root 1 has expired", "renew-root")
        self.assertIsNone(signer.renew_root())
        signer.resign()

    def test_clock_was_ahead(self) -> None:
        """A release from the future is reported, and the suggested remedy works."""
        self.publish(OLD)
        right, future = self.signer, int(time.time()) + 86400
        ahead = datetime.fromtimestamp(future, UTC)
        self.signer = evolve(right, now=lambda: ahead)
        for channel in ("beta", "stable"):
            self.publish(future, channel)
        self.signer = right
        way_out = "opq-release drop beta stable"
        for work in (
            self.signer.resign,
            partial(self.publish, NEW),
            partial(self.publish, NEW, allow_downgrade=True),
            partial(self.publish, NEW, "beta"),
        ):
            self.assert_refused(work, f"{future} was built at {ahead:%Y-%m-%d %H:%M}", way_out)
        found = inspect(self.repository, self.signer.now())
        self.assertIn(way_out, " ".join(found.problems))
        self.assertEqual(self.signer.drop(["beta", "stable"]), [name_of(future)])
        offer = self.publish(NEW)
        self.assertEqual(offer.version, NEW)
        found = inspect(self.repository, self.signer.now())
        self.assertNotIn(way_out, " ".join(found.problems))

    def test_wrong_clock(self) -> None:
        """With a clock before the newest release nothing is signed."""
        self.publish(NEW)
        early = datetime.fromtimestamp(OLD, UTC)
        signer = RootSigner(self.repository, self.key_folder, lambda: early)
        self.assert_refused(signer.resign, "clock", str(NEW))
        self.assert_refused(signer.renew_root, "clock", str(NEW))
