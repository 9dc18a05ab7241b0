"""The agent's settings as values, which check themselves."""

import re
from pathlib import Path
from typing import Any, Literal

from attrs import Attribute, Factory, field, frozen
from attrs.validators import optional

from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.network.proxies import Proxy
from opq_twisted.box.network.urls import read_url
from opq_twisted.http.guards.host_name import is_host_name
from opq_twisted.trust.offer import STABLE, is_channel

#: The first product in the User-Agent of a box's agent. It is not allowed in `programs`, because a
#: server can redirect an agent to any URL.
AGENT = "opq-box-agent"

#: The products that are not allowed in `programs`: almost all browsers call themselves Mozilla. The
#: names of the other browsers have no effect there (`box.web.csrf`).
_NOT_ALLOWED = ("mozilla", AGENT)

#: The lengths of the box's name and of its page's title in characters.
MAX_NAME, _MAX_TITLE = 64, 40
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")

#: Seconds; more than thirty years must be a mistake.
_MAX_SECONDS = 1e9
#: Scheme and authority: case-insensitive, normalised to lower case.
_AUTHORITY = re.compile(r"[A-Za-z]+://[^/?#]*")
#: The name of a product in a User-Agent (RFC 9110, sections 5.6.2 and 10.1.5).
_PRODUCT = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")


def _positive(_: object, attribute: "Attribute[Any]", value: float) -> None:
    if not 0 < value <= _MAX_SECONDS:
        raise ValueError(f"{attribute.name} must be more than 0 and at most 1e9, not {value}")


def _not_negative(_: object, attribute: "Attribute[Any]", value: float) -> None:
    if not 0 <= value <= _MAX_SECONDS:
        raise ValueError(f"{attribute.name} must be from 0 to 1e9, not {value}")


def _absolute(_: object, attribute: "Attribute[Any]", value: Path | None) -> None:
    if value is not None and not value.is_absolute():
        raise ValueError(f"{attribute.name} must be an absolute path, not {str(value)!r}")


def _products(_: object, attribute: "Attribute[Any]", value: tuple[str, ...]) -> None:
    for name in value:
        if not _PRODUCT.fullmatch(name) or name.lower() in _NOT_ALLOWED:
            raise ValueError(
                f'{attribute.name} must be the first words of User-Agents, such as "MyScript", and '
                f"not a browser's; {name[:40]!r} is not allowed"
            )


def _host_names(_: object, attribute: "Attribute[Any]", value: tuple[str, ...]) -> None:
    for name in value:
        if not is_host_name(name):
            raise ValueError(
                f'{attribute.name} must be names such as "box.example.org", not {name[:40]!r}'
            )


def _not_empty(_: object, attribute: "Attribute[Any]", value: tuple[str, ...]) -> None:
    if not value:
        raise ValueError(f"{attribute.name} must name a program and its arguments")


def _channel(_: object, attribute: "Attribute[Any]", value: str) -> None:
    if not is_channel(value):
        raise ValueError(
            f"{attribute.name} must be a name of lower-case letters and digits, not {value[:40]!r}"
        )


def _printable(name: str, value: str, most: int) -> None:
    if len(value) > most or not value.isprintable() or value != value.strip():
        raise ValueError(
            f"{name} must be at most {most} printable characters without spaces around them, "
            f"not {value[:40]!r}"
        )


def _short_name(_: object, attribute: "Attribute[Any]", value: str) -> None:
    _printable(attribute.name, value, MAX_NAME)


def _title(_: object, attribute: "Attribute[Any]", value: str) -> None:
    _printable(attribute.name, value, _MAX_TITLE)


def _colour(_: object, attribute: "Attribute[Any]", value: str) -> None:
    if not _COLOUR.fullmatch(value):
        raise ValueError(f'{attribute.name} must be like "#0b5cad", not {value[:40]!r}')


def _endpoint(_: object, attribute: "Attribute[Any]", value: str) -> None:
    try:
        if "?" in value:
            # Paths are appended to this URL.
            raise ValueError("it must have no query (?)")
        read_url(value)
    except ValueError as error:
        # The message does not repeat the value, which may contain a password.
        raise ValueError(
            f'{attribute.name} must be like "http://updates.example.org:8151": {error}'
        ) from None


def _normalised(url: str) -> str:
    return _AUTHORITY.sub(lambda found: found[0].lower(), url, count=1).rstrip("/")


def _up_to_two_hours(given: float) -> float:
    return min(given, 7200.0)


def _up_to_an_hour(given: float) -> float:
    return min(given, 3600.0)


@frozen
class PageConfig:
    """Title, logo and colour of the box's page; None for those of a component, or the default."""

    title: str | None = field(default=None, validator=optional(_title))
    #: The path of an SVG or PNG file; that of a component is relative to it.
    logo: Path | None = None
    #: As `#rrggbb`.
    colour: str | None = field(default=None, validator=optional(_colour))


def _absolute_logo(_: object, attribute: "Attribute[Any]", value: PageConfig) -> None:
    if value.logo is not None and not value.logo.is_absolute():
        raise ValueError(
            f"the logo in {attribute.name} must be an absolute path, not {str(value.logo)!r}"
        )


@frozen
class Token:
    """A secret of the configuration; neither `str` nor `repr` shows it."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        """Return a text for its place in the settings that are shown to people."""
        return "(not shown)"


@frozen
class UpdaterConfig:
    """The agent's own settings, described in docs/operating-a-box.md; times are in seconds."""

    #: The name of the box for people; empty for the host name.
    name: str = field(default="", validator=_short_name)
    page: PageConfig = field(default=PageConfig(), validator=_absolute_logo)
    install: Literal["click", "automatic"] = "click"
    #: When automatic installs may start; None for any time.
    window: DailyWindow | None = None
    check_every: float = field(default=3600.0, validator=_positive)
    #: The maximum random delay, so that the boxes of a fleet do not act at the same time.
    spread: float = field(default=300.0, validator=_not_negative)
    channel: str = field(default=STABLE, validator=_channel)
    #: The root of trust for signed releases; without this file only `allow_unsigned` permits any.
    trusted_root: Path = field(default=Path("/etc/opq/root.json"), validator=_absolute)
    allow_unsigned: bool = False
    prefix: Path = field(default=Path("/opt/opq"), validator=_absolute)
    #: Contains the version of the installed release.
    version_file: Path = field(
        default=Factory(lambda self: self.prefix / "current" / "VERSION", takes_self=True),
        validator=_absolute,
    )
    reboot_command: tuple[str, ...] = field(default=("systemctl", "reboot"), validator=_not_empty)
    log: Path = field(default=Path("/var/log/opq/box_update.log"), validator=_absolute)
    install_timeout: float = field(default=1800.0, validator=_positive)
    #: A new release must become healthy within `confirm_timeout`, and then stay so for `settle`.
    #: Greater values are lowered silently to two hours and to one: the sum must be less than the 4
    #: hours after which the rescue acts on an update whose journal has not changed.
    confirm_timeout: float = field(default=600.0, converter=_up_to_two_hours, validator=_positive)
    settle: float = field(default=60.0, converter=_up_to_an_hour, validator=_not_negative)
    #: The systemd units that must be active in a healthy release.
    services: tuple[str, ...] = ()
    #: While this file exists, no installation starts.
    inhibit_file: Path = field(default=Path("/run/opq/inhibit-update"), validator=_absolute)
    #: Additional names of the box that are accepted in the Host header of a request.
    hosts: tuple[str, ...] = field(default=(), validator=_host_names)
    #: Additional programs that may start an update by GET: the first products of their User-Agents.
    programs: tuple[str, ...] = field(default=(), validator=_products)
    web_password_file: Path | None = field(default=None, validator=_absolute)
    #: None to use http_proxy and https_proxy from the environment.
    proxy: Proxy | Literal["none"] | None = None
    #: Whether the box sends reports about itself and its updates to the update server.
    report: bool = True
    #: The secret of the fleet, by which the server knows that the box belongs to it.
    enrol_token: Token | None = None


@frozen
class BoxConfig:
    """The settings that the agent uses from the configuration of all the box's daemons."""

    updates_ep: str = field(converter=_normalised, validator=_endpoint)
    box_id: int = 0
    updater: UpdaterConfig = UpdaterConfig()
