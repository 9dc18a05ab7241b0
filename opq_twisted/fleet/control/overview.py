"""Gathers the state of the fleet, or of a release, from the database, as JSON."""

from collections.abc import Collection, Mapping

from attrs import asdict
from sqlalchemy import Connection

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.control.rollouts import describe_rollouts
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.queries import pages
from opq_twisted.fleet.queries.census import count_running, take_census
from opq_twisted.fleet.rollouts.orders import RolloutUnknown
from opq_twisted.fleet.rollouts.rollout import find
from opq_twisted.fleet.rollouts.watch import current_rollouts
from opq_twisted.fleet.store.schema import rollout

#: So many releases are counted one by one: those that channels name, and the most common ones.
_RELEASES = 12

#: The number of changes by people that are shown.
_CHANGES = 5


def overview(connection: Connection, now: float, judge: Judge) -> Content:
    """
    Return the state of the fleet.

    :param now: seconds since the epoch.
    """
    current = current_rollouts(connection)
    silence = judge.silence(connection, now, {each.channel for each in current})
    census = take_census(connection, now, silence)
    return {
        "time": now,
        "rollouts": judge.mode,
        "channels": describe_rollouts(connection, current, now, judge, silence),
        **_releases(census.by_release, {each.release for each in current}),
        "waiting": dict(census.by_waiting),
        "needs": {name: asdict(each) for name, each in census.needs.items()},
        "changes": pages.list_changes(connection, None, _CHANGES),
        "held": any(each.is_held for each in current),
    }


def release_page(connection: Connection, release: int, now: float, judge: Judge) -> Content:
    """
    Return the state of a release in its channels.

    :raises RolloutUnknown: if no channel has named it, and no box runs it.
    """
    known = find(connection, rollout.c.release == release)
    boxes = count_running(connection, release)
    # At first, boxes run a release that is older than the fleet's database.
    if not known and not boxes:
        raise RolloutUnknown(
            f"No channel has named release {release}, and no box runs it: opq-fleet releases lists "
            "all releases that were named."
        )
    silence = judge.silence(connection, now, {each.channel for each in known})
    return {
        "time": now,
        "rollouts": judge.mode,
        "release": release,
        "channels": describe_rollouts(connection, known, now, judge, silence),
        "boxes": boxes,
        "bad": pages.list_bad_boxes(connection, release, silence),
        "changes": pages.list_changes(connection, None, _CHANGES, release),
        "held": any(each.is_held for each in known),
    }


def _releases(by_release: Mapping[int | None, int], current: Collection[int]) -> Content:
    # The most common ones and not the newest ones, because a box can report any number.
    known = sorted(
        (each for each in by_release if each is not None),
        key=lambda each: (each in current, by_release[each], each),
        reverse=True,
    )
    shown, others = sorted(known[:_RELEASES], reverse=True), known[_RELEASES:]
    return {
        "boxes": sum(by_release.values()),
        "releases": [{"release": each, "boxes": by_release[each]} for each in shown],
        "others": sum(by_release[each] for each in others),
        "unknown": by_release.get(None, 0),
    }
