"""Tells a complete bzip2 file from one that is still uploaded or was cut off, in two reads."""

import os

#: The first four bytes of a stream.
STREAM_HEADERS = tuple(b"BZh%d" % level for level in range(1, 10))
_BLOCK_OR_END = (bytes.fromhex("314159265359"), bytes.fromhex("177245385090"))
#: The 48 bits before the checksum that ends a stream.
END_MARK = 0x177245385090
_TAIL_LENGTH = 11


def is_whole(fd: int, size: int) -> bool:
    """
    Whether a file of `size` bytes begins and ends like a bzip2 file.

    A stream ends with a 48-bit mark and a 32-bit checksum at any bit offset, then zeros up to the
    next byte: always within the last 11 bytes. This does not check the integrity; it finds uploads
    that were cut off.

    :raises OSError: if the file cannot be read.
    """
    head = os.pread(fd, 10, 0)
    if not head.startswith(STREAM_HEADERS) or not head[4:].startswith(_BLOCK_OR_END):
        return False
    length = min(size, _TAIL_LENGTH)
    tail = os.pread(fd, length, size - length)
    return len(tail) == length and _ends_stream(int.from_bytes(tail, "big"))


def _ends_stream(tail: int) -> bool:
    return any(
        tail & ((1 << padding) - 1) == 0 and (tail >> (32 + padding)) & ((1 << 48) - 1) == END_MARK
        for padding in range(8)
    )
