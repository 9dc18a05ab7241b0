"""Compare the time to unpack an update, vetted, in a process, with that of plain `tar xjf`."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.trees import make_tree

VERSION = 1547860803
NAME = f"opq-box-update-{VERSION}"
ROUNDS = 3


def make_update(place: Path, megabytes: int) -> Path:
    folder = place / NAME
    make_tree(folder, megabytes)
    (folder / "VERSION").write_text(f"{VERSION}\n")
    (folder / "install_update.sh").write_text("#!/bin/sh\n")
    (folder / "install_update.sh").chmod(0o755)
    archive = place / f"{NAME}.tar.bz2"
    program = shutil.which("lbzip2") or "bzip2"
    subprocess.run(["tar", "-c", "-I", program, "-f", archive, "-C", place, NAME], check=True)
    shutil.rmtree(folder)
    return archive


def seconds(command: list[str], destination: Path, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    taken = time.perf_counter() - start
    shutil.rmtree(destination)
    os.sync()  # so that the next one does not wait for this one's writes
    return taken


def unpack(archive: Path, destination: Path, path: str) -> float:
    module = [sys.executable, "-m", "opq_twisted.release.unpack"]
    command = [*module, str(archive), str(destination), str(VERSION)]
    return seconds(command, destination, {**os.environ, "PATH": path})


def plain_tar(archive: Path, destination: Path) -> float:
    destination.mkdir()
    command = ["tar", "xjf", str(archive), "-C", str(destination)]
    return seconds(command, destination, dict(os.environ))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=150, help="size of the unpacked update")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as place:
        archive = make_update(Path(place), megabytes)
        destination = Path(place) / "unpacked"
        ours, alone, peer = [], [], []
        for _ in range(ROUNDS):
            peer.append(plain_tar(archive, destination))
            ours.append(unpack(archive, destination, os.environ["PATH"]))
            alone.append(unpack(archive, destination, "/nowhere"))
        size = archive.stat().st_size / 1e6
    print(f"{megabytes} MB, packed {size:.0f} MB; tar xjf takes {median(peer):.2f} s:")
    if shutil.which("lbzip2") is None:
        print("This machine has no lbzip2: both lines measure the standard library.")
    ratio = median(ours) / median(peer)
    print(f"unpack / tar xjf: {ratio:.2f} (aim: at most 1.0)")
    print(f"unpack without lbzip2 / tar xjf: {median(alone) / median(peer):.2f}")


if __name__ == "__main__":
    main()
