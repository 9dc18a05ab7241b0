"""Decides where each member of an archive is written, or refuses the archive."""

import re
from dataclasses import dataclass
from itertools import accumulate
from unicodedata import normalize

from opq_twisted.archive.name import INSTALL_SCRIPT
from opq_twisted.archive.tar_reader import Member, quoted
from opq_twisted.common.errors import ArchiveRefused

MAX_MEMBERS = 100_000
MAX_DEPTH = 32
MAX_PATH = 1024
_MAX_COMPONENT = 255
#: The top-level folders that an archive may have; other first folders are parts of the layout.
_TOP_FOLDER = re.compile(r"opq-box-update-[A-Za-z0-9._-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: Other spellings of these names are refused: a file system or a reader may take them for the name.
#: Other names may differ only in case, as some in Linux's sources do, or look alike.
_PROTECTED_NAMES = {"version": "VERSION", INSTALL_SCRIPT: INSTALL_SCRIPT}


@dataclass(frozen=True, slots=True)
class Placement:
    """The paths that a member creates below the root of the layout: folders, then a file."""

    folders: list[str]
    file: str | None


class MemberRules:
    """
    Checks the members of one archive, in their order.

    If the first member is in a top-level folder such as `opq-box-update-files`, all members must be
    in that folder, and it is the root of the layout. Otherwise the archive's root is.
    """

    def __init__(self) -> None:
        #: The top-level folder; empty if there is none, and None before the first member.
        self._top: str | None = None
        self._files: set[str] = set()
        #: Whether each folder has a member of its own, or only contains one.
        self._folders: dict[str, bool] = {}

    def check(self, member: Member) -> Placement:
        """
        Check one more member, and return the paths that it creates.

        A folder without a member of its own counts too: it needs as much room on the disk.

        :raises ArchiveRefused: if the name breaks a rule, or conflicts with an earlier member.
        """
        parts = _parts(member)
        paths = list(accumulate(parts, "{}/{}".format))
        file = None if member.is_folder else paths.pop()
        folders = [path for path in paths if self._add_folder(member, path)]
        if file is None:
            self._mark_given(member, paths[-1] if paths else "")
        else:
            self._add_file(member, file)
        if len(self._files) + len(self._folders) > MAX_MEMBERS:
            raise ArchiveRefused(f"it holds more than {MAX_MEMBERS} files and folders")
        placement = self._unwrap(member, parts, folders, file)
        for path in (*placement.folders, placement.file):
            _refuse_lookalike(member, path)
        return placement

    def _add_folder(self, member: Member, path: str) -> bool:
        if path in self._files:
            raise ArchiveRefused(
                f"{quoted(member.name)} needs a folder where {quoted(path)} is a file"
            )
        is_new = path not in self._folders
        if is_new:
            self._folders[path] = False
        return is_new

    def _mark_given(self, member: Member, path: str) -> None:
        if self._folders.get(path):
            raise _twice(member)
        self._folders[path] = True

    def _add_file(self, member: Member, path: str) -> None:
        if path in self._files:
            raise _twice(member)
        if path in self._folders:
            raise ArchiveRefused(f"{quoted(member.name)} is a file where a folder is needed")
        self._files.add(path)

    def _unwrap(
        self, member: Member, parts: list[str], folders: list[str], file: str | None
    ) -> Placement:
        if not parts:
            return Placement([], None)
        if self._top is None:
            is_top = _TOP_FOLDER.fullmatch(parts[0]) and file != parts[0]
            self._top = parts[0] if is_top else ""
        if not self._top:
            return Placement(folders, file)
        if parts[0] != self._top:
            raise ArchiveRefused(f"{quoted(member.name)} lies outside the folder {self._top}")
        prefix = f"{self._top}/"
        inner = [path.removeprefix(prefix) for path in folders if path != self._top]
        return Placement(inner, file and file.removeprefix(prefix))


def _parts(member: Member) -> list[str]:
    name = member.name
    if not name:
        raise ArchiveRefused("it holds a member without a name")
    if len(name.encode()) > MAX_PATH:
        raise ArchiveRefused(f"{quoted(name)} is longer than {MAX_PATH} bytes")
    if _CONTROL.search(name):
        raise ArchiveRefused(f"{quoted(name)} has a control character in its name")
    if name.startswith("/"):
        raise ArchiveRefused(f"{quoted(name)} is an absolute path")
    steps = name.split("/")
    if ".." in steps:
        raise ArchiveRefused(f"{quoted(name)} has '..' in its path")
    if not member.is_folder and steps[-1] in ("", "."):
        raise ArchiveRefused(f"{quoted(name)} is a file with the name of a folder")
    parts = [step for step in steps if step not in ("", ".")]
    if len(parts) > MAX_DEPTH:
        raise ArchiveRefused(f"{quoted(name)} lies more than {MAX_DEPTH} folders deep")
    if any(len(part.encode()) > _MAX_COMPONENT for part in parts):
        raise ArchiveRefused(f"{quoted(name)} has a part longer than {_MAX_COMPONENT} bytes")
    return parts


def _refuse_lookalike(member: Member, path: str | None) -> None:
    name = path and _PROTECTED_NAMES.get(normalize("NFKC", path).casefold())
    if name and name != path:
        raise ArchiveRefused(f"{quoted(member.name)} can be taken for {name}")


def _twice(member: Member) -> ArchiveRefused:
    return ArchiveRefused(f"{quoted(member.name)} is there twice")
