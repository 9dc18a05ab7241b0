"""The new state of a rollout when a timestamp names its release, or another one."""

from collections.abc import Callable

from attrs import evolve

from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.settings import Rollouts, begins_small
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.pace import HELD, ChannelRelease

_S = RolloutState

#: Returns the share of the first step, for which all boxes of the channel are counted.
FirstStep = Callable[[], int]


def supersede(before: Rollout, now: float) -> Rollout:
    """Return a rollout whose channel names another release, or none."""
    if before.is_superseded:
        return before
    return evolve(before, state=_S.SUPERSEDED, was_held=before.is_held, since=now)


def begin(release: ChannelRelease, mode: Rollouts, first: FirstStep, now: float) -> Rollout:
    """Make the rollout of a release that the database does not know."""
    last, ceiling = release.last, release.ceiling_bp
    if release.critical or (last is None and not begins_small(mode)):
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


def carry_on(
    before: Rollout, release: ChannelRelease, mode: Rollouts, first: FirstStep, now: float
) -> Rollout:
    """
    Continue the rollout of a release that the database knows.

    If the archive was replaced under the same version, earlier results do not count any more.
    """
    is_other = before.sha256 not in (None, release.sha256)
    acknowledged_at = now if is_other else before.acknowledged_at
    if before.is_superseded or (is_other and begins_small(mode)):
        # A replaced archive begins at the first step again, but a held one stays held.
        new = evolve(begin(release, mode, first, now), acknowledged_at=acknowledged_at)
        if before.is_held or before.was_held:
            return evolve(new, state=_S.HELD, sentence=before.sentence)
        return new
    ceiling = release.ceiling_bp
    terms = evolve(
        before,
        ceiling_bp=ceiling,
        critical=release.critical,
        sha256=release.sha256,
        acknowledged_at=acknowledged_at,
    )
    if before.is_held:
        return evolve(terms, bp=min(before.bp, ceiling))
    if release.critical or (before.state == _S.DONE and not begins_small(mode)):
        return _at(terms, ceiling, _S.DONE, now)
    if before.state == _S.DONE and ceiling > before.ceiling_bp:
        bp = min(ceiling, max(before.bp, first()))
        return _at(terms, bp, _S.DONE if bp == ceiling else _S.BAKING, now)
    return evolve(terms, bp=min(before.bp, ceiling))


def _at(terms: Rollout, bp: int, state: RolloutState, now: float) -> Rollout:
    if terms.state == state:
        return evolve(terms, bp=bp)
    return evolve(terms, bp=bp, state=state, since=now, sentence=None)
