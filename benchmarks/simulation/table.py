"""Writes the results of the simulated rollouts as a table in Markdown."""

from collections.abc import Sequence
from statistics import median

from benchmarks.simulation.result import Result
from benchmarks.simulation.scenarios import Scenario

HEAD = (
    "| fleet and release | rule | held | wrongly | bad boxes when held | boxes that began it | "
    "in the first step | asked | days to all boxes |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def row(scenario: Scenario, rule: str, results: Sequence[Result]) -> str:
    """Return the row of a scenario and a rule; medians, and the largest in brackets."""
    held = [each for each in results if each.held is not None]
    walks = [each.walk for each in results if each.walk is not None]
    cells = (
        scenario.name,
        rule,
        _share(len(held), len(results)),
        _share(len(held), len(results)) if scenario.is_good else "",
        _middle([each.bad for each in held]),
        _middle([each.boxes for each in results]),
        _share(sum(each.step == 0 for each in held), len(held)) if held else "",
        _share(sum(each.asked for each in results), len(results)),
        f"{median(walks):.1f} ({max(walks):.1f})" if walks else "",
    )
    return f"| {' | '.join(cells)} |"


def _share(count: int, all_of_them: int) -> str:
    return f"{100 * count / all_of_them:.1f} %".replace(".0 %", " %")


def _middle(numbers: Sequence[int]) -> str:
    return f"{median(numbers):,.0f} ({max(numbers):,})" if numbers else ""
