"""Fills a database with a fleet that has lived through several releases."""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Table, insert, text
from twisted.internet import reactor

from benchmarks.simulated_boxes import SimulatedBox
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.schema import attempt, box, rollout
from opq_twisted.fleet.store.states import BoxState, RolloutState
from opq_twisted.report.codes import Outcome, Reason, Waiting
from opq_twisted.report.signature import key_id
from opq_twisted.trust.pace import ALL

#: Rows of one statement.
_ROWS = 5000

#: Seconds between two releases.
WEEK = 7 * 86400

#: The release before the first one that has attempts.
FIRST = 1547860803

#: The share of the boxes that have got the newest release so far, in hundredths of a percent.
_DRAWN = 5000

#: Seconds for which that has been so.
_BAKED = 12 * 3600

#: Seconds between the reports of a box that waits for its turn, and of the others.
_OFTEN, _DAILY = 3 * 3600, 86400

#: Of so many boxes one is away for days.
_AWAY = 50

_Row = dict[str, Any]


def fill(
    database: Database, boxes: Sequence[SimulatedBox], releases: int, now: float, seed: int = 1
) -> None:
    """
    Write boxes, each with an attempt for each of so many releases, and the rollouts of these.

    The last release has got to half of the boxes. Attempts are in the order of time.
    """
    chosen = random.Random(seed)
    versions = [FIRST + WEEK * number for number in range(releases + 1)]
    _write(database, box, (_box(chosen, each, versions, now) for each in boxes))
    _write(database, rollout, _rollouts(versions, now))
    _write(
        database,
        attempt,
        (
            _attempt(chosen, each.number, before, version, now - WEEK * (len(versions) - index))
            for index, (before, version) in enumerate(pairwise(versions), 1)
            for each in boxes
            if version != versions[-1] or _is_drawn(each)
        ),
    )
    if database.engine.dialect.name == "postgresql":
        _vacuum(database)


def _write(database: Database, table: Table, rows: Iterator[_Row]) -> None:
    """Write rows, so many at once that few are in memory."""
    part: list[_Row] = []
    for row in rows:
        part.append(row)
        if len(part) == _ROWS:
            _insert(database, table, part)
            part = []
    if part:
        _insert(database, table, part)


def _insert(database: Database, table: Table, rows: list[_Row]) -> None:
    is_postgresql = database.engine.dialect.name == "postgresql"
    database.write_now(
        lambda connection: (_copy if is_postgresql else _add)(connection, table, rows)
    )


def _add(connection: Connection, table: Table, rows: list[_Row]) -> None:
    connection.execute(insert(table), rows)


def _copy(connection: Connection, table: Table, rows: list[_Row]) -> None:
    """Do as `_add`, ten times as fast."""
    names = ", ".join(rows[0])
    cursor = connection.connection.cursor()
    with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([_converted(name, value) for name, value in row.items()])
    if "id" in rows[0]:
        last = "SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)"
        cursor.execute(last, (table.name, rows[-1]["id"]))


def _vacuum(database: Database) -> None:
    """Do what autovacuum does by and by: otherwise counts and reports read all attempts."""
    options = {"isolation_level": "AUTOCOMMIT"}
    with database.engine.connect().execution_options(**options) as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))


def _converted(name: str, value: Any) -> Any:
    return bytes.fromhex(value) if name == "attempt_id" else value


def _box(chosen: random.Random, simulated: SimulatedBox, versions: list[int], now: float) -> _Row:
    is_new = _is_drawn(simulated)
    pause = _DAILY if is_new else _OFTEN
    is_away = simulated.number % _AWAY == 0
    last_seen = now - chosen.random() * (14 * 86400 if is_away else pause)
    return {
        "id": simulated.number,
        "key_id": key_id(simulated.public),
        "pubkey": simulated.public,
        "box_id": simulated.number,
        "state": BoxState.KNOWN,
        "channel": "stable",
        "release": versions[-1 if is_new else -2],
        "agent": "0.3",
        "arch": "aarch64",
        "python": "3.11",
        "install": "automatic",
        "waiting": None if is_new else Waiting.TURN,
        "root": 3,
        "snapshot": len(versions),
        "last_good": versions[-1 if is_new else -2],
        "refused": "[]",
        "boot": f"{simulated.number:08x}",
        "boots": "[]",
        "seq": simulated.seq,
        "digest": chosen.randbytes(32),
        "first_seen": now - WEEK * len(versions),
        "last_seen": last_seen,
        "due": last_seen + pause,
    }


def _is_drawn(simulated: SimulatedBox) -> bool:
    """Whether it has got the last release."""
    return simulated.number * 7919 % ALL < _DRAWN


def _rollouts(versions: list[int], now: float) -> Iterator[_Row]:
    for index, version in enumerate(versions):
        at = now - WEEK * (len(versions) - index)
        last = version == versions[-1]
        yield {
            "channel": "stable",
            "release": version,
            "sha256": f"{version:064x}",
            "ceiling_bp": ALL,
            "bp": _DRAWN if last else ALL,
            "state": RolloutState.BAKING if last else RolloutState.SUPERSEDED,
            "critical": False,
            "was_held": False,
            "announced_at": at,
            "since": now - _BAKED if last else at,
        }


def _attempt(chosen: random.Random, number: int, before: int, version: int, at: float) -> _Row:
    outcome, reason = _outcome(chosen.random())
    received = at + chosen.random() * WEEK
    took = chosen.randrange(60, 900)
    return {
        "box": number,
        "attempt_id": f"{chosen.getrandbits(128):032x}",
        "release": version,
        "from_release": before,
        "began": int(received),
        "took": took,
        "automatic": True,
        "stage": "idle" if outcome else "installing",
        "outcome": outcome,
        "reason": reason,
        "inferred": False,
        "tries": 1,
        "fetched": 141500,
        "size": 12300000,
        "received": received,
        "ended_at": received + took if outcome else None,
    }


def _outcome(lot: float) -> tuple[str | None, str | None]:
    for share, outcome, reason in (
        (0.001, None, None),
        (0.004, Outcome.RETURNED, Reason.UNHEALTHY_SERVICE),
        (0.006, Outcome.FAILED, Reason.INSTALL_STATUS),
        (0.02, Outcome.FAILED, Reason.DOWNLOAD),
        (0.025, Outcome.FAILED, Reason.NO_ROOM),
    ):
        if lot < share:
            return outcome, reason
    return Outcome.UPDATED, None


def main() -> None:
    """Fill the database of the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url", help="sqlite:///PATH or a migrated postgresql://…")
    arguments.add_argument("--boxes", type=int, default=100_000)
    arguments.add_argument("--releases", type=int, default=12)
    options = arguments.parse_args()
    database = Database(reactor, options.url)
    database.prepare()
    boxes = [SimulatedBox(number) for number in range(1, options.boxes + 1)]
    fill(database, boxes, options.releases, time.time())


if __name__ == "__main__":
    main()
