"""Reads the changes of a rollout's share from the audit."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from opq_twisted.fleet.store.schema import audit

#: So many of the last changes of a rollout are read.
_MOST = 200

_CHANGES = ("hold", "resume", "widen")

#: Parses the text that `rollouts.orders` writes: `From baking at 1 % to held at 1 %.`
_CHANGE = re.compile(r"(?:From ([a-z]+) at ([0-9.]+) % to|To) ([a-z]+) at ([0-9.]+) %\.")


def read_shares(
    connection: Connection, channel: str, release: int, announced_at: float
) -> Sequence[Mapping[str, Any]]:
    """
    Return the shares of a rollout in the order of time, in basis points (hundredths of a percent).

    The result is empty while nobody has changed the rollout.

    :param announced_at: seconds since the epoch.
    """
    query = (
        select(audit.c.at, audit.c.change)
        .where(audit.c.release == release, audit.c.channel == channel, audit.c.what.in_(_CHANGES))
        .order_by(audit.c.id.desc())
        .limit(_MOST)
    )
    shares: list[Mapping[str, Any]] = []
    for at, text in reversed(connection.execute(query).all()):
        found = _CHANGE.fullmatch(text)
        if found is None:
            continue
        before, bp_before, state, bp = found.groups()
        if not shares and before is not None:
            shares.append(_share(announced_at, before, bp_before))
        shares.append(_share(at, state, bp))
    return shares


def _share(at: float, state: str, percent: str) -> Mapping[str, Any]:
    return {"at": at, "held": state == "held", "bp": round(100 * float(percent))}
