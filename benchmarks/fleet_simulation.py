"""Simulates rollouts in fleets of boxes in homes, and judges them by the engine and other rules."""

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context

from benchmarks.simulation.bars import missed
from benchmarks.simulation.homes import Homes
from benchmarks.simulation.plain_rules import RULES, PlainWalk
from benchmarks.simulation.result import Result
from benchmarks.simulation.scenarios import SCENARIOS, Scenario
from benchmarks.simulation.table import HEAD, row
from benchmarks.simulation.walk import Walk
from benchmarks.simulation.world import World

ENGINE = "engine"


def simulate(task: tuple[Scenario, int]) -> list[Result]:
    """Run one seed: the engine's walk, and those of the other rules in the same world."""
    # The boxes of a large fleet are many objects, and none is garbage before the end.
    gc.disable()
    homes = Homes(*task)
    results = [Walk(World(homes)).run()]
    results += [PlainWalk(World(homes), rule).run() for rule in RULES]
    gc.enable()
    return results


def scenarios(only: str | None) -> Iterator[Scenario]:
    """Give the scenarios whose names contain a text."""
    return (each for each in SCENARIOS if only is None or only in each.name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_simulation")
    parser.description = __doc__
    parser.add_argument("--seeds", type=int, default=200, help="rollouts of each kind (200)")
    parser.add_argument("--only", metavar="TEXT", help="the kinds whose names contain this")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    options = parser.parse_args()
    begun, sentences = time.monotonic(), []
    print(HEAD, flush=True)
    with get_context("spawn").Pool(options.jobs) as pool:
        for scenario in scenarios(options.only):
            tasks = [(scenario, seed) for seed in range(options.seeds)]
            by_seed = pool.map(simulate, tasks, chunksize=1)
            names = (ENGINE, *(rule.name for rule in RULES))
            for name, results in zip(names, zip(*by_seed, strict=True), strict=True):
                print(row(scenario, name, results), flush=True)
            engine = [results[0] for results in by_seed]
            sentences += [f"{scenario.name}: {each}" for each in missed(scenario, engine)]
    print(f"\n{options.seeds} seeds each, {time.monotonic() - begun:.0f} seconds.")
    for sentence in sentences:
        print(f"MISSED: {sentence}")
    sys.exit(bool(sentences))


if __name__ == "__main__":
    main()
