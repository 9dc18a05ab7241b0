"""Measures a run of the engine: what it counts of a rollout in the middle of a large fleet."""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from sqlalchemy import Engine, text, update

from benchmarks.figures import report
from benchmarks.fleet import RELEASES, postgresql, prepare, sqlite
from benchmarks.simulated_boxes import SimulatedBox
from opq_twisted.fleet.engine.gather import assess
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.store import schema
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.states import RolloutState

#: Runs of which the median is taken; the first one also fills the caches.
RUNS = 5

#: Boxes of a fleet of 100,000 are counted in so many seconds at most.
_TARGET = 1.0

#: Of so many boxes one is silent for days; the others have reported in the last 23 hours.
_SILENT, _HEARD = 50, 23 * 3600


def measure(name: str, url: str, options: argparse.Namespace) -> None:
    """Measure one database."""
    begun = time.perf_counter()
    prepare(url, [SimulatedBox(number) for number in range(1, options.boxes + 1)])
    engine = make_engine(url, limits=False)
    _begin_rollout(engine)
    _order(engine)
    engine.dispose()
    print(f"{name}: the database was made in {time.perf_counter() - begun:.0f} s", flush=True)
    # A process of its own: this one has needed much memory for the boxes.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        taken, peak = pool.submit(run, url).result()
    report(f"{name}: seconds of the first run of the engine", taken[0])
    target = _TARGET * options.boxes / 100_000
    report(f"{name}: seconds of a run of the engine, median", median(taken), at_most=target)
    report(f"{name}: MB of memory that the runs need at the peak", peak)


def _begin_rollout(engine: Engine) -> None:
    """Let the newest release be half-way, and the boxes be alive."""
    box, rollout, now = schema.box, schema.rollout, time.time()
    with engine.begin() as connection:
        connection.execute(
            update(rollout)
            .where(rollout.c.state == RolloutState.DONE)
            .values(state=RolloutState.BAKING, bp=5000)
        )
        connection.execute(
            update(box)
            .where(box.c.id % _SILENT != 0)
            .values(last_seen=now - box.c.id * 7919 % _HEARD)
        )


def _order(engine: Engine) -> None:
    """Order the rows as they would come in: a release at a time, not a box at a time."""
    if engine.dialect.name != "postgresql":
        return
    options = {"isolation_level": "AUTOCOMMIT"}
    with engine.connect().execution_options(**options) as connection:
        connection.execute(text("CLUSTER attempt USING ix_attempt_release_outcome_reason"))
        connection.execute(text("VACUUM (FULL, ANALYZE) box"))
        connection.execute(text("VACUUM ANALYZE attempt"))


def run(url: str) -> tuple[list[float], float]:
    """Return the seconds of each run, and the MB of memory that they needed more at the peak."""
    engine = make_engine(url)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    _peak()
    before = _peak()
    taken = [_run_once(engine) for _ in range(RUNS)]
    engine.dispose()
    return taken, _peak() - before


def _peak() -> float:
    """Return the MB of memory that this process has had at most since the last call."""
    status = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    Path("/proc/self/clear_refs").write_text("5")
    return int(kilobytes) / 1e3


def _run_once(engine: Engine) -> float:
    begun = time.perf_counter()
    with engine.connect() as connection:
        [assessment] = assess(connection, time.time(), Timing())
    assert assessment.evidence.boxes
    return time.perf_counter() - begun


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
