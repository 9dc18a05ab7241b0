"""The steps of a rollout: its share after each of them."""

from sqlalchemy import Connection, func, select

from opq_twisted.fleet.store.schema import box
from opq_twisted.fleet.store.states import COUNTED
from opq_twisted.fleet.store.unindexed import unindexed
from opq_twisted.trust.pace import ALL

#: The shares after the first step, in basis points.
STEPS = (500, 2000, 5000, ALL)

#: The first step is for so many boxes, but for this share at least.
_FIRST_BOXES = 5
_FIRST_BP = 100


def first_step(connection: Connection, channel: str) -> int:
    """Return the share of the first step: 5 of the boxes that follow the channel, or 1 %."""
    follows = unindexed(box.c.channel) == channel
    query = select(func.count()).where(follows, box.c.state.in_(COUNTED))
    boxes = connection.execute(query).scalar_one()
    if not boxes:
        # No box has reported yet, but the fleet may be large.
        return _FIRST_BP
    return min(ALL, max(_FIRST_BP, -(-_FIRST_BOXES * ALL // boxes)))


def next_step(bp: int, first: int) -> int:
    """Return the share that follows a share below `ALL`."""
    return first if bp < first else next(step for step in STEPS if step > bp)
