"""Registers the archive of the installed release as the last good one."""

import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import BinaryIO

from opq_twisted.archive.extract.child import child_command, child_environment
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.release import Release
from opq_twisted.box.config.reader import read_config
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.state.versions import read_version
from opq_twisted.common import files
from opq_twisted.common.errors import AdoptFailed
from opq_twisted.common.progress_bar import Progress, ProgressBar


def register_last_good(archive: Path, config: Path, state_dir: Path) -> str:
    """
    Store the archive of the installed release, so that the box can roll back to it.

    :returns: a sentence for the user.
    :raises OpqError: if the box cannot install this archive, or another release is installed.
    """
    installed = read_version(read_config(config).updater.version_file)
    name = UpdateName.parse(archive.name)
    if name.version != installed:
        raise AdoptFailed(
            f"The installed release is {installed or 'unknown'}, and not {name.version}: give the "
            "archive of the installed release."
        )
    archives = ArchiveStore(state_dir / "archives")
    archives.folder.mkdir(parents=True, exist_ok=True)
    if _is_registered(archives, name.version):
        return f"Release {name.version} is already the last good one."
    with archive.open("rb") as source, ProgressBar(os.fstat(source.fileno()).st_size) as progress:
        # Prove that the box can unpack the archive.
        with _unpacked(source, name, state_dir):
            pass
        with _copied(source, state_dir, progress) as (copy, digest), archives.locked():
            files.rename(copy, archives.path(name.version))
            archives.keep_as_last_good(Release(name.version, None, {"sha256": digest}))
    return f"The box goes back to release {name.version} when an update fails."


def store_for_installation(archive: Path, folder: Path, state_dir: Path) -> str:
    """
    Store the archive from which a folder was unpacked that is about to be installed.

    install_update.sh makes it the last good one after the installation. The folder is trusted,
    because its files are installed, and the archive is not: it must have the same content.

    :returns: a sentence for the user.
    :raises OpqError: if the box cannot install this archive, or its content is another.
    """
    name = UpdateName.parse(archive.name)
    archives = ArchiveStore(state_dir / "archives")
    archives.folder.mkdir(parents=True, exist_ok=True)
    with archive.open("rb") as source, ProgressBar(os.fstat(source.fileno()).st_size) as progress:
        with _unpacked(source, name, state_dir) as unpacked:
            _require_same(unpacked, folder)
        with _copied(source, state_dir, progress) as (copy, digest), archives.locked():
            files.rename(copy, archives.path(name.version))
            archives.write_digest(Release(name.version, None, {"sha256": digest}))
    return f"The archive of release {name.version} is stored."


def _require_same(unpacked: Path, folder: Path) -> None:
    """Raise AdoptFailed unless both folders have the same files with the same content."""
    one, other = ({path.relative_to(top) for path in top.rglob("*")} for top in (unpacked, folder))
    differing = one ^ other or {
        path for path in one if not _is_same(unpacked / path, folder / path)
    }
    if differing:
        raise AdoptFailed(
            f"{min(differing)} in the folder that is installed is not the one in the archive."
        )


def _is_same(one: Path, other: Path) -> bool:
    if other.is_symlink() or one.is_dir() != other.is_dir():
        return False
    return one.is_dir() or filecmp.cmp(one, other, shallow=False)


def _is_registered(archives: ArchiveStore, version: int) -> bool:
    """Whether a release is the last good one, and its archive is intact."""
    good = archives.last_good
    if good is None or good.version != version:
        return False
    try:
        with archives.path(version).open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == good.sha256
    except FileNotFoundError:
        return False


@contextmanager
def _unpacked(archive: BinaryIO, name: UpdateName, state_dir: Path) -> Iterator[Path]:
    """
    Yield a folder with the files of an archive, unpacked as an update; it is removed afterwards.

    :raises AdoptFailed: if the box cannot unpack the archive.
    """
    folder = state_dir / ".adopted"
    try:
        # A power cut may have left it.
        shutil.rmtree(folder, ignore_errors=True)
        result = subprocess.run(
            child_command(name.version, folder),
            stdin=archive,
            capture_output=True,
            text=True,
            env=child_environment(),
        )
        if result.returncode != 0:
            reason = (result.stderr or result.stdout).strip().rpartition("\n")[2]
            raise AdoptFailed(
                reason or f"The archive cannot be unpacked (exit status {result.returncode})."
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _copied(source: BinaryIO, state_dir: Path, progress: Progress) -> Iterator[tuple[Path, str]]:
    """Yield a synced copy and its SHA-256; the copy is deleted unless the caller renames it."""
    copy = state_dir / ".adopted.part"
    try:
        with files.create(copy, 0o600) as file:

            def handle(chunk: bytes) -> None:
                file.write(chunk)
                progress(len(chunk))

            hashes = files.hash_file(source.fileno(), ["sha256"], each_chunk=handle)
            file.flush()
            files.sync(file.fileno())
        yield copy, hashes["sha256"]
    finally:
        copy.unlink(missing_ok=True)
