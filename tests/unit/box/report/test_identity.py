"""The box's own key."""

import errno
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.report.identity import FILE, Identity, load_identity
from opq_twisted.common import files
from opq_twisted.report import signature
from tests.helpers.box_fakes import logged
from tests.helpers.failing_disk import counting

PEM = (Encoding.PEM, PrivateFormat.PKCS8)


class IdentityTests(SynchronousTestCase):
    """What an agent finds, or makes, when it starts."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / FILE

    def load(self) -> Identity:
        """Load the key that must be there, or be made."""
        identity = load_identity(self.path)
        assert identity is not None
        return identity

    def test_made_once(self) -> None:
        """The first start makes the key, which only its owner may read, and later ones keep it."""
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        first = self.load()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.folder), [FILE])
        written = self.path.read_bytes()
        self.assertEqual(self.load().public, first.public)
        self.assertEqual(self.path.read_bytes(), written)

    def test_signs(self) -> None:
        """A server that knows the public key accepts a signed report, and nothing else."""
        identity = self.load()
        self.assertEqual(len(identity.public), 32)
        self.assertEqual(identity.fingerprint, signature.key_id(identity.public))
        signed = identity.sign(b"report")
        self.assertTrue(signature.is_signed(identity.public, b"report", signed))
        self.assertFalse(signature.is_signed(identity.public, b"another", signed))

    def test_damaged(self) -> None:
        """A key that is none is replaced, once, and the log says so."""
        good = Ed25519PrivateKey.generate()
        whole = good.private_bytes(*PEM, NoEncryption())
        for damaged in (
            b"",
            bytes(119),
            b"\xff" * 5000,
            whole[: len(whole) // 2],
            good.private_bytes_raw(),
            good.private_bytes(*PEM, BestAvailableEncryption(b"secret")),
            generate_private_key(SECP256R1()).private_bytes(*PEM, NoEncryption()),
        ):
            with self.subTest(damaged=damaged[:20]):
                files.write(self.path, damaged, 0o600)
                said = logged(self)
                made = self.load()
                self.assertIn("replaced", said[0])
                self.assertEqual(self.load().public, made.public)
                self.assertEqual(len(said), 1)

    def test_open_to_others(self) -> None:
        """A key that others could read is theirs, too: it is replaced."""
        first = self.load()
        for mode in (0o644, 0o604, 0o602):
            with self.subTest(mode=mode):
                self.path.chmod(mode)
                said = logged(self)
                second = self.load()
                self.assertNotEqual(second.public, first.public)
                self.assertIn("Others can read the box's key", said[0])
                self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
                first = second

    def test_no_permissions(self) -> None:
        """On a file system without permissions no key is made again and again: there is none."""
        self.patch(files, "is_open_to_others", lambda path: True)
        said = logged(self)
        self.assertIsNone(load_identity(self.path))
        self.assertIn("sends no reports: Others can read", said[-1])

    def test_folder(self) -> None:
        """A folder in the place of the key stays, and the box does not report."""
        self.path.mkdir()
        said = logged(self)
        self.assertIsNone(load_identity(self.path))
        self.assertIn("sends no reports", said[-1])
        self.assertTrue(self.path.is_dir())

    def test_fifo(self) -> None:
        """A FIFO in the place of the key does not stop the agent, and is replaced."""
        os.mkfifo(self.path)
        made = self.load()
        self.assertEqual(self.load().public, made.public)

    def test_unreadable_for_a_moment(self) -> None:
        """A key that can be read a moment later is kept."""
        first = self.load()
        self.fail_to_read(errno.EIO, times=2)
        self.assertEqual(self.load().public, first.public)

    def test_unreadable(self) -> None:
        """A key on a bad place of the card is replaced."""
        first = self.load()
        self.fail_to_read(errno.EIO, times=3)
        second = self.load()
        self.assertNotEqual(second.public, first.public)
        self.assertEqual(self.load().public, second.public)

    def test_busy(self) -> None:
        """If the machine is too busy to open the key, it is kept, and the box does not report."""
        first = self.load()
        self.fail_to_read(errno.EMFILE, times=3)
        said = logged(self)
        self.assertIsNone(load_identity(self.path))
        self.assertIn("no reports are sent", said[-1])
        self.assertEqual(self.load().public, first.public)

    def test_disk_full(self) -> None:
        """Without room for the key the box does not report, and the next start makes it."""
        with counting(1):
            self.assertIsNone(load_identity(self.path))
        self.assertEqual(os.listdir(self.folder), [])
        self.load()

    def fail_to_read(self, number: int, times: int) -> None:
        """Let the next reads fail."""
        real, left = files.read, [OSError(number, os.strerror(number))] * times

        def read(path: Path, max_size: int) -> bytes:
            if left:
                raise left.pop()
            return real(path, max_size)

        self.patch(files, "read", read)
