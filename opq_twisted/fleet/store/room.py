"""Refuses reports before they fill the disk."""

import os
from pathlib import Path

from sqlalchemy import Connection

from opq_twisted.fleet.store.errors import StoreUnavailable

#: Bytes that reports leave free, and the part of a smaller file system.
_RESERVE = 256 << 20
_PART = 20


def require_room(connection: Connection, folder: Path) -> None:
    """
    Refuse to store reports if the disk of SQLite's file, and the file itself, are nearly full.

    Anybody can send reports with `--enrol open`. The metadata that the server signs is often on the
    same disk, and so are the orders of operators.

    :param folder: the folder of the file.
    :raises StoreUnavailable: if they are nearly full, or if the system cannot tell.
    """
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise StoreUnavailable(f"The folder {folder} cannot be used: {error.strerror}.") from None
    reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // _PART)
    free = disk.f_bavail * disk.f_frsize
    # What was deleted leaves room in the file, which does not become smaller.
    if free < reserve and free + _unused(connection) < reserve:
        raise StoreUnavailable(
            f"The disk of {folder} has {free >> 20} MB left, and reports leave {reserve >> 20} MB "
            "free for the metadata and for operators. Make room there."
        )


def _unused(connection: Connection) -> int:
    pages, size = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("freelist_count", "page_size")
    )
    return pages * size
