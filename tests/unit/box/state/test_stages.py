"""The tables of transitions say which stages follow each other, and nothing else."""

import os
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.state.stages import RESUMPTIONS, TRANSITIONS, Stage
from opq_twisted.box.update import reporting
from opq_twisted.box.update.reporting import TransitionError, check_transition
from opq_twisted.common.errors import (
    BoxAtFault,
    InstallFailed,
    NoRoom,
    OpqError,
    RebootFailed,
    ServerFailed,
    WronglyJoined,
)
from tests.helpers.box_fakes import NEW, NEWER, OLD, Bench
from tests.helpers.failing_disk import counting
from tests.helpers.time_zones import move_to

#: What the steps of an update may return, where that is more than None.
RESULTS: dict[str, list[int | None]] = {"newest": [NEW, NEW, OLD, None], "wait": [0, 0, None, 1]}

#: What the steps of an update may fail with.
ERRORS: dict[str, list[OpqError]] = {
    "newest": [ServerFailed("Nobody is there.")],
    "fetch": [ServerFailed("It is gone."), NoRoom("Make room.")],
    "verify": [WronglyJoined("What came has another SHA-256.")],
    "unpack": [NoRoom("Make room.")],
    "install": [InstallFailed("It ended with 1."), BoxAtFault("Make room.", touched=False)],
    "wait": [InstallFailed("It took too long.")],
    "judge": [InstallFailed("It is not healthy.")],
    "reboot": [RebootFailed("It cannot.")],
}

#: Walks that together take all transitions, found by trying; they save those that take few.
SEEDS = (397, 686, 10, 32, 73, 180, 227, 79, 87, 190, 251, 380, 817)


class Walk:
    """A box to which anything may happen, in any order."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.odds = (12, 2, 1, self.random.choice([1, 8]))
        self.boot = 0
        window = DailyWindow.parse("00:00-23:00")
        self.bench = Bench(folder, install="automatic", window=self.random.choice([None, window]))
        if self.random.random() < 0.8:
            self.bench.archives.keep_as_last_good(Release(OLD, None, {"sha256": "cd" * 32}))
        self.start()

    def start(self) -> None:
        self.bench.make_agent(f"boot {self.boot}")
        self.bench.health.asks = True
        self.bench.releases.answers_new_release = False
        if self.random.random() < 0.1:
            self.bench.archives.here = Release(NEW, 10, {"sha256": "ab" * 32})
        self.bench.start()

    def go(self) -> None:
        """Let one thing happen."""
        (event,) = self.random.choices([self.step, self.fail, self.wait, self.restart], self.odds)
        event()
        self.bench.clock.advance(0)

    def step(self) -> None:
        """Begin an update, or let the step that is under way succeed."""
        steps = self.bench.steps
        if steps.is_waiting:
            steps.succeed(self.random.choice(RESULTS.get(steps.names[-1], [None])))
        elif self.bench.updater.stage.at_rest:
            self.begin()
        else:
            self.bench.clock.advance(60)

    def begin(self) -> None:
        """Begin an update, if none is under way."""
        full = self.random.random() < 0.1
        with counting(1 if full else 1000):
            self.bench.updater.begin(automatic=self.random.random() < 0.5)

    def fail(self) -> None:
        """Let the step that is under way fail, and perhaps those that follow."""
        steps = self.bench.steps
        for _ in range(self.random.choice([1, 20])):
            errors = ERRORS.get(steps.names[-1] if steps.names else "", [])
            if steps.is_waiting and errors:
                steps.fail(self.random.choice(errors))
                self.bench.clock.advance(600)

    def wait(self) -> None:
        """Let a long time pass, in which each pause of an update ends."""
        self.bench.clock.pump([3600.0] * self.random.choice([1, 1, 80]))

    def restart(self) -> None:
        """Let the agent, or the box, be interrupted, or another release be there afterwards."""
        self.boot += self.random.random() < 0.6
        self.bench.set_installed(self.random.choice([OLD, NEW, NEW, NEWER]))
        if self.random.random() < 0.1:
            (self.bench.folder / "rescued").write_text(f"{OLD}\n")
        if self.random.random() < 0.05:
            self.bench.journal_path.write_bytes(b"garbage")
        self.start()


class TransitionTests(SynchronousTestCase):
    """Which stages follow each other."""

    def test_all(self) -> None:
        """Boxes to which anything may happen take all transitions of the tables, and no other."""
        self.patch(os, "fsync", lambda fd: None)
        # The walks depend on when the window is open.
        move_to(self, "UTC0")
        taken: set[tuple[Stage, Stage]] = set()
        self.patch(reporting, "check_transition", lambda *stages: taken.add(stages))
        allowed = {
            (before, after)
            for table in (TRANSITIONS, RESUMPTIONS)
            for before, afters in table.items()
            for after in afters
        }
        for seed in (*SEEDS, *range(1200)):
            walk = Walk(Path(self.mktemp()), seed)
            for _ in range(40):
                walk.go()
            if allowed <= taken:
                break
        self.assertEqual(taken, allowed)

    def test_wrong(self) -> None:
        """Another transition is logged as an error, and does not stop the update."""
        check_transition(Stage.CHECKING, Stage.DOWNLOADING)
        check_transition(Stage.CHECKING, Stage.INSTALLING)
        (failure,) = self.flushLoggedErrors(TransitionError)
        self.assertEqual(failure.getErrorMessage(), "The stage installing may not follow checking.")
