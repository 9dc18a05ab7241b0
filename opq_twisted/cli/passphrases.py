"""Where passphrases come from: a file, the environment, or whoever sits at the terminal."""

import getpass
import os
import sys
from functools import cache
from pathlib import Path

from opq_twisted.errors import KeyUnusable
from opq_twisted.release.keyring import Passphrase

VARIABLE = "OPQ_RELEASE_PASSPHRASE"
TIMESTAMP_VARIABLE = "OPQ_TIMESTAMP_PASSPHRASE"

_LONGEST = 4096


def of_keys(file: Path | None, makes_keys: bool) -> Passphrase:
    """
    Ask, once and not before it is needed, for the passphrase of the keys.

    :param makes_keys: whether one who types has to type it twice.
    """

    @cache
    def ask() -> bytes:
        given = _given(file, VARIABLE)
        if given is not None:
            return given
        if not sys.stdin.isatty():
            raise KeyUnusable(
                "A passphrase is needed: name its file with --passphrase-file, put it into "
                f"{VARIABLE}, or run this on a terminal."
            )
        return _typed("Passphrase of the keys", makes_keys)

    return ask


def of_timestamp(file: Path | None, keys_file: Path | None, others: Passphrase) -> Passphrase:
    """
    Ask for the passphrase of the timestamp's key, which lies on the server.

    :param keys_file: where that of the other keys comes from; nobody is asked to type then.
    :param others: it is taken where no other one is given.
    """

    @cache
    def ask() -> bytes:
        given = _given(file, TIMESTAMP_VARIABLE)
        if given is not None:
            return given
        if keys_file is not None or VARIABLE in os.environ or not sys.stdin.isatty():
            return others()
        return _typed("Passphrase of the timestamp key (nothing: the same)", True) or others()

    return ask


def _given(file: Path | None, variable: str) -> bytes | None:
    if file is not None:
        return _first_line(file)
    return os.environb.get(variable.encode())


def _first_line(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.readline(_LONGEST).rstrip(b"\r\n")
    except OSError as error:
        raise KeyUnusable(f"The passphrase in {file} cannot be read: {error.strerror}.") from None


def _typed(prompt: str, twice: bool) -> bytes:
    try:
        passphrase = getpass.getpass(f"{prompt}: ")
        if twice and passphrase and getpass.getpass("Once more: ") != passphrase:
            raise KeyUnusable("The two passphrases differ: run it again.")
        return passphrase.encode()
    except EOFError:
        raise KeyUnusable("No passphrase was typed: run it again.") from None
    except UnicodeError:
        raise KeyUnusable(
            "What was typed is not UTF-8: set the terminal to it, or put the passphrase into a "
            "file and name that with --passphrase-file."
        ) from None
