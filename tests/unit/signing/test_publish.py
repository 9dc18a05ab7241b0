"""Tests of how an archive gets into the updates directory."""

import itertools
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from attrs import evolve

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.prune import prune
from opq_twisted.signing.publish import Terms, publish
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.status import inspect
from opq_twisted.signing.withdraw import withdraw
from opq_twisted.trust.offer import Offer
from tests.helpers.archives import name_of
from tests.helpers.interruptions import stops_at
from tests.helpers.key_holders import NEW, NEWER, OLD, HoldersCase, signer_in
from tests.helpers.torture import stride


class PublicationCase(HoldersCase):
    """Archives in different places are published."""

    def offer(self, archive: Path, **terms: Any) -> Offer:
        return publish(self.signer, archive, Terms("stable", **terms), lambda _: None).offer


class PlaceTests(PublicationCase):
    """The places where an archive may be."""

    def test_here(self) -> None:
        """It may be in the current folder, with or without `./` before its name."""
        self.archive(OLD)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.place)
        for path in (f"./{name_of(OLD)}", name_of(OLD), f"updates/../{name_of(OLD)}"):
            self.offer(Path(path))
        self.assert_served(OLD)

    def test_link(self) -> None:
        """It may be a link: the copy is not a link, and survives it."""
        folder = self.place / "built"
        folder.mkdir()
        real = self.archive(OLD, where=folder)
        link = self.place / name_of(OLD)
        link.symlink_to(real)
        self.offer(link)
        shutil.rmtree(folder)
        self.assertFalse((self.updates / name_of(OLD)).is_symlink())
        self.assert_served(OLD)

    def test_link_of_another_name(self) -> None:
        """The name of the link counts, and has to be the archive's name."""
        real = self.archive(OLD)
        link = self.place / name_of(NEW)
        link.symlink_to(real)
        self.assert_refused(lambda: self.offer(link), "VERSION", str(NEW))

    def test_hard_link(self) -> None:
        """It may be a hard link to the file in the directory, which is read once."""
        there = self.archive(OLD, where=self.updates)
        (self.place / name_of(OLD)).hardlink_to(there)
        self.offer(self.place / name_of(OLD))
        self.assert_served(OLD)

    def test_updates_by_a_link(self) -> None:
        """The updates directory may be a link, and the archive may be in it."""
        link = self.place / "link"
        link.symlink_to(self.updates)
        self.signer = evolve(self.signer, repository=Repository(link))
        self.archive(OLD, where=self.updates)
        self.offer(link / name_of(OLD))
        self.offer(self.archive(NEW))
        self.assert_served(NEW)


class ThereTests(PublicationCase):
    """Files that are in the updates directory already."""

    def test_link_out(self) -> None:
        """A link out of the directory is refused, because no server would follow it."""
        real = self.archive(OLD)
        there = self.updates / name_of(OLD)
        there.symlink_to(real)
        for archive in (there, real):
            self.assert_refused(partial(self.offer, archive), "link", "leads out")

    def test_link_inside(self) -> None:
        """A link inside the directory is followed, as servers do."""
        store = self.updates / "store"
        store.mkdir()
        self.archive(OLD, where=store)
        (self.updates / name_of(OLD)).symlink_to(f"store/{name_of(OLD)}")
        self.offer(self.updates / name_of(OLD))
        self.assert_served(OLD)

    def test_link_to_nothing(self) -> None:
        """A dangling link is not an archive, and is not replaced."""
        archive = self.archive(OLD)
        (self.updates / name_of(OLD)).symlink_to("store")
        with self.assertRaises(FileNotFoundError):
            self.offer(archive)
        self.assertEqual(self.repository.numbers("targets"), [1])

    def test_private(self) -> None:
        """The server, which is another user, gets the right to read it."""
        there = self.archive(OLD, where=self.updates)
        for before, after in ((0o600, 0o644), (0o400, 0o444), (0o444, 0o444)):
            there.chmod(before)
            self.offer(there)
            self.assertEqual(there.stat().st_mode & 0o777, after)

    def test_of_somebody_else(self) -> None:
        """A file of another user is published even if its mode cannot be changed."""

        def refused(_fd: int, _mode: int) -> None:
            raise PermissionError(1, os.strerror(1))

        there = self.archive(OLD, where=self.updates)
        there.chmod(0o640)
        fchmod = os.fchmod
        self.patch(os, "fchmod", lambda fd, mode: (refused if _is(fd, there) else fchmod)(fd, mode))
        self.offer(there)
        self.assertEqual(there.stat().st_mode & 0o777, 0o640)

    def test_planted_link(self) -> None:
        """A link with the name of the temporary copy is not written through."""
        victim = self.place / "victim"
        victim.write_text("precious")
        (self.updates / f".{name_of(OLD)}.part").symlink_to(victim)
        self.offer(self.archive(OLD))
        self.assertEqual(victim.read_text(), "precious")
        self.assertFalse((self.updates / name_of(OLD)).is_symlink())
        self.assert_served(OLD)

    def test_in_the_way(self) -> None:
        """If the temporary copy cannot be made, the reason is given."""
        draft = self.updates / f".{name_of(OLD)}.part"
        draft.mkdir()
        with self.assertRaises(IsADirectoryError) as caught:
            self.offer(self.archive(OLD))
        self.assertEqual(caught.exception.filename, str(draft))

    def test_left_over(self) -> None:
        """Files of interrupted copies are removed; files of the builder stay."""
        left = self.updates / f".{name_of(NEW)}.part"
        building = self.updates / f".{name_of(NEW)}.1a2b3c4d.part"
        for path in (left, building):
            path.write_bytes(b"half")
        self.offer(self.archive(OLD))
        self.assertFalse(left.exists())
        self.assertTrue(building.exists())

    def test_planted_lock(self) -> None:
        """The lock file is not opened through a link."""
        lock = self.tuf / ".lock"
        lock.unlink()
        lock.symlink_to(self.place / "elsewhere")
        self.assert_refused(self.signer.resign, "Nothing can be written")
        self.assertFalse((self.place / "elsewhere").exists())


class TermsTests(PublicationCase):
    """The same archive is published with other terms."""

    def test_stops(self) -> None:
        """A rollout can be stopped, and keeps its salt for later."""
        archive = self.archive(OLD)
        salts = set()
        for percent in (20, 0, 20):
            offer = self.offer(archive, rollout=percent)
            assert offer.rollout is not None
            self.assertEqual(offer.rollout.percent, percent)
            salts.add(offer.rollout.salt)
        self.assertEqual(len(salts), 1)

    def test_back(self) -> None:
        """After a downgrade, later releases are not downgrades."""
        self.offer(self.archive(NEW))
        self.assertTrue(self.offer(self.archive(OLD), allow_downgrade=True).allow_downgrade)
        self.assertFalse(self.offer(self.archive(NEW)).allow_downgrade)
        self.assert_served(NEW)


class ReleaseBeforeTests(PublicationCase):
    """The previous release, which boxes install until their turn comes."""

    def before(self, version: int, **terms: Any) -> int | None:
        """Publish a release; return the version of the previous release in its offer."""
        offer = self.offer(self.archive(version), **terms)
        return None if offer.before is None else offer.before.version

    def test_kept(self) -> None:
        """It stays while the rollout changes, also after that has reached all boxes."""
        self.assertIsNone(self.before(OLD, notes="Good."))
        for percent in (10, 0, 50):
            self.assertEqual(self.before(NEW, rollout=percent), OLD)
        self.assert_served(NEW)
        offer = self.box().asks()
        assert offer is not None
        assert offer.before is not None
        archive = self.updates / name_of(OLD)
        self.assertEqual(offer.before.size, archive.stat().st_size)
        self.assertEqual(offer.before.hashes["sha256"], sha256(archive.read_bytes()).hexdigest())
        self.assertEqual(offer.before.notes, "Good.")
        self.assertEqual(self.before(NEW, rollout=100), OLD)
        self.assertEqual(self.before(NEW), OLD)
        self.assertEqual(self.before(NEW, rollout=0), OLD)

    def test_for_all(self) -> None:
        """While a release is for all boxes, the archive of the previous one is not needed."""
        self.offer(self.archive(OLD))
        self.offer(self.archive(NEW))
        self.serve()
        (self.updates / name_of(OLD)).unlink()
        self.assertEqual(self.serve().alerts, ())
        found = inspect(self.repository, datetime.now(UTC))
        self.assertEqual((found.problems, found.channels[0].before), ([], None))
        self.assertEqual(prune(self.signer, 0).removed, [name_of(OLD)])
        self.assertIsNone(self.before(NEW, rollout=0), "it is gone")

    def test_followed(self) -> None:
        """A rollout that another rollout follows was never for all: its previous release stays."""
        self.offer(self.archive(OLD))
        self.assertEqual(self.before(NEW, rollout=10), OLD)
        self.assertEqual(self.before(NEWER, rollout=10), OLD)
        self.assertEqual(self.before(NEWER), OLD)

    def test_critical(self) -> None:
        """A critical release is for all boxes."""
        self.offer(self.archive(OLD), critical=True)
        self.assertEqual(self.before(NEW, rollout=10), OLD)
        self.assertEqual(self.before(NEW, critical=True), OLD)

    def test_older_only(self) -> None:
        """A downgrade has no previous release, because that would be newer."""
        self.offer(self.archive(NEW))
        self.assertIsNone(self.before(OLD, rollout=10, allow_downgrade=True))

    def test_archive_gone(self) -> None:
        """A previous release whose archive is gone is left out, and delays nothing."""
        self.offer(self.archive(OLD))
        (self.updates / name_of(OLD)).unlink()
        self.assertIsNone(self.before(NEW, rollout=10))
        self.assert_served(NEW)

    def test_archive_goes(self) -> None:
        """The server and `status` report a needed archive that disappears."""
        self.offer(self.archive(OLD))
        self.offer(self.archive(NEW), rollout=10)
        self.serve()
        (self.updates / name_of(OLD)).unlink()
        [alert] = self.serve().alerts
        self.assertIn(name_of(OLD), alert.sentence)
        [problem] = inspect(self.repository, datetime.now(UTC)).problems
        self.assertIn(name_of(OLD), problem)


class WithdrawalTests(PublicationCase):
    """A release is withdrawn."""

    def test_rollout(self) -> None:
        """The previous release is for all boxes again, and is not a downgrade."""
        self.offer(self.archive(OLD), notes="Good.")
        self.offer(self.archive(NEW), rollout=10)
        box = self.box()
        self.assert_served(NEW, box)
        done = withdraw(self.signer, "stable")
        self.assertEqual((done.withdrawn.version, done.unused), (NEW, name_of(NEW)))
        self.serve()
        offer = box.asks()
        self.assertEqual(offer, done.offered)
        assert offer is not None
        self.assertEqual((offer.version, offer.notes), (OLD, "Good."))
        self.assertTrue(offer.is_for_all)
        self.assertFalse(offer.allow_downgrade)
        self.assertIsNone(offer.before)

    def test_for_all(self) -> None:
        """A release for all boxes is replaced by its previous release, which `prune` keeps."""
        self.offer(self.archive(OLD))
        self.offer(self.archive(NEW))
        prune(self.signer, 0)
        self.assertEqual(withdraw(self.signer, "stable").offered.version, OLD)
        self.assert_served(OLD)

    def test_put_back(self) -> None:
        """An archive that was gone for a while, and not signed meanwhile, is signed again."""
        for version in (OLD, NEW):
            self.offer(self.archive(version))
        (self.updates / name_of(OLD)).unlink()
        publish(self.signer, self.archive(NEW), Terms("beta"), lambda _: None)
        self.assertNotIn(name_of(OLD), self.newest("targets").targets)
        self.archive(OLD, where=self.updates)
        withdraw(self.signer, "stable")
        self.assertIn(name_of(OLD), self.newest("targets").targets)

    def test_named(self) -> None:
        """Any earlier release can be named."""
        self.offer(self.archive(OLD))
        self.assert_refused(lambda: withdraw(self.signer, "stable"), "--to VERSION")
        publish(self.signer, self.archive(NEW), Terms("beta"), lambda _: None)
        self.offer(self.archive(NEW))
        done = withdraw(self.signer, "stable", OLD)
        self.assertIsNone(done.unused, "the channel beta leads to it")
        self.assert_served(OLD)
        self.offer(self.archive(NEWER))
        self.assert_served(NEWER)

    def test_refused(self) -> None:
        """A release that is not earlier, not signed or missing is refused."""
        self.offer(self.archive(OLD))
        self.offer(self.archive(NEW))
        for version, words in (
            (NEW, "is not earlier than"),
            (NEWER, "is not earlier than"),
            (OLD - 1, "No archive"),
        ):
            self.assert_refused(partial(withdraw, self.signer, "stable", version), words)
        self.assert_refused(lambda: withdraw(self.signer, "beta"), "There is no channel 'beta'")
        (self.updates / name_of(OLD)).unlink()
        self.assert_refused(lambda: withdraw(self.signer, "stable", OLD), "put it back first")


class StoppedTests(PublicationCase):
    """A signal ends the command before any step that reaches the disk."""

    def setUp(self) -> None:
        super().setUp()
        self.offer(self.archive(OLD))
        self.serve()
        self.saved = self.place.with_name("saved")
        shutil.copytree(self.place, self.saved)

    def steps(self, work: Callable[[], object], after: Callable[[str], object]) -> None:
        for number in itertools.count(1, stride(7)):
            stopped = stops_at(number, work)
            after(f"step {number}")
            shutil.rmtree(self.place)
            shutil.copytree(self.saved, self.place)
            if not stopped:
                break
        self.assertGreater(number, 8)

    def test_publish(self) -> None:
        """Boxes have the old release or the new one, and the command can be repeated."""

        def work() -> None:
            self.signer = signer_in(self.place)
            self.offer(self.archive(NEW))

        def after(step: str) -> None:
            self.assertEqual(list(self.updates.glob(".*.part")), [], step)
            box = self.box()
            self.assertIn(box.version(), (OLD, NEW), step)
            self.serve()
            self.assertIn(box.version(), (OLD, NEW), step)
            work()
            self.serve()
            self.assertEqual((box.version(), self.box().version()), (NEW, NEW), step)
            self.assertEqual(list(self.updates.glob(".*")), [], step)
            self.assertEqual([path.name for path in self.tuf.glob(".*")], [".lock"], step)

        self.steps(work, after)

    def test_rotate(self) -> None:
        """Boxes accept the old keys or the new ones, and no key is made twice."""

        def work() -> None:
            self.signer = signer_in(self.place)
            self.signer.rotate(["targets", "snapshot"], {})

        def after(step: str) -> None:
            box = self.box()
            self.serve()
            self.assertEqual(box.version(), OLD, step)
            self.signer = signer_in(self.place)
            if self.newest("root").version == 1:
                work()
            self.signer.renew_root()
            for role in ("targets", "snapshot"):
                names = [path.name for path in self.keys.glob(f"{role}-*.pem")]
                [keyid] = self.newest("root").roles[role].keyids
                self.assertEqual(names, [f"{role}-{keyid[:12]}.pem"], step)
            self.offer(self.archive(NEW))
            self.serve()
            self.assertEqual((box.version(), self.box().version()), (NEW, NEW), step)
            self.assertEqual([path.name for path in self.tuf.glob(".*")], [".lock"], step)

        self.steps(work, after)


def _is(fd: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(fd), path.stat())


class NotesTests(PublicationCase):
    """The release notes."""

    def test_kept(self) -> None:
        """A rollout that grows keeps the notes; another release has its own, or none."""
        archive = self.archive(OLD)
        self.assertEqual(self.offer(archive, rollout=10, notes="Faster.").notes, "Faster.")
        self.assertEqual(self.offer(archive, rollout=50).notes, "Faster.")
        self.assertEqual(self.offer(archive, notes="Even faster.").notes, "Even faster.")
        self.assertIsNone(self.offer(self.archive(NEW)).notes)

    def test_too_long(self) -> None:
        """Notes that are too long for a box are refused before anything is signed."""
        archive = self.archive(OLD)
        error = self.assertRaises(ReleaseFailed, self.offer, archive, notes="x" * 4001)
        self.assertIn("4001 characters: boxes show 4000 at most", str(error))
        self.assertEqual(len(self.offer(archive, notes="x" * 4000).notes or ""), 4000)
