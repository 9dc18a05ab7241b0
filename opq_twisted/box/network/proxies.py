"""Chooses the HTTP proxy for a request, from the configuration or the environment."""

import ipaddress
import re
import socket
from base64 import b64encode
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

from opq_twisted.box.network.addresses import Reach, reach_of
from opq_twisted.box.network.urls import Url, read_url
from opq_twisted.common.errors import ServerFailed

#: The value of the setting that switches proxies off.
NONE: Literal["none"] = "none"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: A host that resolvers read as an IPv4 address, such as "127.1" (inet_aton(3)).
_NUMBERS = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")
#: An entry of `no_proxy` that names a port.
_WITH_PORT = re.compile(r"(\[.*\]|[^:]*):([0-9]{1,5})")


@frozen
class Proxy:
    """An HTTP proxy; neither `str` nor `repr` shows its password."""

    secure: bool
    host: str
    port: int
    #: The value of `Proxy-Authorization` (RFC 9110, section 11.7.2); None without credentials.
    authorization: bytes | None = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Proxy":
        """
        Parse `http://USER:PASSWORD@HOST:PORT`; only the host is required.

        :raises ValueError: if it is not such a URL; the message does not repeat the text.
        """
        if not _SCHEME.match(text):
            text = f"http://{text}"
        scheme, _, rest = text.partition("://")
        # A password may contain any character, even one that should be escaped.
        credentials, at, place = rest.rpartition("@")
        url = read_url(f"{scheme}://{place}")
        if url.path not in ("", "/"):
            raise ValueError("there must be no path in it")
        return cls(url.secure, url.host, url.port, _basic(credentials) if at else None)

    def __str__(self) -> str:
        """Return the URL without the user name and the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


@frozen
class Proxies:
    """Chooses the proxy for each request."""

    _setting: Proxy | Literal["none"] | None = NONE
    _environment: Mapping[str, str] = field(factory=dict, repr=False)

    def find(self, url: Url) -> Proxy | None:
        """
        Choose the proxy for a URL; None for a direct connection.

        The setting takes precedence over the environment. There, `http_proxy` applies to http URLs
        and `https_proxy` to https URLs, except for the hosts in `no_proxy`; lower-case names take
        precedence over upper-case ones. The box itself is always reached directly.

        :raises ServerFailed: if the environment names an invalid proxy.
        """
        if self._setting == NONE or _is_this_machine(url.host):
            return None
        if isinstance(self._setting, Proxy):
            return self._setting
        name = "https_proxy" if url.secure else "http_proxy"
        text = self._variable(name)
        exceptions = re.split(r"[,\s]+", self._variable("no_proxy").lower())
        if not text or any(_matches(url, entry) for entry in exceptions if entry):
            return None
        try:
            return Proxy.parse(text)
        except ValueError as error:
            raise ServerFailed(
                f"The proxy in the environment variable {name} cannot be used: {error}. Write it "
                "as http://proxy.example.org:3128."
            ) from None

    def _variable(self, name: str) -> str:
        value = self._environment.get(name)
        return (self._environment.get(name.upper(), "") if value is None else value).strip()


def _basic(credentials: str) -> bytes:
    try:
        # Bytes from the environment that are not UTF-8 are sent unchanged.
        encoded = credentials.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("its user name or password contains half a character") from None
    user, _, password = encoded.partition(b":")
    return b"Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password))


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return reach_of(str(address)) is Reach.MACHINE
    name = host.removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def _matches(url: Url, entry: str) -> bool:
    """Whether an entry of `no_proxy` (`*`, a name, domain, address or network) matches a URL."""
    if entry == "*":
        return True
    if found := _WITH_PORT.fullmatch(entry):
        entry = found[1]
        if int(found[2]) != url.port:
            return False
    address = _address(url.host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    name, domain = url.host.removesuffix("."), entry.removeprefix("*").strip(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        if _NUMBERS.fullmatch(host):
            host = socket.inet_ntoa(socket.inet_aton(host))
        address = ipaddress.ip_address(host)
    except (OSError, ValueError):
        return None
    return getattr(address, "ipv4_mapped", None) or address
