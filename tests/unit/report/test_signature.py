"""Tests of the signature of a report."""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.report.signature import is_proved, is_signed, key_id, proof_of, sign


class TestSignature(SynchronousTestCase):
    """The signature and the proof."""

    def setUp(self) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        self.public = self.key.public_key().public_bytes_raw()

    def test_valid(self) -> None:
        """A signature is valid for its body and its key only."""
        signature = sign(self.key, b"body")
        self.assertTrue(is_signed(self.public, b"body", signature))
        self.assertFalse(is_signed(self.public, b"Body", signature))
        other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        self.assertFalse(is_signed(other, b"body", signature))

    def test_context(self) -> None:
        """A signature of the bare body, made for another purpose, is not valid."""
        bare = base64.b64encode(self.key.sign(b"body")).decode()
        self.assertFalse(is_signed(self.public, b"body", bare))

    def test_garbage(self) -> None:
        """Whatever is sent as a signature or a key, it is only not valid."""
        for signature in ("", "====", "é", "AAAA", "A" * 10_000, "\n"):
            self.assertFalse(is_signed(self.public, b"body", signature))
        self.assertFalse(is_signed(b"short", b"body", sign(self.key, b"body")))

    def test_key_id(self) -> None:
        """The id of a key has 32 hexadecimal digits, and is another one for another key."""
        self.assertRegex(key_id(self.public), "^[0-9a-f]{32}$")
        self.assertNotEqual(key_id(self.public), key_id(bytes(32)))

    def test_proof(self) -> None:
        """A proof is valid for one token and one key."""
        proof = proof_of("token", self.public)
        self.assertTrue(is_proved("token", self.public, proof))
        self.assertFalse(is_proved("Token", self.public, proof))
        self.assertFalse(is_proved("token", bytes(32), proof))
        self.assertFalse(is_proved("token", self.public, None))
        self.assertFalse(is_proved("token", self.public, "é"))
