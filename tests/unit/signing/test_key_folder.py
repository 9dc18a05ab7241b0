"""Tests of the folder in which private keys are found by the ids in a root."""

import errno
import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from tuf.api.metadata import Metadata, Root, Snapshot
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common import files
from opq_twisted.common.errors import KeyUnusable, ReleaseFailed
from opq_twisted.signing.key_folder import KeyFolder
from opq_twisted.trust import keys
from tests.helpers.key_holders import PASSPHRASE, save_time
from tests.helpers.privileges import without_privileges
from tests.helpers.signed_metadata import write_key


class KeyFolderTests(SynchronousTestCase):
    """Finding keys by the ids that a root names."""

    def setUp(self) -> None:
        save_time(self)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.asked = 0
        self.key_folder = KeyFolder(self.folder, self.passphrase)

    def passphrase(self) -> bytes:
        self.asked += 1
        return PASSPHRASE

    def test_advice(self) -> None:
        """When a key in an older format is opened, the advice is given once."""
        root = self.root("targets")
        [path] = self.folder.iterdir()
        older = keys.load(path, PASSPHRASE)
        write_key(path, older, BestAvailableEncryption(PASSPHRASE))
        said: list[str] = []
        key_folder = KeyFolder(self.folder, self.passphrase, said.append)
        for _ in range(2):
            key_folder.signers(root, "targets")
        [advice] = said
        self.assertIn(str(path), advice)

    def test_bounded(self) -> None:
        """The files beside the keys are read within bounds, and a FIFO does not block."""
        for name, work in (
            ("trusted-root.json", self.key_folder.trusted_root),
            ("last-snapshot", lambda: self.key_folder.require_not_behind(Snapshot(1))),
        ):
            path = self.folder / name
            os.mkfifo(path)
            self.assertIn(name, str(self.assertRaises(ReleaseFailed, work)))
            path.unlink()
            path.touch()
            os.truncate(path, 1 << 30)
            self.assertIn(name, str(self.assertRaises(ReleaseFailed, work)))

    def root(self, *roles: str) -> Root:
        root = Root(1)
        for role in roles:
            root.add_key(self.key_folder.create(role), role)
        return root

    def test_signers(self) -> None:
        """The keys of a role are found and opened once; those of other roles are not opened."""
        root = self.root("root", "root", "targets")
        self.asked = 0
        found = self.key_folder.signers(root, "root")
        self.assertEqual([signer.public_key.keyid for signer in found], root.roles["root"].keyids)
        self.assertEqual(self.key_folder.signers(root, "root"), found)
        self.assertEqual(self.asked, 2)
        self.assertEqual(self.key_folder.signers(root, "snapshot"), [])

    def test_elsewhere(self) -> None:
        """A missing key is no error until it has to sign; then it is named."""
        root = self.root("targets")
        [path] = self.folder.glob("targets-*")
        path.unlink()
        self.assertEqual(self.key_folder.signers(root, "targets"), [])
        error = self.assertRaises(ReleaseFailed, self.key_folder.enough, root, "targets")
        self.assertIn(path.name, str(error))

    def test_enough(self) -> None:
        """Only as many keys as necessary sign."""
        root = self.root("root", "root", "root")
        root.roles["root"].threshold = 2
        self.assertEqual(len(self.key_folder.enough(root, "root")), 2)

    def test_wrong_name(self) -> None:
        """A file whose key differs from its name signs nothing."""
        root = self.root("targets", "snapshot")
        [targets], [snapshot] = (self.folder.glob(f"{role}-*") for role in ("targets", "snapshot"))
        targets.write_bytes(snapshot.read_bytes())
        error = self.assertRaises(KeyUnusable, self.key_folder.signers, root, "targets")
        self.assertIn("does not hold the key", str(error))

    def test_unused(self) -> None:
        """Keys that no root has named are found, unless they are retired."""
        root = self.root("targets")
        left = self.key_folder.create("targets")
        self.assertEqual(
            [key.keyid for key in self.key_folder.unused("targets", [root])], [left.keyid]
        )
        retired = self.folder / "retired"
        retired.mkdir()
        (retired / keys.file_name("targets", left)).write_bytes(b"")
        self.assertEqual(self.key_folder.unused("targets", [root]), [])

    def test_retire(self) -> None:
        """Only keys that just earlier roots name are moved to `retired`."""
        before, after = self.root("targets", "snapshot"), Root(2)
        [gone] = before.roles["targets"].keyids
        [stays] = before.roles["snapshot"].keyids
        after.add_key(before.keys[stays], "snapshot")
        new = self.key_folder.create("targets")
        after.add_key(new, "targets")
        for _ in range(2):
            self.key_folder.retire([before, after])
            self.assertEqual(
                sorted(path.name for path in self.folder.rglob("*.pem")),
                sorted(
                    f"{name[:-52]}.pem"
                    for name in (f"targets-{gone}", f"snapshot-{stays}", f"targets-{new.keyid}")
                ),
            )
        self.assertTrue((self.folder / "retired" / f"targets-{gone[:12]}.pem").exists())

    def test_folder(self) -> None:
        """The folder is made when it is needed, and only its owner can open it."""
        key_folder = KeyFolder(self.folder / "new" / "keys", self.passphrase)
        key_folder.create("root")
        self.assertEqual(key_folder.folder.stat().st_mode & 0o777, 0o700)

    def test_no_right(self) -> None:
        """If the folder cannot be made, a sentence says so."""
        self.folder.chmod(0o555)
        self.addCleanup(self.folder.chmod, 0o700)
        with without_privileges(), self.assertRaises(KeyUnusable) as caught:
            KeyFolder(self.folder / "keys", self.passphrase).create("root")
        self.assertIn("Permission denied", str(caught.exception))

    def test_verify_roots(self) -> None:
        """A chain of roots has to contain the stored one."""
        one, two, other = (Metadata(Root(number)) for number in (1, 2, 1))
        other.signed.unrecognized_fields["x"] = 1
        self.assertFalse(self.key_folder.knows_a_root())
        self.key_folder.verify_roots([one])
        self.assertTrue(self.key_folder.knows_a_root())
        self.key_folder.verify_roots([one, two])
        for chain in ([one], [other], [other, Metadata(Root(3))]):
            error = self.assertRaises(ReleaseFailed, self.key_folder.verify_roots, chain)
            self.assertIn("not those of these keys", str(error))
        self.key_folder.verify_roots([one, two])

    def test_damaged_root(self) -> None:
        """A root that cannot be read does not count as a missing one."""
        (self.folder / "trusted-root.json").touch()
        error = self.assertRaises(ReleaseFailed, self.key_folder.verify_roots, [Metadata(Root(1))])
        self.assertIn("trusted-root.json", str(error))

    def test_read_only(self) -> None:
        """Keys on a read-only medium can be used."""

        def write(*_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        self.patch(files, "write", write)
        self.key_folder.verify_roots([Metadata(Root(1))])
        self.assertFalse(self.key_folder.knows_a_root())
