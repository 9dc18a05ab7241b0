"""Reads the file with the keys that an operator admits."""

import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from opq_twisted.common.errors import OpqError
from opq_twisted.common.strict_json import MAX_NUMBER

#: The limits of the bytes and of the lines of the file.
_MAX_SIZE = 1 << 20
_MAX_LINES = 10_000

#: An error lists at most so many wrong lines.
_MAX_MISTAKES = 20

_LINE = re.compile(r'"?([0-9]{1,16})"?\s*,\s*"?([0-9a-f]{32})"?', re.ASCII | re.IGNORECASE)
_TITLES = "box_id,fingerprint"


class FileInvalid(OpqError):
    """The file with keys is not in its format."""


@frozen
class Admission:
    """A key, the number of its box, and the number of the line."""

    line: int
    box_id: int
    key_id: str


def read_admissions(path: Path) -> Sequence[Admission]:
    """
    Read a file of lines BOX_ID,FINGERPRINT; the titles, comments and empty lines are skipped.

    :raises FileInvalid: with the numbers of all wrong lines.
    :raises OSError: if the file cannot be read.
    """
    found, mistakes = [], []
    for number, line in enumerate(_read_lines(path), 1):
        text = line.strip()
        if not text or text.startswith("#") or text.replace(" ", "").lower() == _TITLES:
            continue
        match = _LINE.fullmatch(text)
        if match is None or int(match[1]) > MAX_NUMBER:
            mistakes.append(number)
        else:
            found.append(Admission(number, int(match[1]), match[2].lower()))
    if mistakes:
        raise FileInvalid(
            f"{path}: not in the form BOX_ID,FINGERPRINT, a number and 32 hexadecimal digits: "
            f"line {_name(mistakes)}. Nothing was admitted."
        )
    if not found:
        raise FileInvalid(f"{path}: the file names no key.")
    return found


def _read_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        content = file.read(_MAX_SIZE + 1)
    lines = content.decode("utf-8-sig", "replace").splitlines()
    if len(content) > _MAX_SIZE or len(lines) > _MAX_LINES:
        raise FileInvalid(f"{path}: give at most {_MAX_LINES} lines at once.")
    return lines


def _name(mistakes: Sequence[int]) -> str:
    more = ", …" if len(mistakes) > _MAX_MISTAKES else ""
    return ", ".join(map(str, mistakes[:_MAX_MISTAKES])) + more
