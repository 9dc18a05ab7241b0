"""Compresses the pieces of an update on all cores, each into a bzip2 stream of its own."""

import bz2
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO


def compress(pieces: Iterable[bytes], output: BinaryIO) -> None:
    """
    Write pieces to a file in their order, as a bzip2 file of so many streams.

    The result depends on the pieces alone, not on the machine.

    :raises OSError: if the file cannot be written.
    """
    cores = os.cpu_count() or 1
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for piece in pieces:
            waiting.append(pool.submit(bz2.compress, piece))
            # Pieces that are read faster than they are compressed must not fill the memory.
            if len(waiting) > 2 * cores:
                output.write(waiting.popleft().result())
        for each in waiting:
            output.write(each.result())
