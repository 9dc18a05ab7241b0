"""Checks a box's configuration as the agent does at its start."""

from pathlib import Path

from attrs import asdict

from opq_twisted.box.config import read_config
from opq_twisted.box.network.proxies import Proxy
from opq_twisted.box.web.auth import PasswordHash
from opq_twisted.box.window import DailyWindow


def check(path: Path) -> dict[str, object]:
    """
    Return the settings of a configuration and the defaults of the others, as JSON values.

    :raises ConfigInvalid: if the agent would not start with it; the text names the key.
    """
    config = read_config(path)
    if config.updater.web_password_file is not None:
        PasswordHash.read(config.updater.web_password_file)
    return asdict(config, value_serializer=_plain)


def _plain(_instance: object, _attribute: object, value: object) -> object:
    if isinstance(value, DailyWindow):
        return f"{value.start:%H:%M}-{value.end:%H:%M}"
    return str(value) if isinstance(value, Path | Proxy) else value
