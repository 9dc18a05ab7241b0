"""Refuses reports before they fill the disk."""

import os
from pathlib import Path

from sqlalchemy import Connection

from opq_twisted.fleet.store.errors import StoreUnavailable

#: Reports leave so many bytes of the disk free, and in a small file system this part of it.
_RESERVE = 256 << 20
_PART = 20


def require_room(connection: Connection, folder: Path) -> None:
    """
    Refuse to store reports if the disk of SQLite's file is nearly full, and so is the file itself.

    With `--enrol open`, anybody can send reports. The server needs space on the same disk for the
    orders of operators, and often for the metadata that it signs.

    :param folder: the folder of the file.
    :raises StoreUnavailable: if both are nearly full, or if the folder cannot be used.
    """
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise StoreUnavailable(f"The folder {folder} cannot be used: {error.strerror}.") from None
    reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // _PART)
    free = disk.f_bavail * disk.f_frsize
    # Deleted rows leave free pages in the file, which does not become smaller.
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
