"""Compares the time to build an update, and the size of its archive, with those of `tar cjf`."""

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.figures import report_ratio
from benchmarks.trees import make_tree
from opq_twisted.archive.build.contents import gather
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.name import UpdateName

ROUNDS = 3


def build(tree: Path) -> tuple[float, int]:
    """Return the seconds and the bytes of an archive."""
    start = time.perf_counter()
    archive = pack(UpdateName(1), gather(tree, "firmware"), tree.parent)
    taken = time.perf_counter() - start
    size = archive.stat().st_size
    archive.unlink()
    return taken, size


def plain_tar(tree: Path) -> tuple[float, int]:
    archive = tree.parent / "peer.tar.bz2"
    start = time.perf_counter()
    subprocess.run(["tar", "cjf", archive, "-C", tree.parent, tree.name], check=True)
    taken = time.perf_counter() - start
    size = archive.stat().st_size
    archive.unlink()
    return taken, size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the tree (300)")
    parser.add_argument("--tree", type=Path, help="folder to build from, instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "firmware"
        if options.tree is None:
            make_tree(tree, options.megabytes)
        else:
            shutil.copytree(options.tree, tree)
        rounds = [(plain_tar(tree), build(tree)) for _ in range(ROUNDS)]
    # The minimum of each, because other load can only add time.
    peer, ours = min(peer for peer, _ in rounds), min(ours for _, ours in rounds)
    report_ratio("building an update, s", ours[0], "tar cjf", peer[0], at_most=0.55)
    report_ratio("archive, bytes", ours[1], "tar cjf", peer[1], at_most=1.015)


if __name__ == "__main__":
    main()
