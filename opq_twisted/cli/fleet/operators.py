"""The commands of `opq-fleet` about who may use the page; no server need run."""

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from opq_twisted.cli.program import say, say_json, say_line, warn
from opq_twisted.cli.secret_prompt import not_utf8, read_secret
from opq_twisted.common import files
from opq_twisted.common.errors import PasswordUnusable
from opq_twisted.fleet.web.operators import (
    MAX_FILE,
    Operator,
    OperatorsInvalid,
    Role,
    TokenHash,
    parse,
    require_name,
    with_operator,
    without,
)
from opq_twisted.http.guards.password import MAX_PASSWORD, PasswordHash

#: The shortest password that is accepted, and the shortest one without a warning (NIST SP
#: 800-63B-4, section 3.1.1.2: at least 15 if the password is the only protection).
_MIN_PASSWORD, _SHORT = 8, 15

#: The limit of bytes of a line, and the bytes of a token.
_MAX_LINE, _TOKEN = 4096, 32

#: The mode of a new file: the server may be in its group.
_MODE = 0o640


def operators(options: argparse.Namespace) -> None:
    """List the people and programs that may use the page of the fleet."""
    for each in _parse(options.operators, _read(options.operators)).values():
        kind = "token" if isinstance(each.secret, TokenHash) else "password"
        if options.json:
            say_json({"name": each.name, "role": each.role, "secret": kind})
        else:
            say_line(f"{each.name:<20}  {each.role:<8}  {kind}")


def add_operator(options: argparse.Namespace) -> None:
    """Let a person use the page of the fleet, or change the password or the role of one."""
    _require_name(options.name)
    password = _read_password(options.name)
    operator = Operator(options.name, Role(options.role), PasswordHash.of(password))
    _change(options.operators, lambda text: with_operator(text, operator))
    if len(password) < _SHORT:
        warn(f"The password is shorter than {_SHORT} characters: add some words.")
    _say_done(options, f"{operator.name} may use the page of the fleet as {operator.role}.")


def add_token(options: argparse.Namespace) -> None:
    """Let a program use the page of the fleet, and print its token, which is stored nowhere."""
    _require_name(options.name)
    token = secrets.token_urlsafe(_TOKEN)
    operator = Operator(options.name, Role(options.role), TokenHash.of(token))
    _change(options.operators, lambda text: with_operator(text, operator))
    if options.json:
        say_json({"name": operator.name, "role": operator.role, "token": token})
    else:
        say_line(token)


def remove_operator(options: argparse.Namespace) -> None:
    """Take the right to use the page of the fleet from a person or a program."""

    def remove(text: str) -> str:
        if options.name not in _parse(options.operators, text):
            raise OperatorsInvalid(f"There is no operator {options.name} in {options.operators}.")
        return without(text, options.name)

    _change(options.operators, remove)
    _say_done(options, f"{options.name} may not use the page of the fleet any more.")


def _require_name(name: str) -> None:
    try:
        require_name(name)
    except OperatorsInvalid as error:
        raise OperatorsInvalid(f"{error}.") from None


def _read_password(name: str) -> str:
    """Read a password: typed twice at the terminal, or the first line of standard input."""
    if sys.stdin.isatty():
        prompt = f"New password of {name}"
        password = read_secret(prompt, "password", PasswordUnusable, twice=True)
    else:
        try:
            password = sys.stdin.readline(_MAX_LINE).rstrip("\r\n")
        except UnicodeError:
            raise PasswordUnusable(not_utf8("password")) from None
    if not _MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise PasswordUnusable(
            f"An operator's password has from {_MIN_PASSWORD} to {MAX_PASSWORD} characters: run it "
            "again."
        )
    return password


def _change(path: Path, change: Callable[[str], str]) -> None:
    """Change the file, one process at a time; a file with a mistake is not changed."""
    if not path.parent.exists():
        raise OperatorsInvalid(
            f"The folder {path.parent} is missing: create it for the server's user, or name "
            "another file with --operators."
        )
    if path.is_symlink():
        # Following it as root would be dangerous. Replacing it would leave the old file in use.
        raise OperatorsInvalid(
            f"{path} is a symbolic link: name the file itself with --operators {path.readlink()}"
        )
    with files.locked(path.with_name(f".{path.name}.lock"), blocking=True):
        before = _read(path) if path.exists() else ""
        _parse(path, before)
        after = change(before)
        mode, owner = _mode_and_owner(path)
        files.write(path, after.encode(), mode, owner)


def _read(path: Path) -> str:
    try:
        return files.read(path, MAX_FILE).decode()
    except FileNotFoundError:
        raise OperatorsInvalid(
            f"{path} is missing: opq-fleet add-operator makes it, or name another file with "
            "--operators."
        ) from None
    except UnicodeDecodeError:
        raise OperatorsInvalid(f"The operators' file {path} is not UTF-8.") from None


def _parse(path: Path, text: str) -> Mapping[str, Operator]:
    try:
        return parse(text)
    except OperatorsInvalid as error:
        raise OperatorsInvalid(f"{path}, {error}") from None


def _mode_and_owner(path: Path) -> tuple[int, tuple[int, int] | None]:
    """Return the mode and owner for the file; a new file gets the owner of its folder."""
    if path.exists():
        found = path.stat()
        return found.st_mode & 0o770, (found.st_uid, found.st_gid)
    if os.geteuid() != 0:
        return _MODE, None
    folder = path.parent.stat()
    return _MODE, (folder.st_uid, folder.st_gid)


def _say_done(options: argparse.Namespace, sentence: str) -> None:
    if options.json:
        say_json({"status": sentence})
    else:
        say(sentence)
