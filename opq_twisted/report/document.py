"""The content of a report: what a box runs, and how its attempts to update ended."""

import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from attrs import frozen

from opq_twisted.common.errors import OpqError

#: The only format there is.
FORMAT = 1

#: Bytes of a whole report.
MAX_SIZE = 16 * 1024

#: Attempts in one report: a box keeps so many.
MAX_ATTEMPTS = 20

#: Blocked releases in one report.
MAX_REFUSED = 100

#: The largest number that every JSON reader keeps exactly (RFC 8259, section 6).
MAX_NUMBER = 2**53 - 1

_T = TypeVar("_T")

_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)
ATTEMPT_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PUBKEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PROOF = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BOOT = re.compile(r"[0-9a-f]{1,32}", re.ASCII)
WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}", re.ASCII)


class ReportInvalid(OpqError):
    """A report is not in the format that this program reads; the text names the field."""


class Outcome(StrEnum):
    """How an attempt ended. Once an attempt has an outcome, it keeps it."""

    #: The release was confirmed after the reboot.
    UPDATED = "updated"
    #: The box went back to the last good release.
    RETURNED = "returned"
    #: Nothing was installed, or the box could not go back.
    FAILED = "failed"


class Reason(StrEnum):
    """Why an attempt did not succeed; the class of the error that ended it has one of these."""

    # The release is to blame.
    ARCHIVE = "archive"
    INSTALL_STATUS = "install-status"
    INSTALL_TIMEOUT = "install-timeout"
    NOT_INSTALLED = "not-installed"
    UNHEALTHY_SERVICE = "unhealthy-service"
    UNHEALTHY_VERIFY = "unhealthy-verify"
    FELL_OVER = "fell-over"
    AGENT_AGAIN = "agent-again"
    RESCUED = "rescued"
    # The box or the network is to blame.
    SERVER = "server"
    DOWNLOAD = "download"
    CONTENT = "content"
    CLOCK = "clock"
    STALE = "stale"
    UNTRUSTED = "untrusted"
    NO_ROOM = "no-room"
    DISK = "disk"
    BUSY = "busy"
    INTERRUPTED = "interrupted"
    REBOOT = "reboot"
    NO_WAY_BACK = "no-way-back"
    RETURN_FAILED = "return-failed"
    AGENT_ERROR = "agent-error"


#: The reasons that count against a release.
RELEASE_AT_FAULT = frozenset(
    {
        Reason.ARCHIVE,
        Reason.INSTALL_STATUS,
        Reason.INSTALL_TIMEOUT,
        Reason.NOT_INSTALLED,
        Reason.UNHEALTHY_SERVICE,
        Reason.UNHEALTHY_VERIFY,
        Reason.FELL_OVER,
        Reason.AGENT_AGAIN,
        Reason.RESCUED,
    }
)


class Waiting(StrEnum):
    """What a box waits for that knows of a release and does not install it now."""

    TURN = "turn"
    HELD = "held"
    CLICK = "click"
    WINDOW = "window"
    MEASUREMENT = "measurement"
    REFUSED = "refused"
    CLOCK = "clock"
    STALE = "stale"
    UNTRUSTED = "untrusted"
    SERVER = "server"


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
    """What a box says of itself."""

    #: The id of its key: see `report.signature.key_id`.
    key: str
    #: Grows with each report.
    seq: int
    #: Its number in the configuration; 0: it has none.
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
    #: Changes with each start of the machine.
    boot: str
    arch: str
    python: str
    waiting: str | None
    last_good: int | None
    #: The blocked releases.
    refused: tuple[int, ...] = ()
    #: The oldest first.
    attempts: tuple[AttemptReport, ...] = ()
    #: The public key in hexadecimal, while the server does not know it; and the proof that the box
    #: knows the token of the fleet: see `report.signature.proof_of`.
    pubkey: str | None = None
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


def parse(body: bytes) -> Report:
    """
    Read a report that came over the network; fields that are not known are ignored.

    :raises ReportInvalid: if it is too large, not JSON, of another format, or a field is missing or
        has a wrong type or an impossible value.
    """
    if len(body) > MAX_SIZE:
        raise ReportInvalid(f"The report is larger than {MAX_SIZE} bytes.")
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ReportInvalid("The report is not JSON.") from None
    fields = _Fields(content, "")
    if fields.get("format", _whole) != FORMAT:
        raise ReportInvalid(f"The report is not of format {FORMAT}.")
    attempts = fields.get("attempts", _list_of(lambda item: item, MAX_ATTEMPTS))
    return Report(
        key=fields.get("key", _text(_KEY)),
        seq=fields.get("seq", _whole),
        box=fields.get("box", _whole),
        agent=fields.get("agent", _text(VERSION)),
        release=fields.optional("release", _whole),
        channel=fields.get("channel", _text(WORD)),
        install=fields.get("install", _text(WORD)),
        root=fields.optional("root", _whole),
        snapshot=fields.optional("snapshot", _whole),
        boot=fields.get("boot", _text(_BOOT)),
        arch=fields.get("arch", _text(VERSION)),
        python=fields.get("python", _text(VERSION)),
        waiting=fields.optional("waiting", _text(WORD)),
        last_good=fields.optional("last_good", _whole),
        refused=fields.get("refused", _list_of(_whole, MAX_REFUSED)),
        attempts=tuple(
            _parse_attempt(_Fields(item, f"attempts[{index}]."))
            for index, item in enumerate(attempts)
        ),
        pubkey=fields.optional("pubkey", _text(_PUBKEY)),
        proof=fields.optional("proof", _text(_PROOF)),
    )


class _Fields:
    """The fields of an object in a report."""

    def __init__(self, content: object, path: str) -> None:
        self._path = path
        if not isinstance(content, dict):
            raise ReportInvalid(f"{path.rstrip('.') or 'The report'} is not an object.")
        self._content: Mapping[str, Any] = content

    def get(self, name: str, read: Callable[[Any], _T]) -> _T:
        """Read a required field."""
        if name not in self._content:
            raise ReportInvalid(f"{self._path}{name} is missing.")
        return self._read(name, read)

    def optional(self, name: str, read: Callable[[Any], _T]) -> _T | None:
        """Read a field that may be missing, or null."""
        return None if self._content.get(name) is None else self._read(name, read)

    def _read(self, name: str, read: Callable[[Any], _T]) -> _T:
        try:
            return read(self._content[name])
        except ValueError:
            raise ReportInvalid(f"{self._path}{name} has a value that is not allowed.") from None


def _parse_attempt(fields: _Fields) -> AttemptReport:
    return AttemptReport(
        id=fields.get("id", _text(ATTEMPT_ID)),
        release=fields.optional("release", _whole),
        previous=fields.optional("from", _whole),
        began=fields.get("began", _whole),
        took=fields.get("took", _whole),
        automatic=fields.get("automatic", _flag),
        stage=fields.get("stage", _text(WORD)),
        outcome=fields.optional("outcome", _text(WORD)),
        reason=fields.optional("reason", _text(WORD)),
        tries=fields.get("tries", _whole),
        fetched=fields.optional("fetched", _whole),
        size=fields.optional("size", _whole),
    )


def _attempt_json(attempt: AttemptReport) -> dict[str, Any]:
    content = _plain(attempt)
    return {"from" if name == "previous" else name: value for name, value in content.items()}


def _plain(value: Report | AttemptReport, *without: str) -> dict[str, Any]:
    names = [each.name for each in type(value).__attrs_attrs__ if each.name not in without]
    return {name: getattr(value, name) for name in names}


def _no_constant(name: str) -> NoReturn:
    # NaN and Infinity are not JSON (RFC 8259, section 6).
    raise ValueError(name)


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _text(pattern: re.Pattern[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError
        return value

    return read


def _list_of(read: Callable[[Any], _T], most: int) -> Callable[[object], tuple[_T, ...]]:
    def read_all(value: object) -> tuple[_T, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError
        return tuple(map(read, value))

    return read_all
