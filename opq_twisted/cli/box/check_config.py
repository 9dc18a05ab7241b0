"""Checks a box's configuration as the agent does at its start."""

from pathlib import Path

from attrs import fields

from opq_twisted.box.config import UpdaterConfig, read_config
from opq_twisted.box.web.auth import PasswordHash
from opq_twisted.box.window import DailyWindow


def check(path: Path) -> dict[str, object]:
    """
    Return the settings of a configuration and the defaults of the others, as JSON values.

    :raises ConfigInvalid: if the agent would not start with it; the text names the key.
    """
    config = read_config(path)
    updater = config.updater
    if updater.web_password_file is not None:
        PasswordHash.read(updater.web_password_file)
    settings = {item.name: _plain(getattr(updater, item.name)) for item in fields(UpdaterConfig)}
    return {"updates_ep": _plain(config.updates_ep), "box_id": config.box_id, "updater": settings}


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, DailyWindow):
        return f"{value.start:%H:%M}-{value.end:%H:%M}"
    return str(value)
