"""Describes the progress of the rollouts of a fleet in plain words."""

from collections.abc import Iterator, Mapping
from typing import Any

from opq_twisted.common import wording

Json = Mapping[str, Any]

#: The name of the engine in the audit.
_ENGINE = "engine"


class Narrator:
    """Compares the answers of `opq-fleet status`, and describes the differences."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """:param names: names of releases for people, such as "The good release"."""
        self._names = names
        self._known: Mapping[str, Json] = {}
        #: The `id` of the newest change that was described.
        self._last_change = 0

    def describe_news(self, status: Json) -> Iterator[str]:
        """Yield a sentence for each event since the last status."""
        known, self._known = self._known, {each["channel"]: each for each in status["channels"]}
        for rollout in self._known.values():
            before = known.get(rollout["channel"])
            is_same = before is not None and before["release"] == rollout["release"]
            yield from self._describe(before if is_same else None, rollout)
        yield from self._describe_changes(status)

    def _describe(self, before: Json | None, rollout: Json) -> Iterator[str]:
        """Describe the results of boxes: bad ones at once, good ones when no box is under way."""
        name = self._name(rollout["release"])
        if before is None:
            yield f"{name} begins with {_share(rollout)}."
        now = rollout["assessment"]
        well, bad, boxes = (now[each] for each in ("well", "bad", "boxes"))
        last = {"well": 0, "bad": 0} if before is None else before["assessment"]
        if bad > last["bad"]:
            reasons = ", ".join(f"{why} {number}" for why, number in now["bad_by_reason"].items())
            yield f"{name}: {bad} of {boxes} boxes {'is' if bad == 1 else 'are'} bad ({reasons})."
        elif well > last["well"] and not now["under_way"]:
            yield f"{name}: {well} of {boxes} boxes are well."

    def _describe_changes(self, status: Json) -> Iterator[str]:
        for change in reversed(status["changes"]):
            if change["id"] <= self._last_change:
                continue
            self._last_change = change["id"]
            rollout = self._known.get(change["channel"])
            if rollout is not None and rollout["release"] == change["release"]:
                yield from self._describe_change(change, rollout)

    def _describe_change(self, change: Json, rollout: Json) -> Iterator[str]:
        name, because = self._name(change["release"]), change["because"]
        if change["who"] != _ENGINE:
            yield f"{change['who']} decides about it: {change['what']}, because: {because}"
        elif change["what"] == "widen":
            yield f"{name} goes to {_share(rollout)}: {because}"
        elif change["what"] == "hold":
            yield f"{name} is held at {_share(rollout)}: {because}"
        elif change["what"] != "first-bad":
            yield f"{name}: {because}"

    def _name(self, release: int) -> str:
        return self._names.get(release, f"Release {release}")


def run_all(status: Json, release: int) -> bool:
    """Whether all boxes have reported that they run a release."""
    return bool(status["releases"] == [{"release": release, "boxes": status["boxes"]}])


def is_done(status: Json, release: int) -> bool:
    """Whether a release may go to all boxes, and all of them run it."""
    return _state_of(status, release) == "done" and run_all(status, release)


def is_held(status: Json, release: int) -> bool:
    """Whether a release is held."""
    return _state_of(status, release) == "held"


def _state_of(status: Json, release: int) -> str | None:
    return next((each["state"] for each in status["channels"] if each["release"] == release), None)


def _share(rollout: Json) -> str:
    return f"{wording.percent(rollout['bp'])} of the boxes"
