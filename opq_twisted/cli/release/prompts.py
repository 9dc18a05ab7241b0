"""Asks a person at the terminal for passphrases, and for a word before unusual changes."""

import argparse
import os
import sys
from functools import cache
from pathlib import Path

from opq_twisted.cli.program import say, warn
from opq_twisted.cli.secret_prompt import read_secret
from opq_twisted.common.errors import KeyUnusable, ReleaseFailed
from opq_twisted.signing.key_folder import KeyFolder, Passphrase
from opq_twisted.trust.passphrase import read_passphrase, warning_about_access, warning_about_length

VARIABLE = "OPQ_RELEASE_PASSPHRASE"
TIMESTAMP_VARIABLE = "OPQ_TIMESTAMP_PASSPHRASE"


def open_keys(options: argparse.Namespace, makes_keys: bool = False) -> KeyFolder:
    """Open the folder of keys that the command line names."""
    passphrase = keys_passphrase(options.passphrase_file, makes_keys)
    return KeyFolder(options.keys_dir, passphrase, lambda advice: warn(f"opq-release: {advice}"))


def confirm(options: argparse.Namespace, *consequences: str) -> None:
    """
    Print the consequences for boxes, and ask for a confirmation, unless there is --yes.

    :raises ReleaseFailed: if the answer is not yes, or nobody can be asked.
    """
    if options.yes or not consequences:
        return
    if not sys.stdin.isatty():
        raise ReleaseFailed(
            f"{' '.join(consequences)} Confirm that with --yes, or run this on a terminal."
        )
    for sentence in consequences:
        say(sentence)
    try:
        answer = input("Type yes to go on: ")
    except (EOFError, UnicodeDecodeError):
        answer = ""
    if answer.strip().lower() != "yes":
        raise ReleaseFailed("You did not type yes, so nothing was changed.")


def keys_passphrase(file: Path | None, makes_keys: bool) -> Passphrase:
    """
    Ask for the passphrase of the keys when it is needed, and only once.

    :param makes_keys: whether it is for new keys: then it has to be typed twice, and the user is
        warned if it is short.
    """

    def ask() -> bytes:
        passphrase = _given(file, VARIABLE)
        if passphrase is None:
            if not sys.stdin.isatty():
                raise KeyUnusable(
                    "A passphrase is needed: name its file with --passphrase-file, put it into "
                    f"{VARIABLE}, or run this on a terminal."
                )
            passphrase = _typed("Passphrase of the keys", makes_keys)
        if makes_keys:
            _warn(warning_about_length(passphrase))
        return passphrase

    return cache(ask)


def timestamp_passphrase(
    file: Path | None, keys_file: Path | None, others: Passphrase
) -> Passphrase:
    """
    Ask for the passphrase of the timestamp key, which goes to the server.

    :param keys_file: the file with the passphrase of the other keys; then nobody has to type.
    :param others: returns the passphrase of the other keys, which is used if none is given.
    """

    def ask() -> bytes:
        passphrase = _given(file, TIMESTAMP_VARIABLE)
        if passphrase is None and keys_file is None and VARIABLE not in os.environ:
            passphrase = _typed_or_none("Passphrase of the timestamp key (nothing: the same)")
        if passphrase is None:
            return others()
        _warn(warning_about_length(passphrase))
        return passphrase

    return cache(ask)


def new_passphrase(file: Path | None, old: Passphrase) -> Passphrase:
    """
    Ask for the new passphrase of keys.

    :param old: returns the old passphrase, which is used if none is given.
    """

    def ask() -> bytes:
        if file is not None:
            passphrase = _read(file)
        else:
            passphrase = _typed_or_none("New passphrase (nothing: the same)") or old()
        _warn(warning_about_length(passphrase))
        return passphrase

    return cache(ask)


def _given(file: Path | None, variable: str) -> bytes | None:
    return os.environb.get(variable.encode()) if file is None else _read(file)


def _read(file: Path) -> bytes:
    _warn(warning_about_access(file))
    return read_passphrase(file)


def _typed_or_none(prompt: str) -> bytes | None:
    """Ask at the terminal; None if there is no terminal, or nothing is typed."""
    return (_typed(prompt, True) or None) if sys.stdin.isatty() else None


def _warn(sentence: str | None) -> None:
    if sentence is not None:
        warn(f"opq-release: {sentence}")


def _typed(prompt: str, twice: bool) -> bytes:
    return read_secret(prompt, "passphrase", KeyUnusable, twice=twice).encode()
