"""Prints the steps of the demo on the terminal."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class DemoFailed(Exception):
    """The demo cannot continue; the text gives the reason."""


def say(text: str) -> None:
    """Print a line; if the output is closed, end the demo."""
    show(f"{text}\n")


def show(text: str) -> None:
    """Print a text, as `say` does."""
    try:
        print(text, end="", flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show a step of the preparations, and the seconds that it took."""
    started = time.monotonic()
    show(f"{text} ...")
    try:
        yield
    except BaseException:
        show("\n")
        raise
    show(f" {time.monotonic() - started:.0f} s\n")
