"""Parses the header with which a server asks a client to try again later."""

import re

from twisted.web.http import stringToDatetime
from twisted.web.iweb import IResponse


def retry_after(response: IResponse) -> float | None:
    """
    Parse either form of `Retry-After` (RFC 9110, section 10.2.3).

    :returns: seconds from now; None without a valid value.
    """
    [value] = response.headers.getRawHeaders(b"Retry-After", [b""])[:1]
    if re.fullmatch(rb"[0-9]{1,9}", value):
        return float(value)
    [now] = response.headers.getRawHeaders(b"Date", [b""])[:1]
    try:
        # Relative to the server's clock: that of this machine may be wrong.
        seconds: int = stringToDatetime(value) - stringToDatetime(now)
    except (ValueError, IndexError, KeyError):
        return None
    return max(0.0, seconds)
