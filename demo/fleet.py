"""Shows a fleet: a good release is rolled out to all boxes, and a bad one is held."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from demo.fates import Fate
from demo.fleet_programs import FleetPrograms
from demo.narrator import Json, Narrator, is_done, is_held, run_all
from demo.programs import ROOT, kill_orphans
from demo.signer import Signer
from demo.small_releases import make_release
from demo.terminal import DemoFailed, say, step
from opq_twisted.archive.name import UpdateName

#: The numbers of the boxes.
NUMBERS = range(1, 26)

#: The shares of the first steps of a rollout; the last step is for all boxes.
SHARES = (0.2, 0.5)

#: The fates of the boxes that install the bad release, in turn.
BAD = (*3 * (Fate.RETURNED,), *2 * (Fate.SILENT,))

#: The limit of seconds for each rollout with --click; without it, a person may hold one.
TIMEOUT = 120.0

_DAY = 86400
_POLL_INTERVAL = 0.5


class FleetDemo:
    """A server, small boxes and the keys to their releases, in one folder."""

    def __init__(self, folder: Path, click: bool) -> None:
        self._folder = folder
        self._click = click
        self._signer = Signer(folder)
        self._bad = int(time.time())
        self._good = self._bad - _DAY
        self._old = self._good - _DAY
        self._narrator = Narrator({self._good: "The good release", self._bad: "The bad release"})

    def show(self) -> int:
        """Publish a good release and a bad one, and print the progress of their rollouts."""
        name = self._folder.relative_to(ROOT)
        say(f"An update server, {len(NUMBERS)} small boxes and keys, all in {name}.")
        say("Nothing else is changed.")
        with step("1/4 Making the keys that the boxes trust"):
            self._signer.make_keys()
        with step("2/4 Making a good release and a bad one"):
            good, bad = (self._make_release(each) for each in (self._good, self._bad))
        with ExitStack() as running:
            running.callback(kill_orphans)
            fleet = FleetPrograms(self._folder, self._signer, running)
            with step("3/4 Starting the server"):
                fleet.start_server()
            with step("4/4 Starting the small boxes, and admitting their keys"):
                fleet.start_boxes(NUMBERS, self._old, {self._bad: BAD})
                self._wait(fleet, lambda status: run_all(status, self._old))
            say("\nThe rollouts are on the page of the fleet:")
            say(f"\n    http://localhost:{fleet.page.port}/fleet\n")
            say(f"Its operator is {fleet.page.name}, with the password {fleet.page.password}.")
            say(
                "An hour of a real rollout takes a second here: a step lasts 24 seconds. A box that"
            )
            say("is installing is silent if it sends no report for 6 seconds.\n")
            return self._tell_story(fleet, good, bad)

    def _tell_story(self, fleet: FleetPrograms, good: Path, bad: Path) -> int:
        self._publish(good, "Every box can run it")
        self._wait(fleet, lambda status: is_done(status, self._good))
        self._publish(bad, "No box can run it")
        status = self._wait(fleet, lambda status: is_held(status, self._bad))
        spared = status["boxes"] - status["channels"][0]["assessment"]["boxes"]
        _tell(f"{spared} boxes have not tried it, and stay on the good release.")
        if self._click:
            return 0
        say("\nCtrl-C ends the demo. Until then, your decisions on the page are printed here.\n")
        self._wait(fleet, lambda _: False)
        raise AssertionError

    def _make_release(self, version: int) -> Path:
        return make_release(version, self._folder / str(version), NUMBERS, SHARES)

    def _publish(self, archive: Path, truth: str) -> None:
        """
        Offer a release to all boxes.

        :param truth: a sentence about the release that the server does not know.
        """
        self._signer.publish(archive)
        _tell(f"Release {UpdateName.parse(archive.name).version} is published. {truth}.")

    def _wait(self, fleet: FleetPrograms, is_over: Callable[[Json], bool]) -> Json:
        """
        Print all events until `is_over`; return the last status.

        :raises DemoFailed: if it takes too long, or a program has ended.
        """
        deadline = time.monotonic() + (TIMEOUT if self._click else math.inf)
        while time.monotonic() < deadline:
            status = fleet.status()
            for line in self._narrator.describe_news(status):
                _tell(line)
            if is_over(status):
                return status
            time.sleep(_POLL_INTERVAL)
        raise DemoFailed(
            f"This takes more than {TIMEOUT:.0f} seconds; see {self._folder / 'server.log'}."
        )


def _tell(line: str) -> None:
    say(f"{time.strftime('%H:%M:%S')}  {line}")
