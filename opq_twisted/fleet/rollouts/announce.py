"""What happens with the rollouts when a timestamp names its releases."""

from collections.abc import Callable, Mapping, Sequence

from attrs import evolve
from sqlalchemy import Connection, and_, or_, select

from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.rollouts.rollout import Rollout, add, find, percent, save
from opq_twisted.fleet.rollouts.steps import first_step
from opq_twisted.fleet.settings import Rollouts
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

#: Returns the share of the first step.
_FirstStep = Callable[[], int]


def announce(
    connection: Connection, releases: Sequence[ChannelRelease], mode: Rollouts, now: float
) -> Mapping[str, Pace]:
    """
    Bring the rollouts up to date with the signed metadata, and return the pace of each channel.

    A release that was signed again keeps its share, or gets the smaller one that was signed now. A
    held release stays held, whatever is signed, until an operator resumes it.

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
    """Return what `announce` would; None if it would change the database."""
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
    """Return the known rollouts and those of the releases, as they should be."""
    planned = {which: supersede(each, now) for which, each in known.items()}
    for release in releases:
        which = (release.channel, release.version)

        def first(channel: str = release.channel) -> int:
            return first_step(connection, channel)

        if which in known:
            before = known[which]
            if _has_lost_hold(connection, before, release):
                before = evolve(before, state=_S.HELD, since=now)
            planned[which] = go_on(before, release, mode, first, now)
        else:
            planned[which] = begin(release, mode, first, now)
    return planned


def _has_lost_hold(connection: Connection, before: Rollout, release: ChannelRelease) -> bool:
    """
    Whether the database is a backup from before a hold.

    The timestamp holds the release, and nobody has ever resumed it. Without this look, all boxes
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
    # With `ask`, a share that is signed later must not go out at once, whatever becomes of the
    # database until then.
    return {each.channel: each.pace for each in current if mode == "ask" or each.state != _S.DONE}


def supersede(before: Rollout, now: float) -> Rollout:
    """Return a rollout whose channel names another release, or none."""
    if before.is_superseded:
        return before
    return evolve(before, state=_S.SUPERSEDED, was_held=before.is_held, since=now)


def begin(release: ChannelRelease, mode: Rollouts, first: _FirstStep, now: float) -> Rollout:
    """Make the rollout of a release that the database does not know."""
    last, ceiling = release.last, release.ceiling_bp
    if release.critical or (last is None and mode == "off"):
        bp = ceiling
    else:
        # A timestamp names the release already if the database is new, or comes from a backup.
        bp = min(ceiling, first() if last is None else last.bp)
    held = last is not None and last.state == HELD
    return Rollout(
        channel=release.channel,
        release=release.version,
        sha256=release.sha256,
        ceiling_bp=ceiling,
        bp=bp,
        state=_S.HELD if held else _S.DONE if bp == ceiling else _S.BAKING,
        critical=release.critical,
        was_held=False,
        announced_at=now,
        since=now,
    )


def go_on(
    before: Rollout, release: ChannelRelease, mode: Rollouts, first: _FirstStep, now: float
) -> Rollout:
    """Continue the rollout of a release that the database knows."""
    is_other = before.sha256 not in (None, release.sha256)
    if before.is_superseded or (is_other and mode == "ask"):
        # Other bytes under the same version are another release for a step, but not for a hold.
        new = begin(release, mode, first, now)
        return evolve(new, state=_S.HELD) if before.is_held or before.was_held else new
    ceiling = release.ceiling_bp
    terms = evolve(before, ceiling_bp=ceiling, critical=release.critical, sha256=release.sha256)
    if before.is_held:
        return evolve(terms, bp=min(before.bp, ceiling))
    if release.critical or (before.state == _S.DONE and mode == "off"):
        return _at(terms, ceiling, _S.DONE, now)
    if before.state == _S.DONE and ceiling > before.ceiling_bp:
        bp = min(ceiling, max(before.bp, first()))
        return _at(terms, bp, _S.DONE if bp == ceiling else _S.BAKING, now)
    return evolve(terms, bp=min(before.bp, ceiling))


def _at(terms: Rollout, bp: int, state: RolloutState, now: float) -> Rollout:
    return evolve(terms, bp=bp, state=state, since=terms.since if terms.state == state else now)
