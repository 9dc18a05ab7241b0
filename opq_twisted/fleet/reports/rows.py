"""The rows of boxes and attempts that a batch of reports reads and writes, as values."""

from attrs import Factory, frozen

from opq_twisted.fleet.store.states import BoxState
from opq_twisted.report.document import Report


@frozen(kw_only=True)
class StoredBox:
    """The columns of a key that are necessary to check its next report."""

    #: The number of the row; 0 while there is none.
    row: int = 0
    key_id: str
    pubkey: bytes | None
    state: str = BoxState.KNOWN
    boot: str | None = None
    #: The earlier starts of the machine, the oldest first.
    boots: tuple[str, ...] = ()
    seq: int = 0
    #: The SHA-256 of the last report; None if there was none.
    digest: bytes | None = None
    first_seen: float | None = None
    last_seen: float | None = None
    cloned_at: float | None = None
    replaced_by: int | None = None
    #: When the next report is due.
    due: float | None = None


@frozen(kw_only=True)
class StoredAttempt:
    """A row of the table of attempts."""

    box: int
    attempt_id: str
    release: int | None
    from_release: int | None
    began: int
    took: int
    automatic: bool
    stage: str
    outcome: str | None
    reason: str | None
    inferred: bool = False
    tries: int
    fetched: int | None
    size: int | None
    received: float
    ended_at: float | None = None


@frozen
class Changes:
    """The rows that a batch writes."""

    #: The last accepted report of each box.
    boxes: list[tuple[StoredBox, Report]] = Factory(list)
    new_attempts: list[StoredAttempt] = Factory(list)
    old_attempts: list[StoredAttempt] = Factory(list)
