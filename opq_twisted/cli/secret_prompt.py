"""Reads a password or passphrase that a person types at the terminal."""

import getpass

from opq_twisted.common.errors import OpqError


def read_secret(prompt: str, kind: str, error: type[OpqError], *, twice: bool = False) -> str:
    """
    Ask at the terminal, without showing what is typed.

    :param kind: the word for the secret in sentences, such as "password".
    :param error: the exception to raise if nothing usable is typed.
    :param twice: whether a secret that is not empty must be typed again.
    """
    try:
        secret = getpass.getpass(f"{prompt}: ")
        if twice and secret and getpass.getpass("Once more: ") != secret:
            raise error(f"The two {kind}s differ: run it again.")
        secret.encode()
    except EOFError:
        raise error(f"No {kind} was typed: run it again.") from None
    except UnicodeError:
        raise error(not_utf8(kind)) from None
    return secret


def not_utf8(kind: str) -> str:
    """Return the sentence for a secret that is not UTF-8."""
    return f"The {kind} is not UTF-8: set the terminal to UTF-8, and run it again."
