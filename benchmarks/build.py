"""Compares the time to build an update, with lbzip2 and without, with that of `tar cjf`."""

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.trees import make_tree
from opq_twisted.archive.build.compress import Compress, with_lbzip2, with_stdlib
from opq_twisted.archive.build.contents import gather
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.name import UpdateName

ROUNDS = 3


def build(tree: Path, compress: Compress) -> float:
    start = time.perf_counter()
    contents = gather(tree, "firmware")
    archive = pack(UpdateName(1), contents, tree.parent, timestamp=1, compress=compress)
    taken = time.perf_counter() - start
    archive.unlink()
    return taken


def plain_tar(tree: Path) -> float:
    archive = tree.parent / "peer.tar.bz2"
    start = time.perf_counter()
    subprocess.run(["tar", "cjf", archive, "-C", tree.parent, tree.name], check=True)
    taken = time.perf_counter() - start
    archive.unlink()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the tree (300)")
    megabytes = parser.parse_args().megabytes
    peer, ours, alone = [], [], []
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "firmware"
        make_tree(tree, megabytes)
        for _ in range(ROUNDS):
            peer.append(plain_tar(tree))
            if shutil.which("lbzip2") is not None:
                ours.append(build(tree, with_lbzip2))
            alone.append(build(tree, with_stdlib))
    # The minimum of each, because other load can only add time.
    print(f"{megabytes} MB; tar cjf takes {min(peer):.1f} s:")
    if ours:
        print(f"pack / tar cjf: {min(ours) / min(peer):.2f} (aim: at most 0.5 on two cores)")
    else:
        print("This machine has no lbzip2.")
    print(f"pack without lbzip2 / tar cjf: {min(alone) / min(peer):.2f}")


if __name__ == "__main__":
    main()
