"""Tests of roots: made, renewed, rotated, and signed by several holders."""

import contextlib
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import BadVersionNumberError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import KeyUnusable, ReleaseFailed
from opq_twisted.signing.key_folder import KeyFolder
from opq_twisted.signing.publish import Terms, publish
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.root_draft import Draft
from opq_twisted.signing.root_keys import ROLES, RootSigner
from opq_twisted.trust import keys
from opq_twisted.trust.offer import read_offer
from opq_twisted.trust.repository_reader import Document
from tests.helpers.archives import make_archive, name_of
from tests.helpers.key_holders import (
    NEW,
    OLD,
    PASSPHRASE,
    HoldersCase,
    TufClient,
    dies_at,
    fails_at,
    save_time,
    serve,
    signer_in,
)
from tests.helpers.torture import stride


class InitTests(SynchronousTestCase):
    """The first root."""

    def setUp(self) -> None:
        save_time(self)
        self.place = Path(self.mktemp()).absolute()
        self.signer = signer_in(self.place)
        self.tuf, self.keys = self.place / "updates" / "tuf", self.place / "keys"

    def names(self, where: Path) -> list[str]:
        return sorted(path.name for path in where.iterdir() if not path.name.startswith("."))

    def refuses(self, words: str, public: dict[str, list[Key]] | None = None) -> None:
        error = self.assertRaises(ReleaseFailed, self.signer.init, 1, 1, public or {})
        self.assertIn(words, str(error))

    def test_files(self) -> None:
        """It makes private keys, and metadata that all can read; the root comes last."""
        written: list[str] = []
        replace = Path.replace

        def recording(source: Path, target: Path) -> Path:
            written.append(target.name)
            return replace(source, target)

        self.patch(Path, "replace", recording)
        self.addCleanup(os.umask, os.umask(0o077))
        self.assertIsNone(self.signer.init(3, 2, {}))
        metadata = [name for name in written if name[0].isdigit()]
        self.assertEqual(metadata, ["1.targets.json", "1.snapshot.json", "1.root.json"])
        self.assertEqual(self.names(self.tuf), sorted(metadata))
        for path in self.tuf.glob("*.json"):
            self.assertEqual(path.stat().st_mode & 0o777, 0o644)
        private = sorted(self.keys.glob("*.pem"))
        roles = [path.name.split("-")[0] for path in private]
        self.assertEqual(roles, ["root"] * 3 + ["snapshot", "targets", "timestamp"])
        for path in private:
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            self.assertIn(b"ENCRYPTED", path.read_bytes())

    def test_content(self) -> None:
        """The root expires in a year, and two of three keys have signed it."""
        self.signer.init(3, 2, {})
        root = Metadata[Root].from_file(str(self.tuf / "1.root.json"))
        left = root.signed.expires - datetime.now(UTC)
        self.assertLess(abs(left - timedelta(days=365)), timedelta(minutes=1))
        self.assertTrue(root.signed.consistent_snapshot)
        self.assertEqual(root.signed.roles["root"].threshold, 2)
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)

    def test_boxes_follow(self) -> None:
        """A server signs a timestamp for it, and a box finds no release yet."""
        self.signer.init(1, 1, {})
        serve(self.signer)
        self.assertIsNone(TufClient(self.tuf).asks())

    def test_numbers(self) -> None:
        """The threshold is from 1 to the number of keys."""
        for number, threshold in ((1, 2), (3, 0), (0, 0), (17, 2)):
            with self.assertRaises(ReleaseFailed):
                self.signer.init(number, threshold, {})
        self.assertFalse(self.keys.exists())

    def test_again(self) -> None:
        """A directory with a root is refused, because boxes could not follow."""
        self.signer.init(1, 1, {})
        self.refuses("has a root already")

    def test_keys_with_a_root(self) -> None:
        """Keys that have signed for one directory make no root for another one."""
        self.signer.init(1, 1, {})
        shutil.rmtree(self.tuf)
        self.refuses("have a root already")

    def test_no_directory(self) -> None:
        """The updates directory is never created."""
        (self.place / "updates").rmdir()
        self.refuses("make it")

    def test_too_many_keys(self) -> None:
        """More keys than needed are an error."""
        for _ in range(2):
            self.signer.key_folder.create("targets")
        self.refuses("2 keys for targets")

    def test_one_role_each(self) -> None:
        """A key never gets two roles."""
        key = KeyFolder(Path(self.mktemp()), lambda: PASSPHRASE).create("root")
        self.refuses("another role", {"root": [key], "timestamp": [key]})
        self.assertEqual(list(self.tuf.glob("*.json")), [])

    def test_more_keys_the_second_time(self) -> None:
        """Repeated with other numbers, it uses the existing keys, or explains the error."""
        for _ in range(2):
            self.signer.key_folder.create("root")
        made = set(self.keys.glob("root-*.pem"))
        self.refuses("2 keys for root")
        self.signer.init(3, 2, {})
        self.assertTrue(made < set(self.keys.glob("root-*.pem")))
        self.assertEqual(len(self.signer.repository.roots()[0].signed.roles["root"].keyids), 3)

    def test_timestamp_passphrase(self) -> None:
        """The timestamp key may have its own passphrase."""
        self.signer.init(1, 1, {}, lambda: b"another")
        [path] = self.keys.glob("timestamp-*.pem")
        keys.load(path, b"another")
        self.assertRaises(KeyUnusable, keys.load, path, PASSPHRASE)

    def test_public_key(self) -> None:
        """The timestamp key may be made on the server, where its private key stays."""
        key = KeyFolder(Path(self.mktemp()), lambda: PASSPHRASE).create("timestamp")
        self.signer.init(1, 1, {"timestamp": [key]})
        self.assertEqual(list(self.keys.glob("timestamp-*")), [])
        root = self.signer.repository.roots()[-1].signed
        self.assertEqual(root.roles["timestamp"].keyids, [key.keyid])

    def test_interrupted(self) -> None:
        """After any interruption a repetition ends with no key too many."""
        for first, interrupt in enumerate((fails_at, dies_at), 1):
            for number in itertools.count(first, stride(7)):
                interrupted = interrupt(number, lambda: self.signer.init(2, 2, {}))
                if not (self.tuf / "1.root.json").exists():
                    self.signer = signer_in(self.place)
                    self.assertIsNone(self.signer.init(2, 2, {}))
                self.assertEqual(len(list(self.keys.glob("*.pem"))), 5)
                serve(self.signer)
                self.assertIsNone(TufClient(self.tuf).asks())
                shutil.rmtree(self.place)
                self.signer = signer_in(self.place)
                if not interrupted:
                    break
            self.assertGreater(number, 10)


class RotateTests(HoldersCase):
    """Roles get other keys."""

    root_keys, root_threshold = 3, 2

    def setUp(self) -> None:
        super().setUp()
        self.publish(OLD)
        self.serve()
        self.before = self.box()
        self.assertEqual(self.before.version(), OLD)

    def key_files(self, role: str) -> list[str]:
        return sorted(path.name for path in self.keys.glob(f"{role}-*.pem"))

    def follows(self) -> None:
        """A box that saw the old state, and a new box, find a new release."""
        self.assert_served(OLD, self.before)
        self.assertEqual(self.box().version(), OLD)
        self.publish(NEW)
        self.assert_served(NEW, self.before)
        self.assertEqual(self.box().version(), NEW)

    def test_each_role(self) -> None:
        """A role gets another key; the old one is moved to `retired`."""
        for role in ("targets", "snapshot", "timestamp"):
            [old] = self.key_files(role)
            self.assertIsNone(self.signer.rotate([role], {}))
            [new] = self.key_files(role)
            self.assertNotEqual(new, old)
            self.assertTrue((self.keys / "retired" / old).exists())
            self.assertEqual(self.newest("root").version, self.repository.numbers("root")[-1])
        self.assertEqual(self.repository.numbers("root"), [1, 2, 3, 4])
        self.follows()

    def test_all_at_once(self) -> None:
        """All roles get other keys in one root."""
        [old, *_] = self.key_files("root")
        self.signer.rotate(["root", "targets", "snapshot", "timestamp"], {}, old[5:17])
        self.assertEqual(self.repository.numbers("root"), [1, 2])
        self.assertEqual(len(self.key_files("root")), 3)
        self.follows()

    def test_only_what_must(self) -> None:
        """Metadata that the new root accepts is not signed again."""
        self.signer.rotate(["timestamp"], {})
        self.assertEqual(self.repository.numbers("targets"), [1, 2])

    def test_root(self) -> None:
        """A root key is replaced; old and new keys sign up to their thresholds."""
        old, *kept = self.key_files("root")
        self.signer.rotate(["root"], {}, old[5:17])
        names = self.key_files("root")
        self.assertEqual(len(names), 3)
        self.assertTrue(set(kept) < set(names))
        self.assertTrue((self.keys / "retired" / old).exists())
        one, two = self.repository.roots()
        one.signed.verify_delegate("root", two.signed_bytes, two.signatures)
        self.follows()

    def test_which_root(self) -> None:
        """The replaced root key has to be named, and unique."""
        for replaced in (None, "", "0123456789ab" * 2):
            self.assert_refused(partial(self.signer.rotate, ["root"], {}, replaced), "--replace")
        wrong = partial(self.signer.rotate, ["root"], {}, "0123456789ab")
        self.assert_refused(wrong, "'0123456789ab' is the beginning of no id", "--replace")
        self.assertEqual(len(self.key_files("root")), 3)

    def test_renew_root(self) -> None:
        """The next root has the same keys, for another year."""
        self.assertIsNone(self.signer.renew_root())
        one, two = self.repository.roots()
        self.assertEqual(one.signed.roles, two.signed.roles)
        self.follows()

    def test_public_key(self) -> None:
        """The new key may be made on the server."""
        key = KeyFolder(Path(self.mktemp()), lambda: PASSPHRASE).create("timestamp")
        self.signer.rotate(["timestamp"], {"timestamp": key})
        self.assertEqual(self.key_files("timestamp"), [])
        self.assertEqual(self.newest("root").roles["timestamp"].keyids, [key.keyid])

    def test_used_before(self) -> None:
        """A key that an earlier root named is never used again."""
        [old] = self.key_files("timestamp")
        key = keys.load(self.keys / old, PASSPHRASE).public_key
        self.assert_refused(lambda: self.signer.rotate(["timestamp"], {"timestamp": key}), "used")
        self.signer.rotate(["timestamp"], {})
        shutil.copy(self.keys / "retired" / old, self.keys / old)
        self.signer.rotate(["timestamp"], {})
        self.assertNotIn(key.keyid, self.newest("root").roles["timestamp"].keyids)

    def test_one_role_each(self) -> None:
        """A new key never gets two roles."""
        key = KeyFolder(Path(self.mktemp()), lambda: PASSPHRASE).create("targets")
        self.assert_refused(
            lambda: self.signer.rotate(["targets", "snapshot"], {"targets": key, "snapshot": key}),
            "another role",
        )

    def test_not_named(self) -> None:
        """An option for a role that keeps its keys is an error."""
        [timestamp] = self.key_files("timestamp")
        key = keys.load(self.keys / timestamp, PASSPHRASE).public_key
        self.assert_refused(
            lambda: self.signer.rotate(["targets"], {"timestamp": key}), "for timestamp"
        )
        self.assert_refused(lambda: self.signer.rotate(["targets"], {}, "0123"), "--replace")
        self.assertEqual(len(self.key_files("targets")), 1)

    def test_without_root_key(self) -> None:
        """Without a root key nothing is made, and the missing files are named."""
        names = self.key_files("root")
        for name in names:
            (self.keys / name).rename(self.place / name)
        self.assert_refused(lambda: self.signer.rotate(["targets"], {}), *names)
        self.assert_refused(self.signer.renew_root, *names)
        self.assertEqual(len(self.key_files("targets")), 1)

    def test_lost_keys(self) -> None:
        """Lost keys of targets and snapshot are replaced with the root keys."""
        for role in ("targets", "snapshot"):
            [name] = self.key_files(role)
            (self.keys / name).unlink()
        self.signer.rotate(["targets", "snapshot"], {})
        self.follows()

    def test_fast_forward(self) -> None:
        """A box that saw absurd versions, signed by stolen keys, follows after a rotation."""
        theirs = self.place / "theirs" / "updates"
        shutil.copytree(self.updates, theirs)
        root = self.repository.roots()[-1].signed
        absurd, later = 10**14, datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
        meta = {"targets.json": MetaFile(absurd)}
        content = self.signer.current().targets.signed.targets
        stolen: list[Metadata[Any]] = [
            Metadata(Targets(absurd, expires=later, targets=content)),
            Metadata(Snapshot(absurd, expires=later, meta=meta)),
        ]
        for document in stolen:
            document.sign(self.key_folder.signers(root, document.signed.type)[0])
            Repository(theirs).place(Document.of(document))
        timestamp = Metadata(Timestamp(absurd, expires=later, snapshot_meta=MetaFile(absurd)))
        timestamp.sign(self.key_folder.signers(root, "timestamp")[0])
        timestamp.to_file(str(theirs / "tuf" / "timestamp.json"))
        fooled = TufClient(theirs / "tuf")
        self.assertEqual(fooled.version(), OLD)
        fooled.tuf = self.tuf
        with self.assertRaises(BadVersionNumberError):
            fooled.version()
        self.signer.rotate(["targets", "snapshot", "timestamp"], {})
        self.before = fooled
        self.follows()

    def test_interrupted(self) -> None:
        """At every point boxes keep their release, and a repetition ends the same way."""
        names = self.key_files("root")

        def work() -> None:
            if self.repository.numbers("root") == [1]:
                self.signer.rotate(["root", "targets", "snapshot"], {}, names[0][5:17])
            else:
                self.signer.renew_root()

        saved = self.place.with_name("saved")
        for point in self.interruptions(work):
            box = TufClient(saved / "updates" / "tuf")
            self.assertEqual(box.version(), OLD, point)
            box.tuf = self.tuf
            # A box may have to wait until the server has signed for the new root.
            with contextlib.suppress(RepositoryError):
                self.assertEqual(box.version(), OLD, point)
            self.serve()
            self.assertEqual(box.version(), OLD, point)
            work()
            for role, number in (("root", 3), ("targets", 1), ("snapshot", 1)):
                self.assertEqual(len(self.key_files(role)), number, point)
            self.assertNotIn(names[0], self.key_files("root"))
            self.serve()
            for each in (box, self.box()):
                self.assertEqual(each.version(), OLD, point)
            self.publish(NEW)
            self.serve()
            self.assertEqual(box.version(), NEW, point)


class OneKeyTests(HoldersCase):
    """There is one root key, and one signature is enough."""

    def test_rotate(self) -> None:
        """The replaced root key need not be named."""
        [old] = self.keys.glob("root-*.pem")
        self.assertIsNone(self.signer.rotate(["root"], {}))
        [new] = self.keys.glob("root-*.pem")
        self.assertNotEqual(old.name, new.name)
        self.publish(OLD)
        self.assert_served(OLD)


class ExpiredTests(HoldersCase):
    """Nothing was renewed for more than a year."""

    def setUp(self) -> None:
        super().setUp()
        self.publish(OLD)
        self.before = self.box()
        [root], current = self.repository.roots(), self.signer.current()
        current.snapshot.signed.meta["targets.json"] = MetaFile(current.targets.signed.version)
        for document in (root, current.targets.metadata, current.snapshot.metadata):
            document.signed.expires -= timedelta(days=400)
            document.sign(self.key_folder.signers(root.signed, document.signed.type)[0])
            name = f"{document.signed.version}.{document.signed.type}.json"
            (self.tuf / name).write_bytes(document.to_bytes())
        (self.keys / "trusted-root.json").unlink()

    def follows(self) -> None:
        """A box with the expired root follows."""
        self.serve()
        self.assertEqual((self.before.version(), self.box().version()), (OLD, OLD))

    def test_renew_root(self) -> None:
        """The root has to be renewed first."""
        for work in (self.signer.resign, lambda: self.publish(NEW)):
            self.assertIn("renew-root first", str(self.assertRaises(ReleaseFailed, work)))
        self.assertIsNone(self.signer.renew_root())
        self.signer.resign()
        self.follows()

    def test_publish(self) -> None:
        """A later release renews the other metadata."""
        self.signer.renew_root()
        self.publish(NEW)
        self.assert_served(NEW, self.before)

    def test_rotate(self) -> None:
        """A rotation of all keys renews everything."""
        self.signer.rotate(["root", "targets", "snapshot", "timestamp"], {})
        self.follows()


class IntruderTests(HoldersCase):
    """Somebody who can write to the updates directory gets nothing signed."""

    def setUp(self) -> None:
        super().setUp()
        self.publish(OLD)
        # The intruder has his own keys, and our public keys.
        self.theirs = signer_in(self.place / "theirs")
        self.theirs.init(1, 1, {})
        self.publish_theirs()

    def publish_theirs(self) -> None:
        archive = self.archive(NEW, b"evil")
        publish(self.theirs, archive, Terms("stable"), lambda _: None)
        self.evil = self.theirs.current()
        archive.unlink()

    def their_key(self, role: str) -> CryptoSigner:
        [key] = self.theirs.key_folder.signers(self.evil.root, role)
        return key

    def test_targets(self) -> None:
        """Targets that our keys have not signed are skipped when metadata is signed again."""
        for document in (self.evil.targets.metadata, self.evil.snapshot.metadata):
            document.signed.version = 900
            if isinstance(document.signed, Snapshot):
                document.signed.meta["targets.json"] = MetaFile(900)
            document.sign(self.their_key(document.signed.type))
            self.repository.place(Document.of(document))
        self.signer.resign()
        self.signer.rotate(["targets", "snapshot"], {})
        targets = self.newest("targets")
        self.assertEqual(targets.version, 902)
        self.assertEqual(read_offer(targets.targets["stable"]).version, OLD)

    def test_old_targets(self) -> None:
        """A snapshot that our keys have not signed does not bring back old targets."""
        snapshot = self.evil.snapshot.metadata
        snapshot.signed.version = 900
        snapshot.signed.meta["targets.json"] = MetaFile(1)
        snapshot.sign(self.their_key("snapshot"))
        self.repository.place(Document.of(snapshot))
        self.signer.resign()
        self.assertIn("stable", self.newest("targets").targets)

    def test_stolen_snapshot_key(self) -> None:
        """A thief of the snapshot key alone can offer nothing new."""
        root = self.signer.current().root
        for document in (self.evil.targets.metadata, self.evil.snapshot.metadata):
            document.signed.version = 900
            if isinstance(document.signed, Snapshot):
                document.signed.meta["targets.json"] = MetaFile(900)
                document.sign(self.key_folder.signers(root, "snapshot")[0])
            self.repository.place(Document.of(document))
        self.signer.resign()
        self.assertEqual(read_offer(self.newest("targets").targets["stable"]).version, OLD)

    def test_same_number(self) -> None:
        """A thief of the targets key alone can replace no signed targets."""
        current = self.signer.current()
        content = self.evil.targets.signed.targets
        evil = Metadata(Targets(2, expires=current.targets.signed.expires, targets=content))
        evil.sign(self.key_folder.signers(current.root, "targets")[0])
        path = self.tuf / "2.targets.json"
        ours = path.read_bytes()
        evil.to_file(str(path))
        self.assert_refused(self.signer.resign, "has snapshot 1, but 2 was signed")
        path.write_bytes(ours)
        self.signer.resign()
        self.assertEqual(read_offer(self.newest("targets").targets["stable"]).version, OLD)

    def test_next_root(self) -> None:
        """A root that names our keys and his, without our signature, is refused."""
        root = self.mixed(2)
        self.repository.place(Document.of(root))
        self.assert_refused(self.signer.resign, "root")
        self.assert_refused(lambda: self.publish(NEW), "root")
        self.assert_refused(self.signer.renew_root, "root")
        self.assert_refused(lambda: self.signer.rotate(["targets"], {}), "root")

    def test_first_root(self) -> None:
        """Another first root is refused."""
        for path in self.tuf.glob("*.json"):
            path.unlink()
        self.repository.place(Document.of(self.mixed(1)), self.evil.targets, self.evil.snapshot)
        self.assert_refused(self.signer.resign, "not those of these keys")
        self.assert_refused(self.signer.renew_root, "not those of these keys")

    def mixed(self, number: int) -> Metadata[Root]:
        ours = Metadata[Root].from_file(str(self.tuf / "1.root.json")) if number > 1 else None
        known = Metadata[Root].from_file(str(self.keys / "trusted-root.json"))
        root = Metadata[Root].from_bytes((ours or known).to_bytes())
        root.signed.version = number
        for role in ("root", "targets", "snapshot"):
            root.signed.add_key(self.their_key(role).public_key, role)
        root.sign(self.their_key("root"))
        return root


def unfinished(draft: Draft | None) -> Draft:
    """Return a draft that has not become a root."""
    assert draft is not None
    return draft


class HolderTests(SynchronousTestCase):
    """Two holders of root keys on two machines."""

    def setUp(self) -> None:
        save_time(self)
        self.anna = Path(self.mktemp()).absolute()
        self.signer = signer_in(self.anna)
        self.tuf = self.anna / "updates" / "tuf"
        self.bens = Path(self.mktemp()).absolute() / "keys"
        self.ben = RootSigner(
            Repository(self.bens.parent / "none"),
            KeyFolder(self.bens, lambda: b"Ben's own"),
            lambda: datetime.now(UTC),
        )
        self.key = self.ben.key_folder.create("root")

    def begin(self) -> Path:
        draft = unfinished(self.signer.init(2, 2, {"root": [self.key]}))
        self.assertEqual(draft.missing, 1)
        self.assertEqual(list(self.tuf.glob("*.json")), [])
        return draft.path

    def in_place(self) -> None:
        path = self.begin()
        draft = unfinished(self.ben.append(Draft.load(path)))
        self.assertEqual((draft.missing, len(draft.signed_by)), (0, 2))
        self.assertIsNone(self.signer.append(Draft.load(path)))
        self.assertFalse(path.exists())

    def test_init(self) -> None:
        """The root is placed when both have signed, where the updates directory is."""
        self.in_place()
        serve(self.signer)
        self.assertIsNone(TufClient(self.tuf).asks())

    def test_early(self) -> None:
        """Without a new signature the draft does not change."""
        path = self.begin()
        draft = unfinished(self.signer.append(Draft.load(path)))
        self.assertEqual(draft.missing, 1)
        self.assertEqual(list(self.tuf.glob("*.json")), [])

    def test_init_again(self) -> None:
        """A repetition uses the same keys."""
        path = self.begin()
        before = sorted(self.anna.rglob("*.pem"))
        self.assertEqual(self.begin(), path)
        self.assertEqual(sorted(self.anna.rglob("*.pem")), before)

    def test_not_lost(self) -> None:
        """A repetition does not overwrite a draft that another holder has signed."""
        path = self.begin()
        self.ben.append(Draft.load(path))
        error = self.assertRaises(ReleaseFailed, self.begin)
        self.assertIn("--append", str(error))
        self.assertIn(self.key.keyid[:12], str(error))
        self.assertIsNone(self.signer.append(Draft.load(path)))

    def test_contradiction(self) -> None:
        """A holder who knows a root signs only roots that follow it, on any machine."""
        self.in_place()
        known = self.ben.key_folder.folder / "trusted-root.json"
        ours = (self.tuf / "1.root.json").read_bytes()
        known.write_bytes(ours)
        draft = unfinished(self.signer.renew_root())
        evil = Metadata[Root].from_bytes(ours)
        evil.signed.roles["targets"].keyids = evil.signed.roles["root"].keyids
        later = Metadata[Root].from_bytes(ours)
        later.signed.version = 2
        for previous in (None, evil):
            self.refuses_to_sign(evolve(draft, previous=previous))
        known.write_bytes(later.to_bytes())
        self.refuses_to_sign(draft)
        known.write_bytes(ours)
        self.assertIsNotNone(self.ben.append(draft))
        # Others have signed the roots that he has missed.
        draft.root.signed.version = 3
        self.assertIsNotNone(self.ben.append(evolve(draft, previous=later)))

    def refuses_to_sign(self, draft: Draft) -> None:
        error = self.assertRaises(ReleaseFailed, self.ben.append, draft)
        self.assertIn("which is yours", str(error))

    def test_renew(self) -> None:
        """Either holder may begin."""
        self.in_place()
        draft = unfinished(self.signer.renew_root())
        self.ben.append(Draft.load(draft.path))
        self.assertIsNone(self.signer.append(Draft.load(draft.path)))
        self.assertEqual(self.signer.repository.numbers("root"), [1, 2])
        serve(self.signer)
        self.assertIsNone(TufClient(self.tuf).asks())

    def test_rotate(self) -> None:
        """The release keys are rotated, and their metadata is signed again at the end."""
        self.in_place()
        serve(self.signer)
        box = TufClient(self.tuf)
        self.assertIsNone(box.asks())
        draft = unfinished(self.signer.rotate(["targets", "snapshot"], {}))
        self.assertEqual(self.signer.repository.numbers("targets"), [1])
        # A release in the meantime is signed with the old keys, and is not lost.
        archive = make_archive(self.anna / name_of(OLD), OLD)
        publish(self.signer, archive, Terms("stable"), lambda _: None)
        self.ben.append(Draft.load(draft.path))
        self.assertIsNone(self.signer.append(Draft.load(draft.path)))
        self.assertEqual(len(list((self.anna / "keys" / "retired").iterdir())), 2)
        serve(self.signer)
        self.assertEqual((box.version(), TufClient(self.tuf).version()), (OLD, OLD))

    def test_replace_holder(self) -> None:
        """The key of the other holder is replaced, and he signs with the old one."""
        self.in_place()
        carla = KeyFolder(self.bens.parent / "carla", lambda: b"Carla's own")
        key = carla.create("root")
        draft = unfinished(self.signer.rotate(["root"], {"root": key}, self.key.keyid[:12]))
        self.assertEqual(draft.missing, 1)
        after_ben = unfinished(self.ben.append(Draft.load(draft.path)))
        self.assertEqual(after_ben.missing, 1)
        self.assertNotIn(None, after_ben.signed_by)
        RootSigner(self.ben.repository, carla, self.ben.now).append(Draft.load(draft.path))
        self.assertIsNone(self.signer.append(Draft.load(draft.path)))
        serve(self.signer)
        self.assertIsNone(TufClient(self.tuf).asks())
        self.assertEqual(
            set(self.signer.repository.roots()[-1].signed.roles["root"].keyids),
            {key.keyid}
            | (
                set(self.signer.repository.roots()[0].signed.roles["root"].keyids)
                - {self.key.keyid}
            ),
        )

    def test_out_of_date(self) -> None:
        """A draft that does not follow the newest root is refused."""
        self.in_place()
        for number in (2, 3):
            draft = unfinished(self.signer.renew_root())
            old = draft.path.with_name(f"old-{number}.json")
            shutil.copy(draft.path, old)
            self.ben.append(Draft.load(draft.path))
            self.signer.append(Draft.load(draft.path))
        old = old.with_name("old-2.json")
        error = self.assertRaises(ReleaseFailed, self.signer.append, Draft.load(old))
        self.assertIn("does not follow", str(error))

    def test_tampered(self) -> None:
        """A draft that was changed on its way loses its signatures."""
        path = self.begin()
        parts = json.loads(path.read_bytes())
        later = datetime.now(UTC) + timedelta(days=400)
        parts["root"]["signed"]["expires"] = f"{later:%Y-%m-%dT%H:%M:%SZ}"
        path.write_text(json.dumps(parts))
        draft = unfinished(self.ben.append(Draft.load(path)))
        self.assertEqual(draft.signed_by, [self.key.keyid[:12]])
        self.assertEqual(draft.missing, 1)

    def altered(self, change: Callable[[Any], object]) -> Draft:
        """Load a draft that follows the newest root, and that somebody has altered."""
        draft = unfinished(self.signer.renew_root())
        parts = json.loads(draft.path.read_bytes())
        change(parts["root"]["signed"])
        draft.path.write_text(json.dumps(parts))
        return Draft.load(draft.path)

    def test_key_ids(self) -> None:
        """A key with the id of another key is not signed, for any role."""
        self.in_place()
        thief = CryptoSigner.generate_ed25519().public_key.to_dict()

        for role in ROLES:

            def exchange(root: Any, role: str = role) -> None:
                root["keys"][root["roles"][role]["keyids"][0]] = thief

            error = self.assertRaises(ReleaseFailed, self.altered, exchange)
            self.assertIn("which is not its own", str(error))

    def test_not_shown(self) -> None:
        """A root with content that is not shown to the holder is not signed."""
        self.in_place()
        key = CryptoSigner.generate_ed25519().public_key
        alterations: tuple[Callable[[Any], object], ...] = (
            lambda root: root.update(x=1),
            lambda root: root["roles"]["root"].update(x=1),
            lambda root: next(iter(root["keys"].values())).update(x=1),
            lambda root: root["keys"].update({key.keyid: key.to_dict()}),
            lambda root: root["roles"]["targets"]["keyids"].append(key.keyid),
            lambda root: root.update(consistent_snapshot=False),
            lambda root: root.update(consistent_snapshot=1),
            lambda root: root["roles"]["timestamp"].update(threshold=2),
            lambda root: root["roles"]["root"].update(threshold=10**40),
        )
        for alter in alterations:
            error = self.assertRaises(ReleaseFailed, self.altered, alter)
            self.assertIn("not to be signed", str(error))

    def test_whole_numbers(self) -> None:
        """Numbers that cannot be signed, or would be signed as others, are refused."""
        self.in_place()
        for number in (1.0, float("nan"), float("inf"), True):
            for alter in (
                lambda root, number=number: root.update(version=number),
                lambda root, number=number: root["roles"]["timestamp"].update(threshold=number),
            ):
                error = self.assertRaises(ReleaseFailed, self.altered, alter)
                self.assertIn("no draft", str(error))

    def test_life(self) -> None:
        """A root that is valid for too long is not signed."""
        self.in_place()
        draft = self.altered(lambda root: root.update(expires="9999-12-31T23:59:59Z"))
        for signer in (self.ben, self.signer):
            self.assertIn("9999-12-31", str(self.assertRaises(ReleaseFailed, signer.append, draft)))

    def test_bounded(self) -> None:
        """A file that is too long for a draft is not read to its end."""
        path = self.anna / "draft.json"
        os.mkfifo(path)
        with self.assertRaises(ReleaseFailed):
            Draft.load(path)
        path.unlink()
        path.touch()
        os.truncate(path, 1 << 40)
        with self.assertRaises(ReleaseFailed):
            Draft.load(path)

    def test_no_draft(self) -> None:
        """Files that are not drafts are refused."""
        self.in_place()
        root = self.tuf / "1.root.json"
        other = self.anna / "other.json"
        for data in (
            b"",
            b"{}",
            b"[]",
            root.read_bytes(),
            b'{"previous": null, "root": {}}',
            b"[" * 100_000,
        ):
            other.write_bytes(data)
            self.assertIn("no draft", str(self.assertRaises(ReleaseFailed, Draft.load, other)))
        self.assertRaises(ReleaseFailed, Draft.load, self.anna / "missing")

    def test_another_first_root(self) -> None:
        """Keys that have a root make no other one from a draft, either."""
        path = self.begin()
        self.ben.append(Draft.load(path))
        again = path.with_name("again.json")
        shutil.copy(path, again)
        self.assertIsNone(self.signer.append(Draft.load(path)))
        for metadata in self.tuf.glob("*.json"):
            metadata.unlink()
        error = self.assertRaises(ReleaseFailed, self.signer.append, Draft.load(again))
        self.assertIn("have a root already", str(error))
        self.assertEqual(list(self.tuf.glob("*.json")), [])

    def test_only_read(self) -> None:
        """A draft or an old key that cannot be removed is no error."""
        self.in_place()
        draft = unfinished(self.signer.rotate(["targets"], {}))
        self.ben.append(Draft.load(draft.path))

        for name in ("unlink", "mkdir"):
            self.patch(Path, name, self.refusing_in_keys(getattr(Path, name)))
        for _ in range(2):
            self.assertIsNone(self.signer.append(Draft.load(draft.path)))
            self.assertEqual(self.signer.repository.numbers("root"), [1, 2])
        self.assertFalse((self.anna / "keys" / "retired").exists())
        [keyid] = self.signer.repository.roots()[-1].signed.roles["targets"].keyids
        self.signer = signer_in(self.anna)
        self.signer.resign()
        [signature] = self.signer.current().targets.metadata.signatures
        self.assertEqual(signature, keyid)

    def refusing_in_keys(self, real: Callable[..., None]) -> Callable[..., None]:
        def refusing(path: Path, *arguments: Any, **named: Any) -> None:
            if path.is_relative_to(self.anna / "keys"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            real(path, *arguments, **named)

        return refusing

    def test_wrong_holder(self) -> None:
        """The error for somebody without a root key names the needed key."""
        path = self.begin()
        stranger = RootSigner(
            self.ben.repository, KeyFolder(self.anna / "none", lambda: b""), self.ben.now
        )
        error = self.assertRaises(ReleaseFailed, stranger.append, Draft.load(path))
        self.assertIn(f"root-{self.key.keyid[:12]}.pem", str(error))

    def test_without_release_keys(self) -> None:
        """A complete draft stays a draft while the keys of targets and snapshot are missing."""
        path = self.begin()
        self.ben.append(Draft.load(path))
        other = signer_in(self.anna / "other")
        draft = unfinished(other.append(Draft.load(path)))
        self.assertEqual(draft.missing, 0)
        self.assertEqual(other.repository.numbers("root"), [])
        self.assertIsNone(self.signer.append(Draft.load(path)))

    def test_interrupted(self) -> None:
        """After any interruption the last step can be repeated."""
        self.in_place()
        serve(self.signer)
        draft = unfinished(self.signer.rotate(["targets", "snapshot"], {}))
        self.ben.append(Draft.load(draft.path))
        saved = self.anna.with_name("anna-saved")
        shutil.copytree(self.anna, saved)
        for first, interrupt in enumerate((fails_at, dies_at), 1):
            for number in itertools.count(first, stride(7)):
                interrupted = interrupt(number, lambda: self.signer.append(Draft.load(draft.path)))
                box = TufClient(saved / "updates" / "tuf")
                self.assertIsNone(box.asks())
                box.tuf = self.tuf
                with contextlib.suppress(RepositoryError):
                    self.assertIsNone(box.asks())
                serve(self.signer)
                self.assertIsNone(box.asks())
                if draft.path.exists():
                    self.assertIsNone(signer_in(self.anna).append(Draft.load(draft.path)))
                self.assertEqual(len(list((self.anna / "keys").glob("targets-*.pem"))), 1)
                serve(self.signer)
                self.assertIsNone(box.asks())
                shutil.rmtree(self.anna)
                shutil.copytree(saved, self.anna)
                self.signer = signer_in(self.anna)
                if not interrupted:
                    break
            self.assertGreater(number, 6)

    def test_expired(self) -> None:
        """An expired draft is not placed."""
        path = self.begin()
        self.ben.append(Draft.load(path))
        later = datetime.now(UTC) + timedelta(days=400)
        late = RootSigner(self.signer.repository, self.signer.key_folder, lambda: later)
        error = self.assertRaises(ReleaseFailed, late.append, Draft.load(path))
        self.assertIn("expired", str(error))

    def test_draft_is_for_all(self) -> None:
        """A draft has no secrets, and contains the previous root."""
        self.in_place()
        draft = unfinished(self.signer.renew_root())
        self.assertEqual(draft.path.stat().st_mode & 0o777, 0o644)
        self.assertEqual(draft.path.name, "root-2.draft.json")
        loaded = Draft.load(draft.path)
        assert loaded.previous is not None
        self.assertEqual(loaded.previous.signed.version, 1)
