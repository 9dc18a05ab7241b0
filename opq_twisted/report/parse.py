"""Reads a report that came over the network."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from opq_twisted.common import strict_json
from opq_twisted.common.errors import OpqError
from opq_twisted.report.document import (
    ATTEMPT_ID,
    FORMAT,
    MAX_ATTEMPTS,
    MAX_REFUSED,
    MAX_SIZE,
    VERSION,
    WORD,
    AttemptReport,
    Report,
)

_T = TypeVar("_T")

_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PUBKEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PROOF = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BOOT = re.compile(r"[0-9a-f]{1,32}", re.ASCII)


class ReportInvalid(OpqError):
    """A report is not in the format that this program reads; the text names the field."""


def parse(body: bytes) -> Report:
    """
    Read a report that came over the network; unknown fields are ignored.

    :raises ReportInvalid: if it is too large, not JSON, of another format, or a field is missing or
        has a wrong type or an impossible value.
    """
    if len(body) > MAX_SIZE:
        raise ReportInvalid(f"The report is larger than {MAX_SIZE} bytes.")
    try:
        content = strict_json.parse(body)
    except ValueError:
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
        next_in=fields.optional("next_in", _whole),
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


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= strict_json.MAX_NUMBER:
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
