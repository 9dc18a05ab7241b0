"""What the command lines have in common: their commands, how they end, and how they say so."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from opq_twisted.common.errors import OpqError

#: What does a command; its docstring is its help.
Command = Callable[[argparse.Namespace], int]

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def add_command(commands: Any, name: str, command: Command) -> argparse.ArgumentParser:
    """
    Define a command, which `run` does.

    :param commands: what `add_subparsers` gave, whose class argparse keeps to itself.
    """
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=command.__doc__, description=command.__doc__, allow_abbrev=False
    )
    sub.set_defaults(command=command)
    return sub


def run(name: str, options: argparse.Namespace, failed: int = 1) -> int:
    """
    Do what `options.command` does, and give the exit code; what a person can mend is a sentence.

    :param name: of the program.
    :param failed: the exit code when it cannot be done.
    """
    try:
        with _stoppable():
            code: int = options.command(options)
    except OpqError as error:
        sentence = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sentence = f"{where}{error.strerror}. Mend that, and try again."
    else:
        return code
    if getattr(options, "json", False):
        say_json({"error": sentence})
    warn(f"{name}: {sentence}")
    return failed


def say(text: str) -> bool:
    """
    Print a line; what was done is done, whether or not somebody reads that.

    :returns: whether somebody may read the next line.
    """
    if sys.stdout is None:
        # The program was started with standard output closed.
        return False
    try:
        print(_harmless(text, sys.stdout), flush=True)
    except OSError as error:
        # Here, and once more at Python's end, nothing else of it is tried.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            name = os.path.basename(sys.argv[0])
            warn(f"{name}: The output has no room: {error.strerror}.")
        return False
    return True


def say_json(content: object) -> bool:
    """Print a line of JSON, for programs."""
    return say(json.dumps(content))


def warn(text: str) -> None:
    """Print a line on standard error, if anybody can read it there."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(_harmless(text, sys.stderr), file=sys.stderr, flush=True)


def _harmless(text: str, stream: TextIO) -> str:
    """Write what would control a terminal, or what the stream cannot hold, in JSON's notation."""
    shown = "".join(
        character if character.isprintable() or character in "\n\t" else f"\\u{ord(character):04x}"
        for character in text
    )
    encoding = stream.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let signals stop what is done meanwhile, but for those that whoever started it ignores."""
    caught = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    for each in caught:
        signal.signal(each, _stop)
    try:
        yield
    finally:
        for each in caught:
            # All is done, and an exception would only be in Python's way as it ends.
            if signal.getsignal(each) is _stop:
                signal.signal(each, signal.SIG_DFL)


def _stop(number: int, _frame: FrameType | None) -> None:
    """End through an exception, once, so that nothing is left behind."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
