"""Signs the messages of the webhook, so that their receiver knows who has sent them, and when."""

import hashlib
import hmac

#: The header of the signature.
HEADER = "Opq-Signature"


def sign(body: bytes, at: int, secret: str) -> str:
    """
    Return the value of the header: the time, and an HMAC of the time and the body (RFC 2104).

    :param at: seconds since the epoch. With it, a receiver can tell a message that somebody else
        has recorded and sends again.
    """
    signed = f"{at}.".encode() + body
    return f"t={at},sha256={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"
