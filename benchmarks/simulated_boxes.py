"""Boxes that exist only as keys and rows: they sign reports, and fill a database of the fleet."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from itertools import islice

from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Table, insert

from opq_twisted.fleet.store import schema
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.report.document import AttemptReport, Report
from opq_twisted.report.signature import HEADER, key_id, sign

#: The first release, and the seconds between two.
FIRST, INTERVAL = 1_700_000_000, 30 * 86_400

#: Rows of one INSERT.
_BATCH = 5_000


@define
class SimulatedBox:
    """A box with a key that follows from its number."""

    number: int
    seq: int = 0
    _key: Ed25519PrivateKey = field(init=False)
    public: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        seed = hashlib.sha256(b"box %d" % self.number).digest()
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def address(self) -> str:
        """An address of its own, as a proxy would pass it on."""
        number = self.number + 1
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def report(self, release: int, attempts: tuple[AttemptReport, ...] = ()) -> Report:
        """Make its next report."""
        self.seq += 1
        return Report(
            key=key_id(self.public),
            seq=self.seq,
            box=self.number + 1,
            agent="0.3.0",
            release=release,
            channel="stable",
            install="automatic",
            root=1,
            snapshot=12,
            boot="5be1c0aa",
            arch="aarch64",
            python="3.11",
            waiting=None,
            last_good=release,
            attempts=attempts,
        )

    def request(self, report: Report) -> bytes:
        """Sign a report; returns the HTTP request, as a proxy would pass it on."""
        body = report.to_json()
        head = (
            f"POST /report HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
            f"X-Forwarded-For: {self.address}\r\n{HEADER}: {sign(self._key, body)}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def attempt_of(box: int, release: int, outcome: str | None = "updated") -> AttemptReport:
    """Make the attempt of a box to install a release."""
    return AttemptReport(
        id=uuid.uuid5(uuid.NAMESPACE_OID, f"{box} {release}").hex,
        release=release,
        previous=release - INTERVAL,
        began=release + 3600,
        took=240,
        automatic=True,
        stage="idle" if outcome else "installing",
        outcome=outcome,
        reason="unhealthy-service" if outcome == "returned" else None,
        fetched=141_500,
        size=12_300_000,
    )


def fill(connection: Connection, boxes: list[SimulatedBox], releases: int, now: float) -> None:
    """Insert the boxes, and one attempt of each for each release; one in 100 has returned."""
    newest = FIRST + (releases - 1) * INTERVAL
    _insert(connection, schema.box, (_box_row(box, newest, now) for box in boxes))
    rows = (
        _attempt_row(box, FIRST + index * INTERVAL) for index in range(releases) for box in boxes
    )
    _insert(connection, schema.attempt, rows)


def _insert(connection: Connection, table: Table, rows: Iterator[dict[str, object]]) -> None:
    while batch := list(islice(rows, _BATCH)):
        connection.execute(insert(table), batch)


def _box_row(box: SimulatedBox, release: int, now: float) -> dict[str, object]:
    return {
        "id": box.number + 1,
        "key_id": key_id(box.public),
        "pubkey": box.public,
        "box_id": box.number + 1,
        "state": BoxState.KNOWN,
        "channel": "stable",
        "release": release,
        "agent": "0.3.0",
        "arch": "aarch64",
        "python": "3.11",
        "install": "automatic",
        "root": 1,
        "snapshot": 12,
        "last_good": release,
        "refused": json.dumps([]),
        "boot": "5be1c0aa",
        "boots": json.dumps(["5be1c0aa"]),
        "seq": 0,
        "digest": hashlib.sha256(box.public).digest(),
        "first_seen": now - 90 * 86_400,
        "last_seen": now - box.number % 86_400,
    }


def _attempt_row(box: SimulatedBox, release: int) -> dict[str, object]:
    returned = (box.number + release) % 100 == 0
    attempt = attempt_of(box.number, release, "returned" if returned else "updated")
    return {
        "box": box.number + 1,
        "attempt_id": attempt.id,
        "release": release,
        "from_release": attempt.previous,
        "began": attempt.began,
        "took": attempt.took,
        "automatic": True,
        "stage": attempt.stage,
        "outcome": attempt.outcome,
        "reason": attempt.reason,
        "inferred": False,
        "tries": 1,
        "fetched": attempt.fetched,
        "size": attempt.size,
        "received": release + 3600.0,
        "ended_at": release + 3900.0,
    }
