"""Prepares the charts of the overview, and the tables beside them."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from opq_twisted.fleet.web.views.charts import Chart, Series, bars, stacked_area

#: The bad outcomes, and the classes of their bars.
_BAD = (("returned", "bad"), ("failed", "bad2"), ("silent", "bad3"))

_Numbers = Sequence[int | None]


def describe_history(history: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return the values of the template; there are no charts before the first day is over.

    :param history: the result of `queries.history.read_history`.
    """
    outcomes = history["outcomes"]
    if all(each is None for each in outcomes["updated"]):
        return {"adoption": None}
    days = [_day(each) for each in history["days"]]
    shown = [*_releases(history)]
    return {
        "days": days,
        "legend": [(series.name, label, release) for series, label, release in shown],
        "adoption": _adoption([series for series, _, _ in shown]),
        "adoption_rows": _rows(days, [series.values for series, _, _ in shown]),
        "updated": _updated(outcomes),
        "unwell": _unwell(outcomes),
        "outcome_rows": _rows(
            days, [outcomes[name] for name in ("updated", *(name for name, _ in _BAD))]
        ),
    }


def _releases(history: Mapping[str, Any]) -> Iterator[tuple[Series, str, int | None]]:
    for place, each in enumerate(history["releases"]):
        yield Series(f"s{place}", each["boxes"]), str(each["release"]), each["release"]
    if any(history["others"]):
        yield Series("s6", history["others"]), "others", None


def _adoption(series: Sequence[Series]) -> Chart:
    return stacked_area(
        "Releases, 30 days",
        "The boxes that reported on each day, by the release that they ran, the newest at the top.",
        series,
    )


def _updated(outcomes: Mapping[str, _Numbers]) -> Chart:
    return bars(
        "Updated boxes a day",
        "The successful attempts of each day.",
        [Series("well", outcomes["updated"])],
    )


def _unwell(outcomes: Mapping[str, _Numbers]) -> Chart:
    return bars(
        "Bad outcomes a day",
        "The attempts of each day after which a box went back, failed, or fell silent.",
        [Series(style, outcomes[name]) for name, style in _BAD],
    )


def _rows(days: Sequence[str], series: Sequence[_Numbers]) -> Sequence[tuple[str, _Numbers]]:
    """Return a row of each day, the last one first."""
    rows = [(day, [each[number] for each in series]) for number, day in enumerate(days)]
    return rows[::-1]


def _day(text: str) -> str:
    return f"{date.fromisoformat(text):%-d %b}"
