"""Compares the time to publish a large archive with that of sha512sum and sha256sum."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.figures import report_ratio
from benchmarks.trees import UPDATE, make_update

ROUNDS = 5
PROGRAM = str(Path(sys.executable).with_name("opq-release"))


def check(archive: Path) -> float:
    """Check the archive as a box does, which is a part of publishing."""
    command = (sys.executable, "-m", "opq_twisted.archive.extract.unpack", str(UPDATE.version))
    start = time.perf_counter()
    with archive.open("rb") as file:
        subprocess.run(command, stdin=file, check=True)
    return time.perf_counter() - start


def timed(*command: object) -> float:
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


class Holder:
    """A key holder, who uses the command line."""

    def __init__(self, place: Path) -> None:
        self.updates = place / "updates"
        self.updates.mkdir(parents=True)
        secret = place / "passphrase"
        secret.touch(mode=0o600)
        secret.write_text("open sesame, and quickly\n")
        self._options = (
            f"--updates-dir={self.updates}",
            f"--keys-dir={place / 'keys'}",
            f"--passphrase-file={secret}",
        )
        timed(PROGRAM, "init", *self._options)

    def publish(self, archive: Path) -> float:
        """Publish by the command line; returns the seconds, including the start of the program."""
        # The measured program must not wait for the writes of other programs.
        os.sync()
        return timed(PROGRAM, "publish", archive, *self._options)

    def resign(self) -> float:
        """Do all steps of publishing except those with the archive: start, sign, dry run, write."""
        os.sync()
        return timed(PROGRAM, "resign", *self._options)


def plain_copy(archive: Path, target: Path) -> float:
    """Copy a file and wait for the disk, as publishing does."""
    os.sync()
    duration = timed("dd", f"if={archive}", f"of={target}", "bs=1M", "conv=fsync", "status=none")
    target.unlink()
    return duration


def compare(place: Path, megabytes: int) -> None:
    archive = make_update(place, megabytes)
    holder = Holder(place / "holder")
    peer: list[float] = []
    copied: list[float] = []
    there: list[float] = []
    resigned: list[float] = []
    plain: list[float] = []
    checked: list[float] = []
    for _ in range(ROUNDS):
        peer.append(timed("sha512sum", archive) + timed("sha256sum", archive))
        plain.append(plain_copy(archive, place / "copy"))
        copied.append(holder.publish(archive))
        there.append(holder.publish(holder.updates / archive.name))
        resigned.append(holder.resign())
        checked.append(check(archive))
        (holder.updates / archive.name).unlink()
    print(f"A {megabytes} MB archive, seconds, median of {ROUNDS}, on {os.cpu_count()} cores.")
    sums = "sha512sum and sha256sum"
    report_ratio(
        "opq-release publish, already there", median(there), sums, median(peer), at_most=1.5
    )
    report_ratio("opq-release publish, copied", median(copied), sums, median(peer), at_most=1.5)
    with_copy = median(peer) + median(plain)
    report_ratio(
        "opq-release publish, copied", median(copied), f"{sums} and dd conv=fsync", with_copy
    )
    print(f"The check as on a box, which is a part of that: {median(checked):.3g}")
    print(
        f"dd conv=fsync alone: {median(plain):.3g}; opq-release resign, which is all except the "
        f"archive: {median(resigned):.3g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100, help="size of the archive")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as place:
        compare(Path(place), megabytes)


if __name__ == "__main__":
    main()
