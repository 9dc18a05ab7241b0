"""Reads the agent's settings from the box's JSON configuration."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import cattrs
from attrs import Attribute, Factory, field, fields, frozen
from attrs.validators import optional

from opq_twisted.box import older_config
from opq_twisted.box.network.proxies import NONE, Proxy
from opq_twisted.box.network.urls import read_url
from opq_twisted.box.window import DailyWindow
from opq_twisted.common import files
from opq_twisted.common.errors import ConfigInvalid
from opq_twisted.http.host_name import is_host_name
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

#: Characters.
_MAX_TOKEN = 256

#: Bytes.
_MAX_SIZE = 1024 * 1024
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
    """The looks of the box's page; None for those of a component, or else the default."""

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
    #: Whether the box tells the update server of itself and its updates.
    report: bool = True
    #: The secret of the fleet, by which the server knows that the box belongs to it.
    enrol_token: Token | None = None


@frozen
class BoxConfig:
    """The settings that the agent uses from the configuration of all the box's daemons."""

    updates_ep: str = field(converter=_normalised, validator=_endpoint)
    box_id: int = 0
    updater: UpdaterConfig = UpdaterConfig()


def read_page(content: object) -> PageConfig:
    """
    Read the object in a component's `page.json`.

    :raises ConfigInvalid: if a value is invalid; the text names the key.
    """
    try:
        return _converter.structure(content, PageConfig)
    except (cattrs.BaseValidationError, TypeError) as error:
        raise ConfigInvalid(_describe_problem(error)) from None


def read_config(path: Path) -> BoxConfig:
    """
    Read the configuration, and ignore the keys of other daemons.

    :raises ConfigInvalid: if the file cannot be read, or a value is invalid; the text names the
        key.
    """
    return parse_config(read_content(path), path)


def read_content(path: Path) -> dict[str, Any]:
    """
    Read the configuration of all the box's daemons, as it is in the file.

    :raises ConfigInvalid: if the file cannot be read, or contains no JSON object.
    """
    try:
        with files.open_regular(path) as file:
            text = file.read(_MAX_SIZE + 1)
        if len(text) > _MAX_SIZE:
            raise ConfigInvalid(f"The configuration {path} is larger than 1 MiB.")
        content = json.loads(text)
    except PermissionError as error:
        raise ConfigInvalid(
            f"Cannot read the configuration {path}: {error.strerror}. Run the command as root."
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"Cannot read the configuration {path}: {error.strerror}. "
            "Create it, or name another with --config."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"The configuration {path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ConfigInvalid(f"The configuration {path} must be a JSON object.")
    return content


def parse_config(content: Mapping[str, object], path: Path) -> BoxConfig:
    """
    Make the agent's settings from the content of the file `path`.

    :raises ConfigInvalid: if a value is invalid; the text names the key.
    """
    content = older_config.translate(content)
    ours = {item.name: content[item.name] for item in fields(BoxConfig) if item.name in content}
    try:
        return _converter.structure(ours, BoxConfig)
    except cattrs.BaseValidationError as error:
        raise ConfigInvalid(
            f"The configuration {path} cannot be used: {_describe_problem(error)}."
        ) from None


def _describe_problem(error: Exception) -> str:
    problems = cattrs.transform_error(error, path="", format_exception=_explain)
    problem, _, where = problems[0].rpartition(" @ ")
    key = where.strip(". ")
    return f"{key}: {problem}" if key else problem


def _explain(error: BaseException, expected: type | None) -> str:
    """Describe an error; cattrs appends ` @ ` and the path of the key."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"unknown key {', '.join(sorted(map(repr, error.extra_fields)))}"
    if isinstance(error, KeyError):
        return "a required key is missing"
    return str(error)


def _shown(value: object) -> str:
    """Return the beginning of a wrong value, unless it may contain a password."""
    text = json.dumps(value)
    return "such a value" if "@" in text else text[:40]


def _exact_type(*types: type, name: str) -> Any:
    def structure(value: object, _: type) -> object:
        # In Python, bool is a subclass of int, but true is not a number in JSON.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise TypeError(f"must be {name}, not {_shown(value)}")
        return value

    return structure


def _structure_path(value: object, _: type) -> Path:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"must be a path, not {_shown(value)}")
    return Path(value)


def _structure_strings(value: object, _: type) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(
        isinstance(item, str) and "\0" not in item for item in value
    ):
        raise TypeError(f"must be a list of strings, not {_shown(value)}")
    return tuple(value)


def _structure_proxy(value: object, _: type) -> Proxy | Literal["none"] | None:
    if value is None or value == NONE:
        return None if value is None else NONE
    try:
        if not isinstance(value, str):
            raise ValueError("it is not a string")
        return Proxy.parse(value)
    except ValueError as error:
        raise ValueError(
            f'must be like "http://proxy.example.org:3128", or "{NONE}": {error}'
        ) from None


def _structure_token(value: object, _: type) -> Token | None:
    # No message repeats the value.
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError("must be a string")
    if not 0 < len(value) <= _MAX_TOKEN or not value.isprintable() or value != value.strip():
        raise ValueError(
            f"must be 1 to {_MAX_TOKEN} printable characters without spaces around them"
        )
    return Token(value)


def _structure_literal(value: object, kind: Any) -> object:
    if value not in get_args(kind):
        choices = " or ".join(map(json.dumps, get_args(kind)))
        raise ValueError(f"must be {choices}, not {_shown(value)}")
    return value


def _only_objects(structure: Any) -> Any:
    def check(value: object, kind: type) -> object:
        if not isinstance(value, dict):
            raise TypeError(f"must be an object, not {_shown(value)}")
        return structure(value, kind)

    return check


def _optional(structure: Any) -> Any:
    return lambda value, kind: None if value is None else structure(value, kind)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    string = _exact_type(str, name="a string")
    converter.register_structure_hook(str, string)
    converter.register_structure_hook(int, _exact_type(int, name="a whole number"))
    converter.register_structure_hook(float, _exact_type(int, float, name="a number of seconds"))
    converter.register_structure_hook(bool, _exact_type(bool, name="true or false"))
    converter.register_structure_hook(Path, _structure_path)
    converter.register_structure_hook(
        DailyWindow | None, _optional(lambda value, kind: DailyWindow.parse(string(value, str)))
    )
    converter.register_structure_hook_func(
        lambda kind: kind == Proxy | Literal["none"] | None, _structure_proxy
    )
    converter.register_structure_hook(Token | None, _structure_token)
    converter.register_structure_hook(Path | None, _optional(_structure_path))
    converter.register_structure_hook(str | None, _optional(string))
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _structure_strings)
    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is Literal, _structure_literal
    )
    converter.register_structure_hook(
        PageConfig, _only_objects(converter.get_structure_hook(PageConfig))
    )
    converter.register_structure_hook(
        UpdaterConfig, _only_objects(converter.get_structure_hook(UpdaterConfig))
    )
    return converter


_converter = _make_converter()
