"""Brings the times of rollouts back that come from a clock which is ahead."""

from sqlalchemy import Connection, update

from opq_twisted.fleet.store.schema import rollout


def bring_back(connection: Connection, now: float) -> None:
    """
    Replace times that are still to come by the clock of the process that judges the rollouts.

    Another server's clock may be some seconds ahead, or this one's was a year ahead: then a step
    would last a year, and no attempt would count after a `resume`.

    :param now: seconds since the epoch.
    """
    for column in (rollout.c.announced_at, rollout.c.since, rollout.c.acknowledged_at):
        connection.execute(update(rollout).where(column > now).values({column: now}))
