"""Checks a URL of the command line before anybody is sent there."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

import idna

_URL = re.compile(
    r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?(/([\w.~!$&'()*+,;=:@/-]|%[0-9a-f]{2})*)?",
    re.ASCII | re.IGNORECASE,
)
_QUERY = re.compile(r"([\w.~!$&'()*+,;=:@/?-]|%[0-9a-f]{2})*", re.ASCII | re.IGNORECASE)


def is_web_url(text: str, query: bool = False) -> bool:
    """
    Whether a text is a URL of http or https with a valid host, and without a user or a fragment.

    :param query: whether it may have a query.
    """
    address, mark, rest = text.partition("?")
    if not _URL.fullmatch(address) or (mark and not (query and _QUERY.fullmatch(rest))):
        return False
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        if ":" in host:
            ip_address(host)
        elif parts.scheme == "https":
            idna.encode(host)
        else:
            host.encode("idna")
        return parts.port != 0
    except ValueError:
        return False
