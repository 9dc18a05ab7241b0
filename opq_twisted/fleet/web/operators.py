"""The people and programs that may use the page of the fleet, as lines of a file."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from attrs import frozen

from opq_twisted.common.errors import OpqError
from opq_twisted.http.guards.password import PasswordHash

#: The limit of bytes of the file.
MAX_FILE = 256 * 1024

#: An error lists at most so many mistakes.
_MAX_MISTAKES = 5

#: Names are shown on terminals, and HTTP basic authentication allows no colon in them.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)

#: The audit uses these names for decisions of the server itself.
_RESERVED = ("engine",)

_TOKEN = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)

#: The end of an error.
_REMEDY = "Write lines with opq-fleet add-operator or add-token."


class OperatorsInvalid(OpqError):
    """The operators' file has a mistake, so no line of it is used."""


class Role(StrEnum):
    """The rights of a person or a program."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@frozen
class TokenHash:
    """
    The SHA-256 of a program's token.

    A token is 32 random bytes, which nobody can guess, so a slow hash is not necessary.
    """

    digest: str

    @classmethod
    def of(cls, token: str) -> "TokenHash":
        """Hash a token."""
        return cls(hashlib.sha256(token.encode()).hexdigest())

    def __str__(self) -> str:
        """Return it as it is written in the file."""
        return f"sha256:{self.digest}"


@frozen
class Operator:
    """A person or a program that may use the page."""

    name: str
    role: Role
    secret: PasswordHash | TokenHash

    def __str__(self) -> str:
        """Return the line of the file."""
        return f"{self.name} {self.role} {self.secret}"


def parse(text: str) -> Mapping[str, Operator]:
    """
    Parse the file; empty lines and those that begin with # are skipped.

    :returns: the operators by name.
    :raises OperatorsInvalid: with the numbers of the lines that are wrong.
    """
    found: dict[str, Operator] = {}
    mistakes = []
    for number, line in _lines(text):
        try:
            operator = _parse_line(line)
            if operator.name in found:
                raise OperatorsInvalid(f"the name {operator.name} is there twice")
        except OperatorsInvalid as error:
            mistakes.append(f"line {number}: {error}")
        else:
            found[operator.name] = operator
    if mistakes:
        more = len(mistakes) - _MAX_MISTAKES
        rest = f"; and {more} more" if more > 0 else ""
        raise OperatorsInvalid(f"{'; '.join(mistakes[:_MAX_MISTAKES])}{rest}. {_REMEDY}")
    return found


def with_operator(text: str, operator: Operator) -> str:
    """Return the file with an operator added; another one with the same name is replaced."""
    return f"{without(text, operator.name)}{operator}\n"


def without(text: str, name: str) -> str:
    """Return the file without an operator; comments and all other lines stay."""
    kept = [line for line in text.splitlines() if line.split()[:1] != [name]]
    return "".join(f"{line}\n" for line in kept)


def require_name(name: str) -> None:
    """Raise `OperatorsInvalid` if an operator cannot have this name."""
    if not _NAME.fullmatch(name):
        raise OperatorsInvalid(
            f"{name[:80]!r} cannot be the name of an operator: a name has 1 to 64 letters, digits "
            "and characters of . _ @ + -, and begins with a letter or a digit"
        )
    if name in _RESERVED:
        raise OperatorsInvalid(f"{name!r} is reserved for decisions of the server")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _parse_line(line: str) -> Operator:
    parts: Sequence[str] = line.split()
    if len(parts) != 3:
        raise OperatorsInvalid("there must be a name, a role and a hash, with spaces between them")
    name, role, secret = parts
    require_name(name)
    if role not in tuple(Role):
        raise OperatorsInvalid(f"the role of {name} must be viewer or operator")
    return Operator(name, Role(role), _parse_secret(name, secret))


def _parse_secret(name: str, text: str) -> PasswordHash | TokenHash:
    token = _TOKEN.fullmatch(text)
    if token is not None:
        return TokenHash(token[1])
    hashed = PasswordHash.parse(text)
    if hashed is None:
        raise OperatorsInvalid(f"the hash of {name} is none that this program understands")
    return hashed
