"""Says whether the engine does in a scenario as well as it has to."""

from collections.abc import Iterator, Sequence

from benchmarks.simulation.result import Result
from benchmarks.simulation.scenarios import Failing, Scenario

#: Days of the walk of a good release.
_LONGEST_WALK = 6.0

#: Bad boxes that are counted before a release is held that is bad for every box.
_MOST_BAD = 5


def missed(scenario: Scenario, results: Sequence[Result]) -> Iterator[str]:
    """Give what is not as it has to be, in sentences."""
    held = [each for each in results if each.held is not None]
    share = len(held) / len(results)
    if scenario.fake_hours > 24:
        return
    if scenario.outage is not None and held:
        yield f"An outage held it in {len(held)} of {len(results)} rollouts."
    elif scenario.is_good and share > 0.01:
        yield f"It was held wrongly in {share:.1%} of the rollouts."
    if scenario.bad < 0.01 and scenario.boxes >= 50:
        walks = [each.walk for each in results]
        if any(walk is None or walk > _LONGEST_WALK for walk in walks):
            yield f"Not all walks ended within {_LONGEST_WALK:.0f} days."
    # Fewer than 50 boxes tell too little.
    if scenario.bad >= 0.05 and scenario.boxes >= 50 and share < 0.99:
        yield f"It was held in {share:.1%} only."
    if scenario.bad == 1.0 and scenario.boxes >= 50 and any(each.step > 0 for each in held):
        yield "It was held after the first step."
    # Silence is judged when all boxes of the step have begun. Of 100,000 boxes, several fail in the
    # same second as the first ones; and about a few boxes it asks first.
    most = max((each.bad for each in held), default=0)
    is_quick = scenario.failing is Failing.MIXED and scenario.boxes == 5000
    if scenario.bad == 1.0 and is_quick and most > _MOST_BAD:
        yield f"Up to {most} bad boxes were counted."
