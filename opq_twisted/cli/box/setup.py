"""Writes the box's configuration, and keeps the settings of its other daemons."""

import copy
import errno
import hmac
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from attrs import frozen

from opq_twisted.box.config.reader import parse_config, read_content
from opq_twisted.box.config.settings import BoxConfig
from opq_twisted.cli.box.check_config import ask_systemd, require_usable
from opq_twisted.common import files
from opq_twisted.common.errors import SetupFailed

MACHINE_ID = Path("/etc/machine-id")

#: The number of numbers that `auto` can give. Of 10,000 boxes, two have the same one with a
#: probability of 1 in 20,000.
_NUMBERS = 10**12

#: Makes the box's number unlike that of any other program (machine-id(5)). It must never change.
_APPLICATION = b"opq_twisted box_id"

_MACHINE_ID = re.compile(rb"[0-9a-f]{32}\n?")


@frozen
class Written:
    """The result of `set_up`."""

    path: Path
    config: BoxConfig
    #: Whether the file was changed.
    changed: bool

    @property
    def status(self) -> str:
        """A sentence for the user."""
        if not self.changed:
            return f"The configuration {self.path} has these settings already: nothing was written."
        return f"The configuration {self.path} was written."

    @property
    def next_step(self) -> str:
        """How the settings take effect; empty if they were there before."""
        if not self.changed:
            return ""
        if ask_systemd("is-active", "opq-box-agent") == "active":
            return (
                "Restart the agent, which reads them at its start: systemctl restart opq-box-agent"
            )
        return "The agent reads them when it starts."


def set_up(
    path: Path,
    server: str | None,
    box_id: int | None,
    updater: dict[str, object],
    machine_id: Path = MACHINE_ID,
) -> Written:
    """
    Change some settings of the configuration, and leave the others as they are.

    A file that does not exist is created.

    :param server: the update server's URL; None for the one in the file.
    :param box_id: 0 to make the number from the machine's id; None for the one in the file, or, if
        there is none, the same as 0.
    :param updater: settings under `updater`.
    :param machine_id: the file with the machine's id.
    :raises ConfigInvalid: if the agent would not start with the result, which is not written.
    :raises SetupFailed: if the machine has no id, or the file cannot be written.
    """
    # Of a link, the file that it leads to is changed.
    path = Path(os.path.realpath(path))
    before = _read(path)
    content = copy.deepcopy(before)
    if server is not None:
        content["updates_ep"] = server
    content.setdefault("box_id", 0)
    if updater:
        ours = content.setdefault("updater", {})
        if isinstance(ours, dict):
            ours.update(updater)
    config = require_usable(parse_config(content, path))
    if server is not None:
        content["updates_ep"] = config.updates_ep
    if box_id is not None or not config.box_id:
        content["box_id"] = box_id or make_box_id(machine_id)
        config = parse_config(content, path)
    if content != before:
        _write(path, content)
    return Written(path, config, content != before)


def make_box_id(machine_id: Path = MACHINE_ID) -> int:
    """
    Make a number from 1 to 10^12 from the machine's id, which stays the same on this machine.

    :raises SetupFailed: if the machine has no id.
    """
    try:
        found = files.read(machine_id, 100)
    except OSError:
        found = b""
    if not _MACHINE_ID.fullmatch(found):
        raise SetupFailed(
            f"This machine has no id in {machine_id} to make the number of the box from: run "
            "systemd-machine-id-setup as root, or choose a number with --box-id."
        )
    # The id itself is confidential (machine-id(5)).
    digest = hmac.digest(bytes.fromhex(found.decode()), _APPLICATION, "sha256")
    return int.from_bytes(digest, "big") % _NUMBERS + 1


def _read(path: Path) -> dict[str, Any]:
    try:
        path.lstat()
    except FileNotFoundError:
        return {}
    except OSError:
        # The next line fails too, and says why.
        pass
    return read_content(path)


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # In JSON, the escape of a half of a surrogate pair is the one that Python writes.
    data = text.encode("utf-8", "backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            status = path.stat()
        except FileNotFoundError:
            files.write(path, data, files.READABLE_BY_ALL)
        else:
            owner = (status.st_uid, status.st_gid)
            files.write(path, data, stat.S_IMODE(status.st_mode), owner)
    except OSError as error:
        is_forbidden = error.errno in (errno.EACCES, errno.EPERM)
        remedy = "Run the command as root" if is_forbidden else "Fix that, and try again"
        raise SetupFailed(f"Cannot write {path}: {error.strerror}. {remedy}.") from None
