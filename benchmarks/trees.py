"""Makes folders like those in updates, the same for the same seed."""

import random
from collections.abc import Callable
from pathlib import Path

_MEGABYTE = 1_000_000
_WORDS = 4_000


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
