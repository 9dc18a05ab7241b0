"""Warns of a release that agents up to 0.2.0 refuse, although they took the one before."""

import bz2
import tarfile
from pathlib import Path

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.signing.publish import Publication

#: Bytes of an archive that have the header of its first member.
_START = 64 << 10


def describe_older_agents(done: Publication, archive: Path, updates: Path) -> str | None:
    """
    Say that boxes with an agent up to 0.2.0 refuse a release; None if the one before was as new.

    Such an agent knows no top-level folder but `opq-box-update-VERSION`.

    :param archive: the archive of the new release.
    :param updates: the updates directory, with the archive of the release before.
    """
    before = done.before
    if before is None or _has_their_folder(archive, done.offer.version):
        return None
    if not _has_their_folder(updates / str(UpdateName(before.version)), before.version):
        return None
    return (
        "Boxes whose agent is 0.2.0 or older refuse and block this release, unlike the one before: "
        "if there may be any, build one with --folder-with-version and publish that "
        "(docs/building-an-update.md)."
    )


def _has_their_folder(archive: Path, version: int) -> bool:
    """Whether the first member is in the folder that these agents know; False if unreadable."""
    try:
        with files.open_regular(archive) as file:
            start = bz2.BZ2Decompressor().decompress(file.read(_START), tarfile.BLOCKSIZE)
        member = tarfile.TarInfo.frombuf(start, "utf-8", "strict")
    except (OSError, EOFError, UnicodeDecodeError, tarfile.HeaderError):
        return False
    return member.name.split("/")[0] == UpdateName(version).folder
