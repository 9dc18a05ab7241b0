"""Writes an archive's files and folders below a folder, as long as the disk has room."""

import errno
import os
from collections.abc import Iterable

from opq_twisted.archive.extract.layout import LayoutCheck
from opq_twisted.archive.member_rules import Placement
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.tar_reader import Member
from opq_twisted.common import wording
from opq_twisted.common.errors import NoRoom

FOLDER_MODE = 0o755
#: The modes of a file that is not executable, and of one that is.
_FILE_MODES = (0o644, 0o755)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Tree(LayoutCheck):
    """
    Writes members until the disk is full, and counts the space that all members need.

    The count continues after the disk is full, so that the error can name the total.
    """

    def __init__(self, root: int, reserve: int) -> None:
        """
        :param root: the descriptor of the folder.
        :param reserve: the number of bytes of the disk that must stay free.
        """
        super().__init__()
        disk = os.statvfs(root)
        self._root = root
        self._reserve = reserve
        self._block = disk.f_frsize
        self._room = max(0, disk.f_bavail * disk.f_frsize - reserve)
        self._needed = 0
        self._is_full = False

    def write(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        """Create the folders and the file of a member, if there is room for them."""
        self._needed += self._block * (len(placement.folders) + -(-member.size // self._block))
        self._is_full |= self._needed > self._room
        if self._is_full:
            return
        try:
            self._create(placement, member, content)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            self._is_full = True

    def check_room(self, name: UpdateName) -> None:
        """Raise `NoRoom`, after the last member, unless all of them were written."""
        if self._is_full:
            raise NoRoom(
                f"Unpacking {name} needs {wording.mebibytes(self._needed)} on the disk, and "
                f"{wording.mebibytes(self._reserve)} more must stay free: make room, then try "
                "again."
            )

    def _create(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        for folder in placement.folders:
            os.mkdir(folder, 0o700, dir_fd=self._root)
            os.chmod(folder, FOLDER_MODE, dir_fd=self._root)
        if placement.file is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(placement.file, flags, 0o600, dir_fd=self._root), "wb") as file:
            for piece in content:
                file.write(piece)
            os.fchmod(file.fileno(), _FILE_MODES[member.is_executable])
