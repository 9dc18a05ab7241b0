"""Checks a box's configuration as the agent does at its start, and looks for mistakes."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import asdict

from opq_twisted.box.config.mistakes import find_warnings
from opq_twisted.box.config.reader import read_config
from opq_twisted.box.config.settings import BoxConfig, Token
from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.install.units import SYSTEMD
from opq_twisted.box.network.proxies import Proxy
from opq_twisted.box.web.auth import read_password_hash


def check(path: Path) -> BoxConfig:
    """
    Return the settings of a configuration.

    :raises ConfigInvalid: if the agent would not start with it; the text names the key.
    """
    return require_usable(read_config(path))


def require_usable(config: BoxConfig) -> BoxConfig:
    """Return the settings; raise ConfigInvalid if the password's file cannot be used."""
    if config.updater.web_password_file is not None:
        read_password_hash(config.updater.web_password_file)
    return config


def to_json(config: BoxConfig) -> dict[str, object]:
    """Return the settings and the defaults of the others, as JSON values."""
    return asdict(config, value_serializer=_plain)


def all_warnings(config: BoxConfig) -> list[str]:
    """Return the agent's own warnings, and those about the units of this box."""
    return find_warnings(config) + [
        f"services: this box has no unit {unit}, so that no release can become healthy. Correct "
        "its name, or install the unit."
        for unit in _missing(config.updater.services)
    ]


def _missing(units: Sequence[str]) -> list[str]:
    """Return the units that systemd does not know; none where it does not run."""
    if not SYSTEMD.is_dir():
        return []
    return [
        unit
        for unit in units
        if ask_systemd("show", "--property=LoadState", "--value", "--", unit) == "not-found"
    ]


def ask_systemd(*arguments: str) -> str:
    """Return the answer of systemctl; empty if it cannot be run."""
    try:
        result = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.strip()


def _plain(_instance: object, _attribute: object, value: object) -> object:
    if isinstance(value, DailyWindow):
        return f"{value.start:%H:%M}-{value.end:%H:%M}"
    return str(value) if isinstance(value, Path | Proxy | Token) else value
