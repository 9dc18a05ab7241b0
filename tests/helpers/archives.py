"""Makes archives for tests: good updates, and tar streams that no common tool writes."""

import bz2
import os
import random
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from opq_twisted.archive.name import TOP_FOLDER, UpdateName

BLOCK = 512
END = bytes(2 * BLOCK)
SCRIPT = b"#!/bin/sh\nexit 0\n"
GNU, POSIX = b"ustar  \0", b"ustar\x0000"


def name_of(version: int) -> str:
    """Return the name of an archive."""
    return str(UpdateName(version))


def make_archive(
    path: Path,
    version: int,
    members: Mapping[str, bytes] | None = None,
    *,
    script: bytes = SCRIPT,
    wrapped: bool = True,
) -> Path:
    """
    Write a good update to `path`: `VERSION`, `install_update.sh`, and whatever `members` names.

    `wrapped` puts it all into the top-level folder, as the builder does.
    """
    top = f"{TOP_FOLDER}/" if wrapped else ""
    parts = [folder(top)] if wrapped else []
    parts += layout(version, top, script)
    parts += [file(f"{top}{name}", content) for name, content in (members or {}).items()]
    return write_archive(path, stream(*parts))


def make_pieces_archive(
    path: Path, version: int, parts: Mapping[str, bytes], *, script: bytes = SCRIPT
) -> Path:
    """
    Write a good update that consists of pieces, which other updates may have too.

    The first piece holds the top-level folder, `VERSION` and `install_update.sh`, each further one
    a file of `parts`, and the last one the end. Parts with equal names and contents are equal
    pieces in all archives.
    """
    top = f"{TOP_FOLDER}/"
    first = folder(top) + b"".join(layout(version, top, script))
    members = [file(f"{top}{name}", content) for name, content in parts.items()]
    return write_pieces(path, first, *members, END)


def write_pieces(path: Path, *tar: bytes) -> Path:
    """Compress each part of a tar stream as a piece of its own, and write all into `path`."""
    # The magic of a piece has the largest block size.
    path.write_bytes(b"".join(_compressed(piece, 9) for piece in tar))
    return path


@lru_cache(16)  # for tests that make an archive again, or several of the same parts
def _compressed(tar: bytes, level: int) -> bytes:
    return bz2.compress(tar, level)


def random_parts(*seeds: int, size: int = 400_000) -> dict[str, bytes]:
    """
    Make a part of `size` bytes for each seed; the same seed always gives the same part.

    They are incompressible, so an archive is about 0.5 % larger than its parts.
    """
    return {f"part-{seed}": random.Random(seed).randbytes(size) for seed in seeds}


def make_large_archive(path: Path, size: int) -> Path:
    """Write about `size` random bytes that the server takes for an archive."""
    ends = bz2.compress(b"")
    path.write_bytes(ends[:4] + bytes.fromhex("314159265359") + os.urandom(size) + ends)
    return path


def layout(version: int, top: str = "", script: bytes = SCRIPT, mode: int = 0o755) -> list[bytes]:
    """Return the two required members of an update."""
    return [file(f"{top}VERSION", b"%d\n" % version), file(f"{top}install_update.sh", script, mode)]


def write_archive(path: Path, tar: bytes) -> Path:
    """Compress a tar stream into `path`."""
    path.write_bytes(_compressed(tar, 1))
    return path


def stream(*members: bytes, end: bytes = END) -> bytes:
    """Return a tar stream of these members."""
    return b"".join(members) + end


def file(name: str | bytes, content: bytes = b"", mode: int = 0o644) -> bytes:
    """Return a regular file as a member."""
    return header(name, b"0", len(content), mode) + padded(content)


def folder(name: str | bytes) -> bytes:
    """Return a folder as a member."""
    return header(name, b"5", 0, 0o755)


def header(
    name: str | bytes,
    kind: bytes,
    size: int | bytes = 0,
    mode: int = 0o644,
    *,
    link: bytes = b"",
    magic: bytes = POSIX,
    prefix: bytes = b"",
) -> bytes:
    """Return a header block with its checksum; `size` as bytes is written unchanged."""
    name = name.encode() if isinstance(name, str) else name
    size = b"%011o\0" % size if isinstance(size, int) else size
    fields = (name, b"%07o\0" % mode, b"0000000\0", b"0000000\0", size, b"14235050143\0", b" " * 8)
    block = struct.pack("100s8s8s8s12s12s8s", *fields)
    block += struct.pack("1s100s8s32s32s8s8s155s12x", kind, link, magic, b"", b"", b"", b"", prefix)
    return _with_checksum(block)


def long_name(name: str | bytes) -> bytes:
    """Return a GNU header with a long name for the next member."""
    content = (name.encode() if isinstance(name, str) else name) + b"\0"
    return header("././@LongLink", b"L", len(content), magic=GNU) + padded(content)


def pax(records: Mapping[str, str] | Mapping[str, bytes], kind: bytes = b"x") -> bytes:
    """Return a PAX header for the next member, or with the kind `g` for all members."""
    return raw_pax(b"".join(_record(key, value) for key, value in records.items()), kind)


def raw_pax(content: bytes, kind: bytes = b"x") -> bytes:
    """Return a PAX header with exactly these bytes."""
    return header("./PaxHeaders/x", kind, len(content)) + padded(content)


def padded(content: bytes) -> bytes:
    """Return data with its last block filled with zeros."""
    return content + bytes(-len(content) % BLOCK)


def concatenated(parts: Iterable[bytes]) -> bytes:
    """Compress each part as a separate bzip2 stream, as pbzip2 and lbzip2 do."""
    return b"".join(bz2.compress(part, 1) for part in parts)


def _record(key: str, value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    rest = b" %s=%s\n" % (key.encode(), value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def _with_checksum(block: bytes) -> bytes:
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
