"""Brings the times of rollouts back after the clock of a server was ahead."""

from sqlalchemy import Connection, update

from opq_twisted.fleet.store.schema import rollout


def bring_back(connection: Connection, now: float) -> None:
    """
    Replace times that are still to come.

    A step that began in a year would last a year.

    :param now: seconds since the epoch.
    """
    for column in (rollout.c.announced_at, rollout.c.since, rollout.c.acknowledged_at):
        connection.execute(update(rollout).where(column > now).values({column: now}))
