"""The first step of a fleet whose size is known."""

from opq_twisted.trust.pace import ALL


def first_share(boxes: int) -> int:
    """Return the share of the first step, as `rollouts.steps.first_step`: 5 boxes, or 1 %."""
    return min(ALL, max(100, -(-5 * ALL // boxes)))
