"""Checks that an archive holds what every update must hold: VERSION and a script that can run."""

from collections.abc import Iterable
from itertools import chain

from opq_twisted.archive.member_rules import Placement
from opq_twisted.archive.name import INSTALL_SCRIPT, parse_version
from opq_twisted.archive.tar_reader import Member
from opq_twisted.common.errors import ArchiveRefused, InvalidName

#: The first bytes of a compiled program (elf(5)).
_ELF = b"\x7fELF"
_VERSION_LENGTH = 64


class LayoutCheck:
    """Notes the facts about an archive's files that decide whether it is an update."""

    def __init__(self) -> None:
        #: The content of VERSION; None if there is none, or it is too long.
        self._version: bytes | None = None
        #: Whether the script is executable; None if there is none.
        self._is_executable: bool | None = None
        self._script_start = b""

    def add(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        """Note the facts about a member, and write it."""
        if placement.file == "VERSION" and member.size <= _VERSION_LENGTH:
            self._version = b"".join(content)
            content = [self._version]
        if placement.file == INSTALL_SCRIPT:
            self._is_executable = member.is_executable
            content = iter(content)
            self._script_start = next(content, b"")
            content = chain([self._script_start], content)
        self.write(placement, member, content)

    def write(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        """Write nothing: this class only checks."""

    def check(self, version: int) -> None:
        """Raise `ArchiveRefused`, after the last member, unless this is the update `version`."""
        if self._version is None:
            raise ArchiveRefused("it has no file VERSION with its version")
        try:
            found = parse_version(self._version.decode("ascii", "replace"))
        except InvalidName as error:
            raise ArchiveRefused(f"its VERSION does not hold {version}") from error
        if found != version:
            raise ArchiveRefused(f"its VERSION holds {found} and not {version}")
        if self._is_executable is None:
            raise ArchiveRefused("it has no file install_update.sh")
        if not self._is_executable:
            raise ArchiveRefused("its install_update.sh is not executable")
        if not _can_run(self._script_start):
            raise ArchiveRefused(
                "its install_update.sh cannot be run: its first line must begin with #!, and end "
                "without a carriage return"
            )


def _can_run(start: bytes) -> bool:
    """Whether the kernel can execute a file with this first piece."""
    first_line = start.partition(b"\n")[0]
    return start.startswith(_ELF) or (
        first_line.startswith(b"#!") and not first_line.endswith(b"\r")
    )
