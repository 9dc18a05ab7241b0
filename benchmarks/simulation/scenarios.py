"""What happens to the simulated fleets, and what a rule should do about it."""

from enum import Enum

from attrs import Factory, frozen

from benchmarks.simulation.absences import HOUR, Habits


class Failing(Enum):
    """How a bad release fails on a box."""

    #: Most boxes return to the last good release, some refuse it early, some fall silent.
    MIXED = "mixed"
    #: The box runs it, and has no network any more.
    SILENT = "silent"


@frozen(kw_only=True)
class Outage:
    """Boxes cannot reach the server, in the middle of the installations of a step."""

    #: Of the boxes.
    share: float
    #: Seconds, by chance between the two.
    shortest: float
    longest: float
    #: Whether the server itself is down.
    is_server: bool = False


@frozen(kw_only=True)
class Scenario:
    """A fleet and a release."""

    name: str
    boxes: int = 5000
    #: The share of the boxes on which it fails, and how.
    bad: float = 0.002
    failing: Failing = Failing.MIXED
    outage: Outage | None = None
    #: Keys of no box that report a failure at once, and for how many hours they are known before
    #: the announcement.
    fake_keys: int = 0
    fake_hours: float = 1.0
    habits: Habits = Factory(Habits)

    @property
    def is_good(self) -> bool:
        """Whether it is wrong to hold the release."""
        return self.bad <= 0.01


_SERVER = Outage(share=1.0, shortest=12 * HOUR, longest=12 * HOUR, is_server=True)
_THIRD = Outage(share=1 / 3, shortest=8 * HOUR, longest=24 * HOUR)

SCENARIOS = (
    Scenario(name="5,000 boxes, good"),
    Scenario(name="5,000 boxes, 1 % bad", bad=0.01),
    Scenario(name="5,000 boxes, 2 % bad", bad=0.02),
    Scenario(name="5,000 boxes, 5 % bad", bad=0.05),
    Scenario(name="5,000 boxes, 20 % bad", bad=0.20),
    Scenario(name="5,000 boxes, every box bad", bad=1.0),
    Scenario(name="5,000 boxes, 5 % silent", bad=0.05, failing=Failing.SILENT),
    Scenario(name="5,000 boxes, every box silent", bad=1.0, failing=Failing.SILENT),
    Scenario(name="5,000 boxes, good, server down for 12 h", outage=_SERVER),
    Scenario(name="5,000 boxes, good, internet out for a third", outage=_THIRD),
    Scenario(
        name="5,000 boxes, good, internet out for a twelfth",
        outage=Outage(share=1 / 12, shortest=8 * HOUR, longest=24 * HOUR),
    ),
    Scenario(name="5,000 boxes, good, 100 fake keys", fake_keys=100),
    Scenario(name="5,000 boxes, good, 100 older fake keys", fake_keys=100, fake_hours=48.0),
    Scenario(name="5,000 boxes, good, a third off at night", habits=Habits(nightly=0.33)),
    Scenario(name="30 boxes, good", boxes=30),
    Scenario(name="30 boxes, 5 % bad", boxes=30, bad=0.05),
    Scenario(name="30 boxes, every box bad", boxes=30, bad=1.0),
    Scenario(name="30 boxes, good, internet out for a third", boxes=30, outage=_THIRD),
    Scenario(name="100,000 boxes, good", boxes=100_000),
    Scenario(name="100,000 boxes, 5 % bad", boxes=100_000, bad=0.05),
    Scenario(name="100,000 boxes, every box bad", boxes=100_000, bad=1.0),
    Scenario(name="100,000 boxes, good, internet out for a third", boxes=100_000, outage=_THIRD),
)
