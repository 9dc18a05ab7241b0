"""The width of a terminal."""

import os
from contextlib import suppress
from typing import TextIO

#: The number of columns if the terminal does not know.
_DEFAULT = 80


def columns(stream: TextIO | None) -> int | None:
    """Return the number of columns of a stream; None if it is closed, or not a terminal."""
    if stream is None or not stream.isatty():
        return None
    number = 0
    with suppress(OSError):
        number = os.get_terminal_size(stream.fileno()).columns
    return number or _DEFAULT
