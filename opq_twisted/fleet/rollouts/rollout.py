"""The rollout of a release in a channel, as it is in the database."""

from typing import Any

from attrs import asdict, frozen
from sqlalchemy import Connection, Row, select, update

from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.pace import BAKING, HELD, Pace


@frozen(kw_only=True)
class Rollout:
    """The share of a channel's boxes that may install a release; in basis points (bp)."""

    channel: str
    release: int
    sha256: str | None
    #: The share that the release key has signed.
    ceiling_bp: int
    #: The share that may install it now; while it is held, the share before the hold.
    bp: int
    state: RolloutState
    #: Whether it is for all boxes at once, whatever the share.
    critical: bool
    #: Whether it was held when another release superseded it.
    was_held: bool
    #: When the channel first named it, in seconds since the epoch.
    announced_at: float
    #: The time of the last change of its state or share, in seconds since the epoch.
    since: float
    #: When an operator resumed it, or its archive was replaced; results from before do not count.
    acknowledged_at: float | None = None
    #: The reason for this state; None if nobody has given one.
    sentence: str | None = None

    @property
    def is_held(self) -> bool:
        """Whether no box installs it by itself."""
        return self.state == RolloutState.HELD

    @property
    def is_superseded(self) -> bool:
        """Whether the channel names another release."""
        return self.state == RolloutState.SUPERSEDED

    @property
    def pace(self) -> Pace:
        """Its entry in the timestamp."""
        return Pace(self.release, self.bp, HELD if self.is_held else BAKING)


def find(connection: Connection, *conditions: Any, to_change: bool = False) -> list[Rollout]:
    """
    Return the rollouts that meet the conditions, by channel, the newest release first.

    :param to_change: whether other transactions must wait with their changes of these rollouts.
    """
    query = select(rollout).where(*conditions)
    query = query.order_by(rollout.c.channel, rollout.c.release.desc())
    if to_change:
        query = query.with_for_update()
    return [_of(row) for row in connection.execute(query)]


def add(connection: Connection, new: Rollout) -> None:
    """Write a rollout that is not in the database."""
    connection.execute(rollout.insert().values(_columns(new)))


def save(connection: Connection, changed: Rollout) -> None:
    """Write a rollout that is in the database already."""
    which = (rollout.c.channel == changed.channel) & (rollout.c.release == changed.release)
    connection.execute(rollout.update().where(which).values(_columns(changed)))


def bring_back_times(connection: Connection, now: float) -> None:
    """
    Replace times in the future by the present time of the process that judges the rollouts.

    Another server's clock may be some seconds ahead, or this one's may have been a year ahead. Then
    a step would last a year, and after a `resume` no attempt would count.

    :param now: seconds since the epoch.
    """
    for column in (rollout.c.announced_at, rollout.c.since, rollout.c.acknowledged_at):
        connection.execute(update(rollout).where(column > now).values({column: now}))


def _of(row: Row[Any]) -> Rollout:
    fields = {**row._mapping, "state": RolloutState(row.state)}
    del fields["id"]
    return Rollout(**fields)


def _columns(each: Rollout) -> dict[str, Any]:
    return {**asdict(each), "state": each.state.value}
