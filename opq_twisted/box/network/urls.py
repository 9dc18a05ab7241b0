"""Parses URLs, and explains why a URL cannot be used."""

import ipaddress
import re

import idna
from attrs import frozen

#: `scheme://authority/path?query`; some programs read a backslash as a slash.
_URL = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#\\]*)(?P<path>/[^#]*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?P<port>:[0-9]{1,5})?")

#: RFC 1123 has only letters, digits and hyphens, but DNS and resolvers accept underscores too.
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")

#: Octets of a name (RFC 1035, section 2.3.4).
_MAX_NAME = 253


@frozen
class Url:
    """The parts of an http or https URL."""

    secure: bool
    #: In lower case; an IPv6 address has no brackets.
    host: str
    port: int
    #: Includes the query.
    path: str


def read_url(text: str) -> Url:
    """
    Parse a URL.

    :raises ValueError: if it cannot be used; the message does not repeat the URL, which may contain
        a password.
    """
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError(
            "only ASCII without spaces is allowed; write other names as DNS does (xn--...)"
        )
    found = _URL.fullmatch(text)
    if found is None or found["scheme"].lower() not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://, and have no fragment (#)")
    if "@" in found["authority"]:
        raise ValueError("it must contain no user name and no password")
    authority = _AUTHORITY.fullmatch(found["authority"])
    secure = found["scheme"].lower() == "https"
    if authority is None:
        raise ValueError("after // there must be a name or an address, and perhaps :PORT")
    port = int(authority["port"][1:]) if authority["port"] else 443 if secure else 80
    if not 0 < port < 65536:
        raise ValueError("its port must be from 1 to 65535")
    return Url(secure, _host(authority["host"].lower(), secure), port, found["path"] or "")


def _host(text: str, secure: bool) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    name = text.removesuffix(".")
    if not name:
        raise ValueError("after // there must be the name or the address of a server")
    if len(name) > _MAX_NAME or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError(
            "each part of the name, between dots, must be 1 to 63 letters, digits, hyphens or "
            "underscores"
        )
    if secure:
        try:
            idna.encode(name)
        except UnicodeError:
            raise ValueError(
                "with https:// each part of the name must be letters and digits with hyphens "
                "between them, and not have hyphens as its third and fourth characters"
            ) from None
    return text


def _ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError("an address with a zone cannot be used; use another one of the server")
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("between [ and ] there must be an IPv6 address") from None
    return text
