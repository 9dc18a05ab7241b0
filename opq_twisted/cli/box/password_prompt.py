"""Where a box's password comes from: a file, or whoever types it."""

import getpass
import sys
from pathlib import Path

from opq_twisted.common.errors import PasswordUnusable

#: Bytes of a line; characters of a new password, of which an agent takes no more.
_LONGEST_LINE, _LONGEST = 4096, 1024

_NOT_UTF8 = "What was typed is not UTF-8: set the terminal to it, and run it again."


def known(file: Path | None) -> bytes:
    """
    Get the password that a box has.

    :param file: holds it in its first line; without one whoever sits at the terminal is asked.
    :raises PasswordUnusable: when there is nobody to ask, or nothing was typed.
    :raises OSError: when the file cannot be read.
    """
    if file is not None:
        with file.open("rb") as opened:
            return opened.readline(_LONGEST_LINE).rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise PasswordUnusable(
            "The box asks for its password: name a file that holds it with --password-file, or "
            "run this on a terminal."
        )
    return _typed("Password of the box: ").encode()


def chosen() -> str:
    """
    Get a new password: typed twice at the terminal, or in a line of standard input.

    :raises PasswordUnusable: when it can be none.
    """
    if sys.stdin.isatty():
        password = _typed("New password of the box: ")
        if _typed("Once more: ") != password:
            raise PasswordUnusable("The two passwords differ: run it again.")
    else:
        try:
            password = sys.stdin.readline(_LONGEST_LINE).rstrip("\r\n")
        except UnicodeError:
            raise PasswordUnusable(_NOT_UTF8) from None
    if not 0 < len(password) <= _LONGEST:
        raise PasswordUnusable(f"A password has from 1 to {_LONGEST} characters: run it again.")
    return password


def _typed(prompt: str) -> str:
    try:
        password = getpass.getpass(prompt)
        password.encode()
    except EOFError:
        raise PasswordUnusable("No password was typed: run it again.") from None
    except UnicodeError:
        raise PasswordUnusable(_NOT_UTF8) from None
    return password
