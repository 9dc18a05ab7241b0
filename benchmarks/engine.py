"""Measures a run of the engine: what it counts of a rollout in the middle of a large fleet."""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.engine_runs import measure_runs
from benchmarks.figures import report
from benchmarks.fleet import RELEASES, postgresql, prepare, sqlite
from benchmarks.simulated_boxes import SimulatedBox

#: Boxes of a fleet of 100,000 are counted in so many seconds at most.
_TARGET = 1.0


def measure(name: str, url: str, options: argparse.Namespace) -> None:
    """Measure one database."""
    begun = time.perf_counter()
    prepare(url, [SimulatedBox(number) for number in range(1, options.boxes + 1)])
    print(f"{name}: the database was made in {time.perf_counter() - begun:.0f} s", flush=True)
    taken, peak = measure_runs(url)
    report(f"{name}: seconds of the first run of the engine", taken[0])
    target = _TARGET * options.boxes / 100_000
    report(f"{name}: seconds of a run of the engine, median", median(taken), at_most=target)
    report(f"{name}: MB of memory that the runs need at the peak", peak)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--boxes", type=int, default=100_000, help="in the database (100000)")
    parser.add_argument("--only", choices=("sqlite", "postgresql"), help="one database")
    options = parser.parse_args()
    print(f"{options.boxes:,} boxes, {RELEASES} releases", flush=True)
    for name, begin in (("sqlite", sqlite), ("postgresql", postgresql)):
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder, begin(Path(folder)) as url:
                if url is not None:
                    measure(name, url, options)


if __name__ == "__main__":
    main()
