"""Makes contents of updates, the same for the same seed."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from opq_twisted.archive.build.contents import Contents, File, find_file, find_script, gather
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.name import INSTALL_SCRIPT, UpdateName

#: The name of the archive in benchmarks that need only one.
UPDATE = UpdateName(1600000000)

_MEGABYTE = 1_000_000
_WORDS = 4_000

#: Folders with many files on each Debian, and that of the Python packages that run this.
_SYSTEM = (Path("/usr/share"), Path("/usr/lib"), Path(sys.prefix, "lib"))
#: Bytes: a larger file would be too much of a sample.
_MAX_SAMPLED = 20 * _MEGABYTE


def make_tree(folder: Path, megabytes: int, seed: int = 0) -> None:
    """
    Fill a new folder with about so many megabytes of sources, programs and already compressed data.

    A third of the bytes each: small text files, larger half-compressible ones, incompressible ones.
    """
    source = random.Random(seed)
    words = [source.randbytes(source.randint(1, 5)).hex().encode() for _ in range(_WORDS)]

    def text(size: int) -> bytes:
        return b" ".join(source.choices(words, k=size // 7 + 1))[:size]

    def program(size: int) -> bytes:
        return b"".join(source.randbytes(32) + text(96) for _ in range(size // 128 + 1))[:size]

    share = megabytes * _MEGABYTE // 3
    _fill(folder / "sources", share, source, 12_000, text)
    _fill(folder / "programs", share, source, 400_000, program)
    _fill(folder / "packages", share, source, 3_000_000, source.randbytes)


def _fill(
    folder: Path, total: int, source: random.Random, typical: int, make: Callable[[int], bytes]
) -> None:
    number = 0
    while total > 0:
        size = min(total, source.randint(1, 2 * typical))
        path = folder / f"{number % 40:02}" / f"{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(size))
        total -= size
        number += 1


def sample_system(megabytes: int, suffix: str = "", seed: int = 0) -> Contents:
    """
    Choose so many megabytes of the files of this machine at random.

    :param suffix: of the names of all files.
    """
    found = sorted(path for folder in _SYSTEM for path in _readable_files(folder, suffix))
    random.Random(seed).shuffle(found)
    contents: Contents = {}
    left = megabytes * _MEGABYTE
    for path in found:
        file = find_file(path)
        if file.size <= min(left, _MAX_SAMPLED):
            contents[f"system{path}"] = file
            left -= file.size
    return contents


def _readable_files(folder: Path, suffix: str) -> Iterator[Path]:
    for here, _folders, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            is_regular = path.is_file() and not path.is_symlink()
            if name.endswith(suffix) and is_regular and os.access(path, os.R_OK):
                yield path


def change_some(contents: Contents, share: float, folder: Path, seed: int = 0) -> Contents:
    """Insert a line into this share of the files, at random places of copies in a new folder."""
    source = random.Random(seed)
    originals = sorted((path, file) for path, file in contents.items() if file is not None)
    folder.mkdir()
    changed: Contents = {}
    for path, file in source.sample(originals, max(1, round(len(originals) * share))):
        line = source.randbytes(20).hex().encode() + b"\n"
        target = folder / str(len(changed))
        changed[path] = insert(line, file, source.randint(0, file.size), target)
    return contents | changed


def insert(data: bytes, file: File, place: int, target: Path) -> File:
    """Write a copy of a file that has more bytes at a place."""
    content = file.source.read_bytes()
    target.write_bytes(content[:place] + data + content[place:])
    return replace(find_file(target), is_executable=file.is_executable)


def make_update(folder: Path, megabytes: int) -> Path:
    """Make an archive of random bytes, with a script that does nothing."""
    noise = folder / "noise"
    noise.mkdir()
    for number in range(megabytes):
        (noise / str(number)).write_bytes(os.urandom(_MEGABYTE))
    return pack_tree(folder, noise)


def pack_tree(folder: Path, tree: Path) -> Path:
    """Pack a tree into an archive in `folder/updates`, with a script that does nothing."""
    updates = folder / "updates"
    updates.mkdir()
    contents = {INSTALL_SCRIPT: find_script(idle_script(folder))} | gather(tree, "firmware")
    return pack(UPDATE, contents, updates)


def idle_script(folder: Path) -> Path:
    """Write an installation script that does nothing."""
    script = folder / INSTALL_SCRIPT
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    return script
