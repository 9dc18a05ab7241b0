"""Rows of boxes, attempts and rollouts for tests of what the fleet's database shows."""

from typing import Any

from sqlalchemy import Connection, insert

from opq_twisted.fleet.store.schema import attempt, box, notice, rollout
from opq_twisted.fleet.store.states import BoxState, RolloutState
from opq_twisted.fleet.webhook.outbox import Event, Notice, make_body
from opq_twisted.trust.pace import ALL

#: Two releases, and the time at which everything happens.
OLD, NEW = 1547860803, 1547947203
NOW = 1_800_000_000.0


def add_box(connection: Connection, number: int, **columns: Any) -> int:
    """Add a key of the box with a number, and return its row number."""
    values = box_values(number, **columns)
    made = connection.execute(insert(box).values(values).returning(box.c.id))
    return int(made.scalar_one())


def box_values(number: int, **columns: Any) -> dict[str, Any]:
    """Return the columns of such a key: many are inserted at once in less time."""
    return {
        "key_id": f"{number:032x}",
        "pubkey": number.to_bytes(32, "big"),
        "box_id": number,
        "state": BoxState.KNOWN,
        "channel": "stable",
        "release": OLD,
        "agent": "0.3",
        "arch": "aarch64",
        "install": "automatic",
        "refused": "[]",
        "seq": 1,
        "first_seen": NOW - 30 * 86400,
        "last_seen": NOW - 60,
        **columns,
    }


def add_attempt(
    connection: Connection, row: int, outcome: str | None, reason: str | None = None, **columns: Any
) -> None:
    """Add an attempt of a row of `box` to install the new release."""
    values = attempt_values(row, outcome, reason, **columns)
    connection.execute(insert(attempt).values(values))


def attempt_values(
    row: int, outcome: str | None, reason: str | None = None, **columns: Any
) -> dict[str, Any]:
    """Return the columns of such an attempt: many are inserted at once in less time."""
    number = columns.pop("number", row)
    return {
        "box": row,
        "attempt_id": f"{number:032x}",
        "release": NEW,
        "from_release": OLD,
        "began": int(NOW) - 900,
        "took": 200,
        "automatic": True,
        "stage": "idle" if outcome else "installing",
        "outcome": outcome,
        "reason": reason,
        "inferred": False,
        "tries": 1,
        "received": NOW - 900,
        "ended_at": None if outcome is None else NOW - 700,
        **columns,
    }


def add_rollout(connection: Connection, release: int = NEW, **columns: Any) -> None:
    """Add a rollout of a release."""
    values = {
        "channel": "stable",
        "release": release,
        "sha256": "00" * 32,
        "ceiling_bp": ALL,
        "bp": 500,
        "state": RolloutState.BAKING,
        "critical": False,
        "was_held": False,
        "announced_at": NOW - 3600,
        "since": NOW - 3600,
        **columns,
    }
    connection.execute(insert(rollout).values(values))


def add_messages(connection: Connection, number: int, next_at: float = NOW) -> None:
    """Add messages for the webhook, numbered from 0."""
    rows = [
        {
            "at": NOW,
            "body": make_body(NOW, Notice(Event.HELD, f"message {each}")),
            "tries": 0,
            "next_at": next_at,
        }
        for each in range(number)
    ]
    connection.execute(insert(notice), rows)
