"""Compares the time to check and unpack an update, as the box does, with that of `tar xjf`."""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from twisted.internet.task import react

from benchmarks.trees import make_tree
from opq_twisted.box.install.processes import ProcessRunner
from opq_twisted.box.install.unpacker import Unpacker

VERSION = 1547860803
NAME = f"opq-box-update-{VERSION}"
ROUNDS = 5


def make_update(place: Path, megabytes: int) -> Path:
    folder = place / NAME
    make_tree(folder, megabytes)
    (folder / "VERSION").write_text(f"{VERSION}\n")
    (folder / "install_update.sh").write_text("#!/bin/sh\n")
    (folder / "install_update.sh").chmod(0o755)
    archive = place / f"{NAME}.tar.bz2"
    program = shutil.which("lbzip2") or "bzip2"
    subprocess.run(["tar", "-c", "-I", program, "-f", archive, "-C", place, NAME], check=True)
    return archive


def without_lbzip2(place: Path) -> str:
    """Make a folder for PATH with the programs that start the unpacker, but without lbzip2."""
    folder = place / "programs"
    folder.mkdir()
    for name in ("setsid", "setpriv", "sh"):
        (folder / name).symlink_to(shutil.which(name) or name)
    return str(folder)


def plain_tar(archive: Path, destination: Path) -> float:
    destination.mkdir()
    start = time.perf_counter()
    subprocess.run(["tar", "xjf", archive, "-C", destination], check=True)
    return time.perf_counter() - start


async def unpack(reactor: Any, archive: Path, destination: Path, path: str) -> float:
    """Unpack as the agent does, in a child process; returns the seconds."""
    unpacker = Unpacker(ProcessRunner(reactor, reactor), destination)
    before, os.environ["PATH"] = os.environ["PATH"], path
    try:
        start = time.perf_counter()
        with archive.open("rb") as file:
            await unpacker.unpack(file, VERSION)
        return time.perf_counter() - start
    finally:
        os.environ["PATH"] = before


async def compare(reactor: Any, place: Path, megabytes: int) -> None:
    archive = make_update(place, megabytes)
    path, bare = os.environ["PATH"], without_lbzip2(place)
    ours: list[float] = []
    alone: list[float] = []
    peer: list[float] = []
    for number in range(ROUNDS):
        # No file is removed before the end: creating files on ext4 is several times slower for some
        # minutes after others were removed.
        folders = [place / f"{name}-{number}" for name in ("peer", "ours", "alone")]
        os.sync()  # so that the next program does not wait for these writes
        peer.append(plain_tar(archive, folders[0]))
        os.sync()
        ours.append(await unpack(reactor, archive, folders[1], path))
        os.sync()
        alone.append(await unpack(reactor, archive, folders[2], bare))
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    size = archive.stat().st_size / 1e6
    print(f"{megabytes} MB, packed {size:.0f} MB; by {user}, on {os.cpu_count()} cores.")
    print(f"tar xjf takes {median(peer):.2f} s, from {min(peer):.2f} to {max(peer):.2f}.")
    if shutil.which("lbzip2") is None:
        print("This machine has no lbzip2: both lines measure the standard library.")
    print(f"unpack / tar xjf: {median(ours) / median(peer):.2f} (aim: at most 0.7)")
    print(f"unpack without lbzip2 / tar xjf: {median(alone) / median(peer):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=150, help="size of the unpacked update")
    megabytes = parser.parse_args().megabytes

    async def run(reactor: object) -> None:
        with tempfile.TemporaryDirectory() as place:
            await compare(reactor, Path(place), megabytes)

    react(run, [])


if __name__ == "__main__":
    main()
