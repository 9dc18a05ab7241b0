"""Reads a box's password from a file, from standard input, or at the terminal."""

import sys
from pathlib import Path

from opq_twisted.cli.secret_prompt import not_utf8, read_secret
from opq_twisted.common.errors import PasswordUnusable

#: Bytes of a line that are read; characters of a new password, the agent's own limit.
_MAX_LINE, _MAX_PASSWORD = 4096, 1024


def read_current(file: Path | None) -> bytes:
    """
    Read the password that a box has now.

    :param file: has the password in its first line; if it is None, the user is asked for it.
    :raises PasswordUnusable: if there is no terminal, or nothing usable was typed.
    :raises OSError: if the file cannot be read.
    """
    if file is not None:
        with file.open("rb") as opened:
            return opened.readline(_MAX_LINE).rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise PasswordUnusable(
            "The box asks for its password: name a file that holds it with --password-file, or "
            "run this on a terminal."
        )
    return read_secret("Password of the box", "password", PasswordUnusable).encode()


def read_new() -> str:
    """
    Read a new password: typed twice at the terminal, or the first line of standard input.

    :raises PasswordUnusable: if the password is empty, too long or not UTF-8.
    """
    if sys.stdin.isatty():
        password = read_secret("New password of the box", "password", PasswordUnusable, twice=True)
    else:
        try:
            password = sys.stdin.readline(_MAX_LINE).rstrip("\r\n")
        except UnicodeError:
            raise PasswordUnusable(not_utf8("password")) from None
    if not 0 < len(password) <= _MAX_PASSWORD:
        raise PasswordUnusable(
            f"A password has from 1 to {_MAX_PASSWORD} characters: run it again."
        )
    return password
