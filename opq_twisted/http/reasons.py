"""Explains network errors in plain words."""

import os

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.web.client import ResponseFailed

#: Shown on the page, after "Cannot reach the update server: ".
_EXPLANATIONS = {
    DNSLookupError: "its name is not known here",
    ConnectionRefusedError: "no server answers there",
    NoRouteError: "there is no route to it from here",
    TCPTimedOutError: "it does not answer",
    ConnectTimeout: "it does not answer",
    ConnectionClosed: "it closed the connection",
}


def reason_of(error: Exception) -> str:
    """Explain the innermost error, without a full stop at the end."""
    answered = isinstance(error, ResponseFailed)
    while reasons := getattr(error, "reasons", None):
        error = reasons[-1].value
    for kind, explanation in _EXPLANATIONS.items():
        if isinstance(error, kind):
            return explanation
    if isinstance(error, ConnectError) and error.osError is not None:
        return os.strerror(error.osError)
    if isinstance(error, VerificationError):
        return "its certificate is another server's"
    if isinstance(error, SSL.Error):
        return _untrusted(error)
    if answered:
        # Twisted's own text would show the received bytes, however many, as a Python literal.
        return "its answer is not HTTP"
    return (str(error) or type(error).__name__).rstrip(".")


def _untrusted(error: SSL.Error) -> str:
    """Explain an error of OpenSSL, which is a list of (library, function, reason)."""
    details = error.args[0] if error.args else None
    reasons = [reason for *_, reason in details] if isinstance(details, list) else []
    if "certificate verify failed" in reasons:
        return "its certificate is not trusted here, or not valid by the clock of this machine"
    return f"TLS failed ({', '.join(reasons) or 'without a reason'})"
