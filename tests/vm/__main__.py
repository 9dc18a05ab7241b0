"""Runs the scenarios and the power cuts: `make vm-test`."""

import argparse
import fcntl
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from attrs import frozen

from tests.vm import cuts, machine
from tests.vm.box import Prepared, VmBox
from tests.vm.cache import ROOT
from tests.vm.needs import missing
from tests.vm.prepare import prepare
from tests.vm.report import Broken, say
from tests.vm.scenarios import SCENARIOS

_CUTS = "power-cuts"
#: The scenario that measures the duration of each stage.
_REFERENCE = "update"
_DEFAULT_CUTS = 10

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


@frozen
class Outcome:
    """The result of a scenario."""

    name: str
    passed: bool
    text: str
    boots: int
    seconds: float


def main() -> int:
    """Run the chosen scenarios; return the exit code."""
    options = _parser().parse_args()
    if packages := missing():
        print(f"vm-test needs packages that are not installed: {', '.join(packages)}.")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"vm-test runs already in {options.folder}: wait, or give another --folder.")
            return 2
        return _run_all(options)


def _run_all(options: argparse.Namespace) -> int:
    started = time.monotonic()
    try:
        prepared = prepare(options.folder)
        say(f"The box is set up; that took {time.monotonic() - started:.0f} seconds.")
        names = options.only or [*SCENARIOS, _CUTS]
        passed = run(prepared, names, options)
    except Broken as error:
        say(f"failed: {error}")
        return 1
    finally:
        machine.switch_all_off()
    say(f"All of it took {(time.monotonic() - started) / 60:.0f} minutes.")
    return 0 if passed else 1


def run(prepared: Prepared, names: list[str], options: argparse.Namespace) -> bool:
    """Run the scenarios, then the power cuts; returns whether all passed."""
    runs = options.folder / "runs"
    scenarios = [name for name in SCENARIOS if name in names]
    with_cuts = _CUTS in names and options.cuts > 0
    if with_cuts and _REFERENCE not in scenarios and not prepared.durations.exists():
        scenarios.insert(0, _REFERENCE)
    passed = True
    for outcome in in_turn(lambda name: run_scenario(prepared, name, runs), scenarios, options):
        passed &= outcome.passed
        verdict = "passed" if outcome.passed else "failed"
        say(f"{verdict}: {outcome.name}: {outcome.text} ({_cost(outcome.boots, outcome.seconds)})")
    if with_cuts:
        passed &= run_cuts(prepared, runs, options)
    return passed


def run_scenario(prepared: Prepared, name: str, runs: Path) -> Outcome:
    """Run a scenario with a fresh box."""
    started = time.monotonic()
    boots, passed = 0, False
    try:
        with VmBox(prepared, runs / name) as box:
            try:
                text, passed = SCENARIOS[name](box), True
            finally:
                boots = box.machine.boots
    except Broken as error:
        text = f"{error} See {runs / name}."
    except Exception as error:
        # This is an error of the test itself or of the builder: other scenarios continue.
        text = f"{type(error).__name__}: {error}. See {runs / name}."
    return Outcome(name, passed, text, boots, time.monotonic() - started)


def run_cuts(prepared: Prepared, runs: Path, options: argparse.Namespace) -> bool:
    """Run the power cuts, and print a table."""
    if not prepared.durations.exists():
        say("failed: power-cuts: without the update no stage has a length.")
        return False
    took = json.loads(prepared.durations.read_text())
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    say(f"Cutting the power, with SEED={seed}.")
    say(cuts.HEADING)
    passed = True
    for row in in_turn(
        lambda cut: cuts.make(prepared, cut, took, runs / f"cut-{cut.number}"),
        [
            cut
            for cut in cuts.plan(seed, max([options.cuts, *options.row]), options.stage)
            if not options.row or cut.number in options.row
        ],
        options,
    ):
        passed &= row.whole
        say(row.line(seed))
    return passed


def in_turn(
    do: Callable[[_Given], _Result], items: Iterable[_Given], options: argparse.Namespace
) -> Iterable[_Result]:
    """Run a function for each item, so many at a time; yields the results as they come."""
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for ended in as_completed([pool.submit(do, item) for item in items]):
                yield ended.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            machine.switch_all_off()
            raise


def _cost(boots: int, seconds: float) -> str:
    return f"{boots} boots, {seconds:.0f} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--cuts", type=int, default=_DEFAULT_CUTS, help="how often")
    parser.add_argument("--seed", type=int, help="chooses the moments (default: another each time)")
    parser.add_argument(
        "--row", type=int, action="append", default=[], help="only this power cut of that seed"
    )
    parser.add_argument(
        "--stage",
        choices=[*dict.fromkeys(cuts.STAGES)],
        help="cut the power in this stage only; a box assembles an archive in downloading",
    )
    parser.add_argument("--jobs", type=int, default=1, help="machines that run at a time")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".vm", help="for what is kept between runs"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[*SCENARIOS, _CUTS],
        help="run this; can be given more than once (default: all)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
