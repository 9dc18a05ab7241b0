"""The orders of an operator or the engine to a rollout: hold, resume and widen."""

from attrs import evolve, frozen
from sqlalchemy import Connection

from opq_twisted.common.errors import OpqError
from opq_twisted.common.strict_json import MAX_NUMBER
from opq_twisted.common.wording import percent
from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.rollouts.rollout import Rollout, find, save
from opq_twisted.fleet.rollouts.steps import first_step, next_step
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.offer import is_channel

_S = RolloutState

#: The states in which an order may be given. A rollout at its ceiling is DONE.
#:
#:   hold:    BAKING, DONE -> HELD           the share is kept for `resume`
#:   resume:  HELD         -> BAKING, DONE   at the previous share, or a smaller one
#:   widen:   BAKING       -> BAKING, DONE   at a larger share
_ALLOWED = {
    "hold": frozenset({_S.BAKING, _S.DONE}),
    "resume": frozenset({_S.HELD}),
    "widen": frozenset({_S.BAKING}),
}

#: The reason why an order is refused, by the order and the state.
_REFUSED = {
    ("hold", _S.HELD): "is held already",
    ("resume", _S.BAKING): "is not held; to slow it, hold it and resume it at a smaller share",
    ("resume", _S.DONE): "is not held; to slow it, hold it and resume it at a smaller share",
    ("widen", _S.HELD): "is held: resume it first",
    ("widen", _S.DONE): "is offered to all boxes that the release key allows ({ceiling}); sign a "
    "larger share with: opq-release publish --rollout",
    ("hold", _S.SUPERSEDED): "is superseded: the channel names another release",
    ("resume", _S.SUPERSEDED): "is superseded: the channel names another release",
    ("widen", _S.SUPERSEDED): "is superseded: the channel names another release",
}


class OrderRefused(OpqError):
    """An order cannot be carried out; nothing was changed."""


class RolloutUnknown(OrderRefused):
    """No channel has named the release."""


@frozen(kw_only=True)
class Order:
    """An order to one rollout, with the reason in the note."""

    note: AuditNote
    release: int
    #: None if only one channel names the release.
    channel: str | None = None
    #: Seconds since the epoch.
    now: float


def hold(connection: Connection, order: Order) -> Rollout:
    """
    Stop a rollout: no box installs the release by itself any more.

    :raises OrderRefused: if it is held already, or superseded.
    """
    known = _find(connection, order, "hold")
    return _change(connection, order, "hold", known, evolve(known, state=_S.HELD))


def resume(connection: Connection, order: Order, at_bp: int | None = None) -> Rollout:
    """
    Let boxes install a held release again; results from before do not count any more.

    :param at_bp: the share, in basis points; by default the share before the hold.
    :raises OrderRefused: if the release is not held, or the share is larger than before the hold.
    """
    known = _find(connection, order, "resume")
    bp = known.bp if at_bp is None else at_bp
    if bp > known.ceiling_bp:
        raise _over_the_ceiling(known, bp)
    if bp > known.bp:
        raise _refused(known, f"was at {percent(known.bp)}: resume it first, then widen it")
    if at_bp is not None and known.critical:
        raise _refused(known, "is critical: boxes install it whatever its share is")
    if at_bp is not None and bp < 1:
        raise _refused(known, "would go to no box at this share: leave it held")
    resumed = evolve(known, state=_state_at(known, bp), bp=bp, acknowledged_at=order.now)
    return _change(connection, order, "resume", known, resumed)


def widen(connection: Connection, order: Order, to_bp: int | None = None) -> Rollout:
    """
    Let more boxes install a release.

    :param to_bp: the share, in basis points; by default the next step.
    :raises OrderRefused: if the release is held or superseded, or the share is not larger, or is
        larger than the release key allows.
    """
    known = _find(connection, order, "widen")
    if to_bp is not None and to_bp > known.ceiling_bp:
        raise _over_the_ceiling(known, to_bp)
    if known.bp == known.ceiling_bp:
        raise _refused(known, _REFUSED["widen", _S.DONE])
    if to_bp is not None and to_bp <= known.bp:
        raise _refused(
            known,
            f"is at {percent(known.bp)}, and widen cannot make the share smaller; to slow it, hold "
            "it and resume it at a smaller share",
        )
    bp = to_bp or next_step(known.bp, first_step(connection, known.channel))
    bp = min(bp, known.ceiling_bp)
    return _change(
        connection, order, "widen", known, evolve(known, state=_state_at(known, bp), bp=bp)
    )


def _find(connection: Connection, order: Order, what: str) -> Rollout:
    known = _named(connection, order)
    if not known:
        who = "No channel" if order.channel is None else f"No channel {order.channel[:40]!r}"
        raise RolloutUnknown(
            f"{who} has named release {order.release}: opq-fleet releases lists all "
            "releases that were named."
        )
    known = [each for each in known if not each.is_superseded] or known
    if len(known) > 1:
        names = ", ".join(each.channel for each in known)
        raise OrderRefused(
            f"Release {order.release} is in the channels {names}: name one with --channel."
        )
    if known[0].state not in _ALLOWED[what]:
        raise _refused(known[0], _REFUSED[what, known[0].state])
    return known[0]


def _named(connection: Connection, order: Order) -> list[Rollout]:
    channel = order.channel
    # A database fails for numbers and texts that it cannot store.
    if not 0 < order.release <= MAX_NUMBER or not (channel is None or is_channel(channel)):
        return []
    which = [rollout.c.release == order.release]
    if channel is not None:
        which.append(rollout.c.channel == channel)
    return find(connection, *which, to_change=True)


def _change(
    connection: Connection, order: Order, what: str, known: Rollout, changed: Rollout
) -> Rollout:
    changed = evolve(changed, since=order.now, sentence=order.note.because)
    save(connection, changed)
    record(
        connection,
        order.note,
        order.now,
        what=what,
        change=f"From {_describe(known)} to {_describe(changed)}.",
        channel=known.channel,
        release=known.release,
    )
    return changed


def _state_at(known: Rollout, bp: int) -> RolloutState:
    return _S.DONE if bp == known.ceiling_bp else _S.BAKING


def _describe(known: Rollout) -> str:
    return f"{known.state} at {percent(known.bp)}"


def _over_the_ceiling(known: Rollout, bp: int) -> OrderRefused:
    return _refused(
        known,
        f"may go to {{ceiling}} of the boxes, and not to {percent(bp)}; only the release key "
        "allows more: opq-release publish --rollout",
    )


def _refused(known: Rollout, clause: str) -> OrderRefused:
    clause = clause.format(ceiling=percent(known.ceiling_bp))
    return OrderRefused(f"Release {known.release} in the channel {known.channel} {clause}.")
