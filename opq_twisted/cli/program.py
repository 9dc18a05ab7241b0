"""The common parts of the command lines: output, errors and signals."""

import argparse
import json
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from opq_twisted.common import terminal
from opq_twisted.common.errors import OpqError

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def run(name: str, options: argparse.Namespace, failed: int = 1) -> int:
    """
    Call `options.command`, and return the exit code; print expected errors as a sentence.

    :param name: the name of the program.
    :param failed: the exit code for an error.
    """
    try:
        with _stoppable():
            code: int = options.command(options) or 0
    except OpqError as error:
        sentence = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sentence = f"{where}{error.strerror}. Fix that, and try again."
    else:
        return code
    if getattr(options, "json", False):
        say_json({"error": sentence})
    warn(f"{name}: {sentence}")
    return failed


def say(text: str, indent: int = 0) -> bool:
    """
    Print a text, which is wrapped at words on a terminal.

    :param indent: the indent of all lines but the first one.
    :returns: whether the next line may be read by somebody.
    """
    return say_line(_wrapped(text, terminal.columns(sys.stdout), indent))


def say_line(text: str) -> bool:
    """Print a line as it is; see `say`. If that fails, the command continues."""
    if sys.stdout is None:
        # The program was started with standard output closed.
        return False
    try:
        print(_escaped(text, sys.stdout), flush=True)
    except OSError as error:
        _discard_rest(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            name = os.path.basename(sys.argv[0])
            warn(f"{name}: The output cannot be written: {error.strerror}.")
        return False
    return True


def say_json(content: object) -> bool:
    """Print a value as a line of JSON."""
    return say_line(json.dumps(content))


def warn(text: str) -> None:
    """Print a text on standard error, if that is open; it is wrapped as by `say`."""
    if sys.stderr is not None:
        shown = _wrapped(text, terminal.columns(sys.stderr))
        try:
            print(_escaped(shown, sys.stderr), file=sys.stderr, flush=True)
        except OSError:
            _discard_rest(sys.stderr)


def _discard_rest(stream: TextIO) -> None:
    """Let Python not try again to write the buffered rest when it exits: it would exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _wrapped(text: str, width: int | None, indent: int = 0) -> str:
    """Indent the lines after the first one, and wrap all at words if there is a width."""
    margin = " " * indent
    first, *others = text.split("\n")
    lines = [first, *(margin + line for line in others)]
    if width is not None:
        lines = [
            piece
            for line in lines
            for piece in textwrap.wrap(
                line,
                width,
                subsequent_indent=margin,
                expand_tabs=False,
                replace_whitespace=False,
                break_long_words=False,
                break_on_hyphens=False,
            )
            or [""]
        ]
    return "\n".join(line.rstrip() for line in lines)


def _escaped(text: str, stream: TextIO) -> str:
    """Escape control characters, and those that the stream cannot encode, as JSON does."""
    shown = "".join(
        character if character.isprintable() or character in "\n\t" else f"\\u{ord(character):04x}"
        for character in text
    )
    encoding = stream.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let signals end the program by an exception, except those that were ignored at its start."""
    caught = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    for each in caught:
        signal.signal(each, _stop)
    try:
        yield
    finally:
        for each in caught:
            # The command is done; an exception would only disturb Python's exit.
            if signal.getsignal(each) is _stop:
                signal.signal(each, signal.SIG_DFL)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Raise an exception, so that temporary files are removed, and ignore further signals."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
