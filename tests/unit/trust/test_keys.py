"""Tests of the files of private keys."""

import base64
import errno
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import SkipTest

from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import KeyUnusable
from opq_twisted.trust import keys, pkcs8
from tests.helpers.key_holders import save_time

PASSPHRASE = b"open sesame"
COST = pkcs8.COST


def pem_of(encryption: KeySerializationEncryption) -> bytes:
    """Make a private key as other programs do."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


class KeysCase(SynchronousTestCase):
    """A folder for keys."""

    def setUp(self) -> None:
        save_time(self)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        return path


class CreateTests(KeysCase):
    """Making a key."""

    def test_file(self) -> None:
        """It is named after its role and id, encrypted, and nobody else may read it."""
        self.addCleanup(os.umask, os.umask(0))
        signer = keys.create(self.folder, "targets", PASSPHRASE)
        [path] = self.folder.iterdir()
        self.assertEqual(path.name, f"targets-{signer.public_key.keyid[:12]}.pem")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertTrue(path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----"))

    def test_cost(self) -> None:
        """Guessing once costs scrypt with N = 2**17, r = 8, p = 1, as the file says."""
        self.patch(pkcs8, "COST", COST)
        keys.create(self.folder, "targets", PASSPHRASE)
        [path] = self.folder.iterdir()
        pem = path.read_bytes()
        self.assertIn(bytes.fromhex("0203020000 020108 020101"), der(pem))
        self.assertTrue(pkcs8.uses_scrypt(pem))
        self.assertIsNone(keys.advice(path))

    def test_never_open(self) -> None:
        """Other users can never open the file, not even for a moment."""
        self.addCleanup(os.umask, os.umask(0))
        modes: list[int] = []
        fchmod = os.fchmod

        def look(fd: int, mode: int) -> None:
            modes.append(os.fstat(fd).st_mode & 0o777)
            fchmod(fd, mode)

        self.patch(os, "fchmod", look)
        keys.create(self.folder, "targets", PASSPHRASE)
        self.assertEqual(modes, [0o600])

    def test_other_programs(self) -> None:
        """OpenSSL's command opens a key whose cost is within its memory limit."""
        openssl = shutil.which("openssl")
        if openssl is None:
            if "CI" in os.environ:
                self.fail("There is no openssl.")
            raise SkipTest("There is no openssl.")
        self.patch(pkcs8, "COST", 1 << 14)
        signer = keys.create(self.folder, "root", PASSPHRASE)
        [path] = self.folder.iterdir()
        public = self.write("key.pub", b"")
        subprocess.run(
            [openssl, "pkey", "-in", path, "-pubout", "-out", public, "-passin", "stdin"],
            input=PASSPHRASE,
            check=True,
        )
        self.assertEqual(keys.load_public(public).keyid, signer.public_key.keyid)

    def test_signs(self) -> None:
        """A key that is read again makes the same signatures."""
        signer = keys.create(self.folder, "targets", PASSPHRASE)
        [path] = self.folder.iterdir()
        again = keys.load(path, PASSPHRASE)
        self.assertEqual(again.sign(b"data"), signer.sign(b"data"))
        signer.public_key.verify_signature(again.sign(b"data"), b"data")

    def test_each_another(self) -> None:
        """No two keys are the same."""
        one, two = (keys.create(self.folder, "root", PASSPHRASE) for _ in range(2))
        self.assertNotEqual(one.public_key.keyid, two.public_key.keyid)

    def test_empty_passphrase(self) -> None:
        """A key without a passphrase is not made."""
        error = self.assertRaises(KeyUnusable, keys.create, self.folder, "root", b"")
        self.assertIn("not empty", str(error))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_disk_full(self) -> None:
        """A full disk leaves no part of a key behind."""

        def fsync(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch(os, "fsync", fsync)
        error = self.assertRaises(KeyUnusable, keys.create, self.folder, "root", PASSPHRASE)
        self.assertIn("No space left", str(error))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_no_folder(self) -> None:
        """A missing folder is reported."""
        error = self.assertRaises(
            KeyUnusable, keys.create, self.folder / "none", "root", PASSPHRASE
        )
        self.assertIn("No such file", str(error))


class LoadTests(KeysCase):
    """Reading a key."""

    def refuses(self, path: Path, passphrase: bytes | None, word: str) -> None:
        error = self.assertRaises(KeyUnusable, keys.load, path, passphrase)
        sentence = str(error)
        self.assertIn(word, sentence)
        self.assertIn(str(path), sentence)
        self.assertTrue(sentence.endswith("."))

    def test_passphrase(self) -> None:
        """Without the passphrase, or with a wrong one, the key is not opened."""
        keys.create(self.folder, "root", PASSPHRASE)
        [path] = self.folder.iterdir()
        self.refuses(path, b"wrong", "passphrase is wrong")
        for nothing in (None, b""):
            self.refuses(path, nothing, "no passphrase was given")

    def test_not_encrypted(self) -> None:
        """An unencrypted key needs no passphrase, and ignores one."""
        pem = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        path = self.write("key.pem", pem)
        self.assertEqual(
            keys.load(path, None).public_key.keyid, keys.load(path, PASSPHRASE).public_key.keyid
        )

    def test_no_key(self) -> None:
        """Files that are not keys are refused."""
        for data in (b"", b"?" * 60_000, b"-----BEGIN PRIVATE KEY-----\n?\n"):
            self.refuses(self.write("key.pem", data), PASSPHRASE, "PKCS#8 PEM")
        self.refuses(self.write("key.pem", b"?" * 100_000), PASSPHRASE, "more than 65536 bytes")
        self.refuses(self.folder / "none.pem", PASSPHRASE, "No such file")
        self.refuses(self.folder, PASSPHRASE, "Is a directory")

    def test_not_a_file(self) -> None:
        """Opening a FIFO does not block."""
        path = self.folder / "key.pem"
        os.mkfifo(path, 0o600)
        self.refuses(path, PASSPHRASE, "not a regular file")

    def test_open_to_others(self) -> None:
        """A key that other users can read or change is not used; its group may read it."""
        path = self.write("key.pem", pem_of(NoEncryption()))
        for mode in (0o644, 0o604, 0o602, 0o666):
            path.chmod(mode)
            self.refuses(path, None, f"chmod 600 {path}")
        for mode in (0o600, 0o400, 0o440):
            path.chmod(mode)
            keys.load(path, None)

    def test_older_formats(self) -> None:
        """A key that was encrypted with PBKDF2 works, and a sentence says how to make it safer."""
        path = self.write("key.pem", pem_of(BestAvailableEncryption(PASSPHRASE)))
        signer = keys.load(path, PASSPHRASE)
        self.assertIn(f"opq-release encrypt {path}", str(keys.advice(path)))
        keys.reencrypt(path, PASSPHRASE, b"another")
        self.assertIsNone(keys.advice(path))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.refuses(path, PASSPHRASE, "passphrase is wrong")
        self.assertEqual(keys.load(path, b"another").public_key, signer.public_key)

    def test_no_memory(self) -> None:
        """A key that needs too much memory, to open or to write, is an error with a sentence."""
        path = self.write("key.pem", pem_of(NoEncryption()))
        self.patch(pkcs8, "COST", 3)
        self.patch(pkcs8, "Scrypt", lambda *_: SimpleNamespace(derive=lambda _: bytes(32)))
        keys.reencrypt(path, None, PASSPHRASE)
        error = self.assertRaises(KeyUnusable, keys.load, path, PASSPHRASE)
        self.assertIn("more memory than there is", str(error))

        def derive(*_: object) -> bytes:
            raise MemoryError

        path.write_bytes(pem_of(NoEncryption()))
        before = path.read_bytes()
        self.patch(pkcs8, "Scrypt", lambda *_: SimpleNamespace(derive=derive))
        error = self.assertRaises(KeyUnusable, keys.reencrypt, path, None, PASSPHRASE)
        self.assertIn("too little memory", str(error))
        self.assertEqual(path.read_bytes(), before)

    def test_encrypt_again(self) -> None:
        """The file behind a link is encrypted; an error changes nothing."""
        path = self.write("key.pem", pem_of(NoEncryption()))
        link = self.folder / "link.pem"
        link.symlink_to(path)
        before = path.read_bytes()
        self.assertRaises(KeyUnusable, keys.reencrypt, link, None, b"")
        self.assertEqual(path.read_bytes(), before)
        keys.reencrypt(link, None, PASSPHRASE)
        self.assertTrue(link.is_symlink())
        self.assertIn(b"ENCRYPTED", path.read_bytes())

    def test_cannot_sign(self) -> None:
        """A key that cannot sign is refused."""
        pem = X25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self.refuses(self.write("key.pem", pem), None, "PKCS#8 PEM")

    def test_public(self) -> None:
        """The public key has the same id, for each kind of key."""
        for private in (Ed25519PrivateKey.generate(), generate_private_key(SECP256R1())):
            pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            public = private.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
            self.assertEqual(
                keys.load_public(self.write("key.pub", public)).keyid,
                keys.load(self.write("key.pem", pem), None).public_key.keyid,
            )

    def test_no_public(self) -> None:
        """A private key, or any other file, is not a public key."""
        signer = keys.create(self.folder, "root", PASSPHRASE)
        private = self.folder / keys.file_name("root", signer.public_key)
        for path in (private, self.write("x", b"?"), self.folder / "none"):
            self.assertRaises(KeyUnusable, keys.load_public, path)

    def test_unknown_kinds(self) -> None:
        """A public key of a kind that boxes cannot use is refused, with advice."""
        for private in (X25519PrivateKey.generate(), generate_private_key(SECP256K1())):
            public = private.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
            error = self.assertRaises(KeyUnusable, keys.load_public, self.write("key.pub", public))
            self.assertIn("Ed25519", str(error))
