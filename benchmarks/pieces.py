"""Compares the time to index the pieces of an archive, as the server does, with `sha256sum`."""

import argparse
import os
import re
import subprocess
import tempfile
import threading
import time
import zlib
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from attrs import evolve

from benchmarks.figures import report, report_ratio
from benchmarks.trees import make_tree, pack_tree
from opq_twisted.archive.pieces import Index
from opq_twisted.server.catalog.archive_cache import compute_from
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.updates_file import Archive

ROUNDS = 5


def make_archive(place: Path, megabytes: int) -> Archive:
    """Build an update, and repeat its bytes until the archive has about this size."""
    tree = place / "tree"
    make_tree(tree, min(megabytes, 100))
    path = pack_tree(place, tree)
    built = path.read_bytes()
    with path.open("ab") as file:
        for _ in range(1, round(megabytes * 1_000_000 / len(built))):
            file.write(built)
    return offered(path.parent)


def offered(updates: Path) -> Archive:
    catalog = Catalog(updates)
    catalog.rescan()
    (archive,) = catalog.snapshot.archives
    return archive


def memory(key: str) -> float:
    """Read a figure of this process's memory, in megabytes."""
    [kilobytes] = re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024 / 1e6


def seconds_of_sha256sum(path: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["sha256sum", path], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def seconds_of_index(archive: Archive) -> tuple[float, bytes]:
    start = time.perf_counter()
    index = compute_from(archive, Indexes.compute, threading.Event())
    assert index, "this archive has no index"
    return time.perf_counter() - start, index


def memory_of_index(updates: Path) -> float:
    """Return the megabytes by which the memory of this process grows."""
    archive = offered(updates)
    before = memory("VmRSS")
    seconds_of_index(archive)
    return memory("VmHWM") - before


def compare(place: Path, megabytes: int) -> None:
    archive = make_archive(place, megabytes)
    # A new process: this one has much memory that is free, and would be used again.
    with get_context("spawn").Pool(1) as processes:
        grown = processes.apply(memory_of_index, [archive.path.parent])
    # Both read from the page cache.
    seconds_of_sha256sum(archive.path)
    _, index = seconds_of_index(archive)
    ours, peer = [], []
    for _ in range(ROUNDS):
        peer.append(seconds_of_sha256sum(archive.path))
        ours.append(seconds_of_index(archive)[0])
    pieces = Index.from_json(zlib.decompress(index)).pieces
    print(f"An archive of {archive.size / 1e6:.0f} MB with {len(pieces)} pieces:")
    report_ratio("seconds to index it", median(ours), "sha256sum takes", median(peer), at_most=2)
    # The digests of repeated bytes are the same, and compress too well.
    distinct = tuple(evolve(piece, digest=os.urandom(32)) for piece in pieces)
    kept = zlib.compress(Index(archive.size, os.urandom(32).hex(), distinct).to_json())
    report("kB of its index in memory", len(kept) / 1000, at_most=100)
    report("MB of memory while it is computed", grown, at_most=10)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pieces", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the archive")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as place:
        compare(Path(place), megabytes)


if __name__ == "__main__":
    main()
