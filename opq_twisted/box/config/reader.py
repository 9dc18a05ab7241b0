"""Reads the agent's settings from the box's JSON configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import cattrs
from attrs import fields

from opq_twisted.box.config import older
from opq_twisted.box.config.settings import BoxConfig, PageConfig, Token, UpdaterConfig
from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.network.proxies import NONE, Proxy
from opq_twisted.common import files
from opq_twisted.common.errors import ConfigInvalid

#: Bytes.
_MAX_SIZE = 1024 * 1024

#: Characters.
_MAX_TOKEN = 256


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
    content = older.translate(content)
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
