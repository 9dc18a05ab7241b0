"""The content of a report: the release of a box, and the results of its attempts to update."""

import json
import re
from typing import Any

from attrs import frozen

#: The number of the format; there is only one.
FORMAT = 1

#: The limit of bytes of a report.
MAX_SIZE = 16 * 1024

#: The limit of attempts in one report: a box keeps only the last ones.
MAX_ATTEMPTS = 20

#: The limit of blocked releases in one report.
MAX_REFUSED = 100

#: A report without `next_in` promises the next one within so many seconds; no report can promise a
#: longer time.
DEFAULT_NEXT_IN = 24 * 3600

#: The patterns of the fields that an agent reads from files or the system.
ATTEMPT_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}", re.ASCII)


@frozen(kw_only=True)
class AttemptReport:
    """
    One attempt to update.

    Stage, outcome and reason are the values of `Stage`, `Outcome` and `Reason`; a newer agent may
    send others.
    """

    #: 32 random hexadecimal digits, made when the attempt begins.
    id: str
    #: The release that it installs; None if it ended before it knew that.
    release: int | None
    #: The release that ran when it began; None if unknown. Its key is `from`.
    previous: int | None
    #: Seconds since the epoch, by the clock of the box.
    began: int
    #: Seconds until its end, or until this report.
    took: int
    #: Whether it began without a click.
    automatic: bool
    stage: str
    #: None while it is under way.
    outcome: str | None = None
    reason: str | None = None
    tries: int = 1
    #: Bytes of the archive, and how many of them were fetched; None if unknown.
    fetched: int | None = None
    size: int | None = None


@frozen(kw_only=True)
class Report:
    """The report of a box about itself."""

    #: The id of its key: see `report.signature.key_id`.
    key: str
    #: Grows with each report.
    seq: int
    #: The `box_id` of its configuration; 0 if it has none.
    box: int
    #: The version of its agent.
    agent: str
    #: The release that runs; None if unknown.
    release: int | None
    channel: str
    #: `click` or `automatic`.
    install: str
    #: The versions of its root and snapshot metadata; None without signatures.
    root: int | None
    snapshot: int | None
    #: A random id of the machine's last start.
    boot: str
    arch: str
    python: str
    waiting: str | None
    last_good: int | None
    #: The blocked releases.
    refused: tuple[int, ...] = ()
    #: The oldest first.
    attempts: tuple[AttemptReport, ...] = ()
    #: The box promises its next report within so many seconds; None means a day. If it breaks the
    #: promise, the server counts it as missing.
    next_in: int | None = None
    #: The public key in hexadecimal, until the server knows it.
    pubkey: str | None = None
    #: The proof that the box knows the token of the fleet: see `report.signature.proof_of`.
    proof: str | None = None

    def to_json(self) -> bytes:
        """Write the report as it is signed and sent."""
        content = {"format": FORMAT, **_plain(self, "attempts", "pubkey", "proof")}
        content["refused"] = list(self.refused)
        content["attempts"] = [_attempt_json(each) for each in self.attempts]
        content |= {
            name: value
            for name, value in (("pubkey", self.pubkey), ("proof", self.proof))
            if value is not None
        }
        return json.dumps(content, separators=(",", ":")).encode()


def _attempt_json(attempt: AttemptReport) -> dict[str, Any]:
    content = _plain(attempt)
    return {"from" if name == "previous" else name: value for name, value in content.items()}


def _plain(value: Report | AttemptReport, *without: str) -> dict[str, Any]:
    names = [each.name for each in type(value).__attrs_attrs__ if each.name not in without]
    return {name: getattr(value, name) for name in names}
