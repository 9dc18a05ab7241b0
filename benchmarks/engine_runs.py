"""Runs the engine on a database as a process would, and measures that."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from sqlalchemy import Engine, text

from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.store.engine import make_engine

#: Runs of which the median is taken; the first one also fills the caches.
RUNS = 5


def measure_runs(url: str) -> tuple[list[float], float]:
    """
    Return the seconds of each run, and the MB of memory that they needed at the peak.

    A process of their own runs them: this one may have needed much memory before.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_run, url).result()


def _run(url: str) -> tuple[list[float], float]:
    engine, judge = make_engine(url), Judge(mode="auto")
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    _peak()
    before = _peak()
    taken = [_run_once(engine, judge) for _ in range(RUNS)]
    engine.dispose()
    return taken, _peak() - before


def _peak() -> float:
    """Return the MB of memory that this process has had at most since the last call."""
    status = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    Path("/proc/self/clear_refs").write_text("5")
    return int(kilobytes) / 1e3


def _run_once(engine: Engine, judge: Judge) -> float:
    begun = time.perf_counter()
    with engine.connect() as connection:
        [assessment] = judge.assess(connection, time.time())
    assert assessment.evidence.boxes
    return time.perf_counter() - begun
