"""
Closes the connection to a PostgreSQL server that does not answer any more.

If the server process hangs, its kernel still acknowledges all packets, so no timeout of TCP ends
the wait. The driver has no timeout for this either.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from threading import Timer
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

#: A transaction may take so many seconds.
TRANSACTION = 30.0

#: The query that checks a connection before a transaction may take so many seconds.
PING = 5.0

_SOCKET = "opq_socket"
_TIMER = "opq_timer"


def watch_sockets(engine: Engine) -> None:
    """Let each transaction of an engine that takes too long fail with an error."""
    event.listen(engine, "connect", _connected)
    event.listen(engine, "checkout", _checked_out)
    event.listen(engine, "checkin", _checked_in)
    event.listen(engine, "invalidate", _checked_in)
    event.listen(engine, "close", _closed)


def _connected(connection: Any, record: Any) -> None:
    # A duplicate, because the driver may close its own descriptor, whose number is then reused.
    record.info[_SOCKET] = socket.socket(fileno=os.dup(connection.pgconn.socket))


def _checked_out(connection: Any, record: Any, _fairy: Any) -> None:
    with _cut_after(record.info[_SOCKET], PING):
        _ping(connection)
    timer = Timer(TRANSACTION, _cut, (record.info[_SOCKET],))
    timer.daemon = True
    timer.start()
    record.info[_TIMER] = timer


def _checked_in(_connection: Any, record: Any, _error: Any = None) -> None:
    timer = record.info.pop(_TIMER, None)
    if timer is not None:
        timer.cancel()


def _closed(_connection: Any, record: Any) -> None:
    record.info.pop(_SOCKET).close()


def _ping(connection: Any) -> None:
    from psycopg import Error

    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Error as error:
        raise DisconnectionError(str(error)) from error


@contextlib.contextmanager
def _cut_after(sock: socket.socket, seconds: float) -> Iterator[None]:
    timer = Timer(seconds, _cut, (sock,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
