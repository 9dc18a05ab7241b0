"""Updates the rollouts in the database when a new timestamp is about to name releases."""

from collections.abc import Mapping, Sequence

from attrs import evolve
from sqlalchemy import Connection, and_, or_, select

from opq_twisted.common.wording import percent
from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.rollouts.rollout import Rollout, add, find, save
from opq_twisted.fleet.rollouts.steps import first_step
from opq_twisted.fleet.rollouts.transitions import begin, carry_on, supersede
from opq_twisted.fleet.settings import Rollouts, begins_small
from opq_twisted.fleet.store.schema import audit, rollout
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.pace import HELD, ChannelRelease, Pace

_S = RolloutState

#: The states of a rollout that boxes follow.
_GOING = (_S.BAKING, _S.DONE)

_RESTORER = AuditNote(
    who="opq-update-server",
    because="The signed timestamp holds it, and nobody has resumed it: the database is an older "
    "backup.",
)


def announce(
    connection: Connection, releases: Sequence[ChannelRelease], mode: Rollouts, now: float
) -> Mapping[str, Pace]:
    """
    Update the rollouts from the signed metadata, and return the pace of each channel.

    A release that was signed again keeps its share, unless a smaller one is signed now. A held
    release stays held until an operator resumes it.

    :param releases: the release of each channel that the timestamp is going to name.
    :param now: seconds since the epoch.
    """
    known = _find(connection, releases, to_change=True)
    planned = _plan(connection, known, releases, mode, now)
    for which, each in planned.items():
        if which not in known:
            add(connection, each)
        elif each != known[which]:
            save(connection, each)
            if each.is_held and known[which].state in _GOING:
                _record_hold(connection, each, now)
    return _paces(planned, releases, mode)


def look_up(
    connection: Connection, releases: Sequence[ChannelRelease], mode: Rollouts
) -> Mapping[str, Pace] | None:
    """Return the result of `announce`; None if `announce` would change the database."""
    known = _find(connection, releases)
    planned = _plan(connection, known, releases, mode, 0)
    return _paces(planned, releases, mode) if planned == known else None


_Which = tuple[str, int]


def _find(
    connection: Connection, releases: Sequence[ChannelRelease], *, to_change: bool = False
) -> dict[_Which, Rollout]:
    """Find the rollouts of these releases, and all others that are not superseded."""
    columns = rollout.c
    named = (
        and_(columns.channel == each.channel, columns.release == each.version) for each in releases
    )
    found = find(connection, or_(columns.state != _S.SUPERSEDED.value, *named), to_change=to_change)
    return {(each.channel, each.release): each for each in found}


def _plan(
    connection: Connection,
    known: Mapping[_Which, Rollout],
    releases: Sequence[ChannelRelease],
    mode: Rollouts,
    now: float,
) -> dict[_Which, Rollout]:
    """Return the new states of the known rollouts, and of those of the releases."""
    planned = {which: supersede(each, now) for which, each in known.items()}
    for release in releases:
        which = (release.channel, release.version)

        def first(channel: str = release.channel) -> int:
            return first_step(connection, channel)

        if which in known:
            before = known[which]
            if _has_lost_hold(connection, before, release):
                before = evolve(before, state=_S.HELD, since=now, sentence=_RESTORER.because)
            planned[which] = carry_on(before, release, mode, first, now)
        else:
            planned[which] = begin(release, mode, first, now)
    return planned


def _has_lost_hold(connection: Connection, before: Rollout, release: ChannelRelease) -> bool:
    """
    Whether the database is a backup from before a hold.

    The timestamp holds the release, and nobody has ever resumed it. Without this, all boxes
    would install it as soon as the backup is restored, before an operator can hold it again.
    """
    if before.state not in _GOING or release.last is None or release.last.state != HELD:
        return False
    resumed = select(audit.c.id).where(
        audit.c.what == "resume",
        audit.c.channel == release.channel,
        audit.c.release == release.version,
    )
    return connection.scalar(resumed.limit(1)) is None


def _record_hold(connection: Connection, held: Rollout, now: float) -> None:
    record(
        connection,
        _RESTORER,
        now,
        what="hold",
        change=f"To {held.state} at {percent(held.bp)}.",
        channel=held.channel,
        release=held.release,
    )


def _paces(
    planned: Mapping[_Which, Rollout], releases: Sequence[ChannelRelease], mode: Rollouts
) -> dict[str, Pace]:
    current = [planned[each.channel, each.version] for each in releases]
    # A larger share that is signed later must begin small, even if the database is lost before.
    is_small = begins_small(mode)
    return {each.channel: each.pace for each in current if is_small or each.state != _S.DONE}
