"""
Sends parts of an open file as a response body, by sendfile(2) where the kernel supports it.

The contract:

- The parts are sent in order: bytes as they are, a `Range` from the file. Either all parts are sent
  and the request is finished, or the connection is cut.
- The producer owns the file, and closes it once, whatever happens.
- The file's size and modification time are checked with each piece, and once more before the
  last byte is sent. If they have changed since the start, the connection is cut: no client gets a
  mixture of two files. A file that was removed, renamed or replaced is sent to its end.
- The file is not read faster than the client reads. This process buffers at most one chunk for a
  client, and over plain TCP only the separators of a multipart response.
- A client that acknowledges less than `MIN_RATE` on average over `WINDOW` seconds is cut.

Over plain TCP, Twisted's transport asks its producer for more if, and only if, its own buffer is
empty. From then on until the next separator, this module replaces the transport's `doWrite`, and
the reactor calls it whenever the socket has room. Over TLS the kernel cannot send from a file, so
the parts are read, encrypted and written to the socket. Over other transports, or if a file system
or a sandbox has no sendfile(2), they are read and written to the transport.

The kernel sends the pages of the file, not a copy of them: a write to the file changes the bytes
that wait in the socket. So the last byte is held back until no bytes wait there. (A client on the
same machine receives the pages themselves. It can see later writes until it has read them.)
"""

import fcntl
import io
import os
import socket
import termios
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IPushProducer
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from opq_twisted.http.ranges import Range
from opq_twisted.http.request import BoundedRequest
from opq_twisted.server.limits import Downloads

#: Every `WINDOW` seconds, a client must have acknowledged `MIN_RATE` bytes per second on average.
#: Otherwise a client that reads a byte now and then could hold a download for ever. A box itself
#: gives up below 1,000 bytes per second over ten minutes, and resumes with a `Range` after a cut.
WINDOW = 300
MIN_RATE = 500

#: Bytes that are read at once where the kernel cannot send from the file.
_CHUNK = 64 * 1024

#: The same for TLS if there are at most so many downloads: it saves a fifth of the CPU time, but
#: a slow client then takes 250 kB of memory instead of 95. Encrypted, it is less than the 128 KiB
#: from which malloc(3) takes new pages from the kernel each time.
_LARGE_CHUNK = 112 * 1024
_FEW = 64

#: Bytes that a download over TLS may encrypt in one turn of the reactor: about half a millisecond.
_ENCRYPTED_PER_TURN = 512 * 1024

#: More bytes than TLS adds to a chunk.
_RECORD_OVERHEAD = 4096

Part = bytes | Range


def send_parts(
    request: BoundedRequest,
    head: bytes,
    file: io.FileIO,
    parts: Sequence[Part],
    downloads: Downloads,
) -> None:
    """Send the response `head`, then `parts`, and count the bytes in `downloads`."""
    transport = request.channel.transport
    producer: type[_PartsProducer]
    if _is_socket(transport):
        producer = _SendfileProducer
    elif type(transport) is TLSMemoryBIOProtocol and _is_socket(transport.transport):
        producer = _EncryptingProducer
    else:
        producer = _ReadingProducer
    producer(request, file, parts, downloads).start(head)


def _is_socket(transport: object) -> bool:
    return type(transport) is Server and not transport.TLS


class FileChanged(Exception):
    """The rest of the file may not match the bytes that were sent already."""


@implementer(IPushProducer)
class _PartsProducer:
    """Sends one body."""

    _log = Logger()

    def __init__(
        self, request: BoundedRequest, file: io.FileIO, parts: Sequence[Part], downloads: Downloads
    ) -> None:
        self._request = request
        self._channel = request.channel
        self._file = file
        self._parts = deque(parts)
        self._downloads = downloads
        self._state = self._file_state()
        self._acknowledged = 0

    def start(self, head: bytes) -> None:
        """Send the head, and register as its request's producer."""
        # First, because the Deferred never fires if it is requested after the client has gone.
        self._request.notifyFinish().addBoth(lambda _: self._file.close())
        self._request.registerProducer(self, True)
        self._channel.set_deadline(WINDOW, self._check_progress)
        self._channel.write(head)

    def pauseProducing(self) -> None:
        """Do nothing: the socket or the transport says when it is full."""

    def resumeProducing(self) -> None:
        """Send pieces until the socket or the transport is full."""
        try:
            while self._parts:
                if not self._send_piece():
                    return
        except (FileChanged, OSError) as error:
            self._log.error("download of {uri} cut: {why}", uri=self._request.uri, why=error)
            self._unregister()
            self._channel.close()
        else:
            self._unregister()
            self._request.finish()

    def stopProducing(self) -> None:
        """Do nothing: `notifyFinish` reports that the client has gone."""

    def _send_piece(self) -> bool:
        """Send a piece of the first part; returns whether to send more at once."""
        raise NotImplementedError

    def _unacknowledged(self) -> int:
        """Count the bytes in the socket that the client has not acknowledged."""
        raise NotImplementedError

    def _consume(self, part: Range, count: int) -> None:
        """Remove the bytes that were sent from the first part."""
        if count == part.length:
            self._parts.popleft()
        else:
            self._parts[0] = Range(part.offset + count, part.length - count)
        self._downloads.bytes_sent += count

    def _file_state(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _take_chunk(self, part: Range, size: int = _CHUNK) -> bytes:
        """Remove a chunk from the first part, and make sure that the file is unchanged."""
        data = os.pread(self._file.fileno(), min(part.length, size), part.offset)
        self._require_unchanged()
        if not data:
            raise FileChanged("the file has fewer bytes than its file system says")
        self._consume(part, len(data))
        return data

    def _require_unchanged(self) -> None:
        if self._file_state() != self._state:
            raise FileChanged("the file was changed while it was sent")

    def _check_progress(self) -> None:
        acknowledged = self._request.sentLength - self._unacknowledged()
        if acknowledged - self._acknowledged >= WINDOW * MIN_RATE:
            self._acknowledged = acknowledged
            self._channel.set_deadline(WINDOW, self._check_progress)
        else:
            self._channel.abort()

    def _unregister(self) -> None:
        self._request.unregisterProducer()


class _SendfileProducer(_PartsProducer):
    """Sends a body from the file to the socket within the kernel."""

    #: Whether the bytes before the last one are being flushed.
    _is_flushing = False
    #: Whether sendfile(2) works with this file.
    _has_sendfile = True

    def start(self, head: bytes) -> None:
        """Let the transport send the head first, and call `resumeProducing` after it."""
        self._transport: Server = self._channel.transport
        self._hold_back_the_last_byte()
        self._set(socket.TCP_CORK, 1)
        super().start(head)
        self._wait_until_empty()

    def resumeProducing(self) -> None:
        """Take over the transport's `doWrite`: its buffer is empty."""
        self._transport.doWrite = self._write  # type: ignore[method-assign]
        self._transport.startWriting()
        self._write()

    def _write(self) -> None:
        """Send until the socket is full; the reactor calls this again when it has room."""
        self._bytes_left_in_turn = self._downloads.bytes_per_turn
        super().resumeProducing()

    def _send_piece(self) -> bool:
        self._require_unchanged()
        part = self._parts[0]
        if len(self._parts) == 1:
            if not self._is_flushing:
                self._flush()
                return False
            if isinstance(part, Range):
                part = self._take_chunk(part)
                self._parts.append(part)
        if isinstance(part, bytes):
            self._restore_transport()
            self._request.write(self._parts.popleft())
            self._wait_until_empty()
            return False
        if not self._has_sendfile:
            self._parts.appendleft(self._take_chunk(part))
            return True
        wanted = min(part.length, self._bytes_left_in_turn)
        try:
            count = os.sendfile(self._transport.fileno(), self._file.fileno(), part.offset, wanted)
        except BlockingIOError:
            return False
        except ConnectionError:
            self._channel.abort()
            return False
        except OSError:
            # File systems and sandboxes without sendfile(2) use many error numbers. If the disk has
            # failed, reading fails too.
            count = 0
        if count == 0:
            self._has_sendfile = False
            return True
        self._bytes_left_in_turn -= count
        self._request.sentLength += count
        self._consume(part, count)
        return count == wanted and self._bytes_left_in_turn > 0

    def _wait_until_empty(self) -> None:
        """Let the transport call `resumeProducing` when its buffer is empty."""
        self._transport.producerPaused = True
        self._transport.startWriting()

    def _restore_transport(self) -> None:
        # The transport stays registered for writing: the reactor calls its own `doWrite` once more,
        # which closes the connection if it has to.
        del self._transport.doWrite

    def _unregister(self) -> None:
        self._restore_transport()
        self._set(socket.TCP_NOTSENT_LOWAT, 0)
        super()._unregister()

    def _hold_back_the_last_byte(self) -> None:
        last = self._parts[-1]
        if isinstance(last, Range) and last.length > 1:
            self._parts[-1] = Range(last.offset, last.length - 1)
            self._parts.append(Range(last.offset + last.length - 1, 1))

    def _flush(self) -> None:
        """Make the socket writable only when it has sent all its bytes."""
        self._is_flushing = True
        self._set(socket.TCP_CORK, 0)
        self._set(socket.TCP_NOTSENT_LOWAT, 1)

    def _set(self, option: int, value: int) -> None:
        """Set a socket option (tcp(7)). A cork makes the kernel send full segments only."""
        # A kernel without the option sends the bytes nevertheless.
        with suppress(OSError):
            self._transport.getHandle().setsockopt(socket.IPPROTO_TCP, option, value)

    def _unacknowledged(self) -> int:
        try:
            queued = fcntl.ioctl(self._transport.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(queued, "little")


class _ReadingProducer(_PartsProducer):
    """Reads a body from the file, and writes it to the transport, chunk by chunk."""

    _is_paused = False

    def start(self, head: bytes) -> None:
        """Send the head, and continue until the transport's buffer is full."""
        super().start(head)
        if not self._is_paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Send until the transport's buffer is full again."""
        self._is_paused = False
        super().resumeProducing()

    def _send_piece(self) -> bool:
        part = self._parts[0]
        self._request.write(
            self._take_chunk(part) if isinstance(part, Range) else self._parts.popleft()
        )
        return not self._is_paused

    def _unacknowledged(self) -> int:
        # Not known below TLS, but the buffer of a transport is small and bounded.
        return 0


class _EncryptingProducer(_ReadingProducer):
    """
    Encrypts a body, and writes it to the socket itself while the socket has room.

    Twisted's TLS transport would copy each record of 16 kB several times, and wait for the reactor
    after every fourth. It is used only if bytes wait in the socket's transport, so that none of
    them is overtaken.
    """

    def start(self, head: bytes) -> None:
        """Send the head, and continue until the transport's buffer is full."""
        self._tls: TLSMemoryBIOProtocol = self._channel.transport
        self._socket: Server = self._tls.transport
        super().start(head)

    def resumeProducing(self) -> None:
        """Send until the socket is full, or others have their turn."""
        self._bytes_left_in_turn = _ENCRYPTED_PER_TURN
        super().resumeProducing()

    def _send_piece(self) -> bool:
        part = self._parts[0]
        if isinstance(part, bytes) or self._socket.dataBuffer or self._socket._tempDataLen:
            return super()._send_piece()
        few = self._downloads.under_way.total() <= _FEW
        chunk = self._take_chunk(part, _LARGE_CHUNK if few else _CHUNK)
        connection = self._tls.getHandle()
        try:
            connection.sendall(chunk)
        except SSL.Error:
            self._channel.abort()
            return False
        encrypted = connection.bio_read(len(chunk) + _RECORD_OVERHEAD)
        sent = self._socket.writeSomeData(encrypted)
        if not isinstance(sent, int):
            self._channel.abort()
            return False
        self._request.sentLength += len(chunk)
        self._bytes_left_in_turn -= len(chunk)
        if sent == len(encrypted) and self._bytes_left_in_turn > 0:
            return True
        self._socket.write(encrypted[sent:])
        self._wait_until_empty()
        return False

    def _wait_until_empty(self) -> None:
        """Let the socket's transport call `resumeProducing` when its buffer is empty."""
        # Its producer belongs to the TLS transport, and resumes this one only after a pause.
        producer: Any = self._socket.producer
        producer.pauseProducing()
        self._socket.producerPaused = True
        self._socket.startWriting()
