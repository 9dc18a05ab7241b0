"""Checks the URLs that the agent is given, and says why it cannot use one."""

import ipaddress
import re

import idna
from attrs import frozen

#: `scheme://authority/path?query`; a backslash would be a slash to some.
_URL = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#\\]*)(?P<path>/[^#]*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?P<port>:[0-9]{1,5})?")

#: More than the letters, digits and hyphens of RFC 1123: resolvers and DNS take underscores too.
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")

#: Octets of a name (RFC 1035, section 2.3.4).
_LONGEST_NAME = 253


@frozen
class Url:
    """A URL that can be asked for, in parts."""

    secure: bool
    #: In lower case; an IPv6 address is without its brackets.
    host: str
    port: int
    #: With its query.
    path: str


def read_url(text: str) -> Url:
    """
    Take a URL apart.

    :raises ValueError: if it cannot be asked for; the reason does not repeat the URL, which may
        hold a password.
    """
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError(
            "only ASCII can be in it, without spaces; write such a name as DNS has it (xn--...)"
        )
    found = _URL.fullmatch(text)
    if found is None or found["scheme"].lower() not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://, and have no fragment (#)")
    if "@" in found["authority"]:
        raise ValueError("there must be no user name and no password in it")
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
    if len(name) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError(
            "the parts of its name must be 1 to 63 letters, digits, hyphens or underscores, with "
            "dots between them"
        )
    if secure:
        try:
            idna.encode(name)
        except UnicodeError:
            raise ValueError(
                "with https:// the parts of its name must be letters, digits and hyphens between "
                "them, as in a certificate, and begin with no two characters and two hyphens"
            ) from None
    return text


def _ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError("an address with a zone cannot be asked for; use another of the server's")
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("between [ and ] there must be an IPv6 address") from None
    return text
