"""The signature of a report, by the box's own Ed25519 key (RFC 8032)."""

import base64
import binascii
import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: The HTTP header with the signature, in base64.
HEADER = "Opq-Signature"

#: The signed bytes begin with this, so that no signature is valid for another purpose.
_CONTEXT = b"opq-box-report/1\0"

#: The bytes of a proof begin with this; the public key follows.
_PROOF_CONTEXT = b"opq-box-enrolment/1\0"

#: Hexadecimal digits: nobody can make another key with the same 128 bits.
_ID_LENGTH = 32


def key_id(public: bytes) -> str:
    """Return the id of a public key (32 bytes): the fingerprint by which people admit it."""
    return hashlib.sha256(public).hexdigest()[:_ID_LENGTH]


def sign(key: Ed25519PrivateKey, body: bytes) -> str:
    """Sign a report, and return the value of the header."""
    return base64.b64encode(key.sign(_CONTEXT + body)).decode()


def is_signed(public: bytes, body: bytes, signature: str) -> bool:
    """Whether a report has a valid signature by this public key (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(
            base64.b64decode(signature, validate=True), _CONTEXT + body
        )
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def proof_of(token: str, public: bytes) -> str:
    """Prove that a box knows the fleet's enrolment token, without sending it (RFC 2104)."""
    return hmac.new(token.encode(), _PROOF_CONTEXT + public, hashlib.sha256).hexdigest()


def is_proved(token: str, public: bytes, proof: str | None) -> bool:
    """Whether a proof is that of this token and public key."""
    return proof is not None and hmac.compare_digest(
        proof_of(token, public).encode(), proof.encode()
    )
