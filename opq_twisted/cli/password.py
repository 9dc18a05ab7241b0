"""Where a box's password comes from: a file, or whoever sits at the terminal."""

import getpass
import sys
from pathlib import Path

from opq_twisted.errors import AgentFailed

#: Bytes.
_LONGEST = 4096


def ask(file: Path | None) -> bytes:
    """
    Get the password.

    :param file: holds it in its first line; without one whoever sits at the terminal is asked.
    :raises AgentFailed: when there is nobody to ask, or nothing was typed.
    :raises OSError: when the file cannot be read.
    """
    if file is not None:
        with file.open("rb") as opened:
            return opened.readline(_LONGEST).rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise AgentFailed(
            "The box wants its password: name a file that holds it with --password-file, or run "
            "this on a terminal."
        )
    try:
        return getpass.getpass("Password of the box: ").encode()
    except EOFError:
        raise AgentFailed("No password was typed: run it again.") from None
    except UnicodeError:
        raise AgentFailed(
            "What was typed is not UTF-8: set the terminal to it, or name a file that holds the "
            "password with --password-file."
        ) from None
