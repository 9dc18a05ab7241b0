"""Says in plain words why a server could not be asked."""

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

#: What the network's errors are called on the page.
_PLAIN = {
    DNSLookupError: "its name is not known here",
    ConnectionRefusedError: "no server answers there",
    NoRouteError: "there is no way to it from here",
    TCPTimedOutError: "it does not answer",
    ConnectTimeout: "it does not answer",
    ConnectionClosed: "it closed the connection",
}


def reason_of(error: Exception) -> str:
    """Say the innermost reason, without the full stop that Twisted ends its own with."""
    answered = isinstance(error, ResponseFailed)
    while reasons := getattr(error, "reasons", None):
        error = reasons[-1].value
    for kind, words in _PLAIN.items():
        if isinstance(error, kind):
            return words
    if isinstance(error, ConnectError) and error.osError is not None:
        return os.strerror(error.osError)
    if isinstance(error, VerificationError):
        return "its certificate is another server's"
    if isinstance(error, SSL.Error):
        return _untrusted(error)
    if answered:
        # Whatever Twisted fails with shows what came, however long, as Python writes it.
        return "what it answers is not HTTP"
    return (str(error) or type(error).__name__).rstrip(".")


def _untrusted(error: SSL.Error) -> str:
    """Say what OpenSSL tells as a list of library, function and reason."""
    details = error.args[0] if error.args else None
    reasons = [reason for *_, reason in details] if isinstance(details, list) else []
    if "certificate verify failed" in reasons:
        return "its certificate is not trusted here, or not valid by the clock of this box"
    return f"there is no secure connection ({', '.join(reasons) or 'no reason is given'})"
