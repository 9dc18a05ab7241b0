"""A deadline for everything that a command line's program does over a connection."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from threading import Event, Timer

from opq_twisted.common.errors import OpqError


@contextmanager
def deadline(connected: socket.socket, timeout: float) -> Iterator[None]:
    """Break a connection after `timeout` seconds, even if bytes keep coming: TimeoutError."""
    is_late = Event()

    def cut() -> None:
        is_late.set()
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = Timer(timeout, cut)
    timer.start()
    try:
        yield
    except (OSError, HTTPException, OpqError):
        if is_late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
