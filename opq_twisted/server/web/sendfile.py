"""
Sends parts of an open file as the body of an answer, by sendfile(2) where the kernel can.

The contract:

- The parts are sent in their order: bytes as they are, a `Range` from the file. Either all of it is
  sent and the request is finished, or the connection is cut.
- The file is owned, and closed once, whatever happens.
- The file is looked at before each piece, and once more before the last byte is sent. If its size
  or its time of change is not what it was at the start, the connection is cut: nobody gets parts of
  two files. A file whose name was removed, or given to another, is sent to its end.
- No more is read than the client takes. What waits for it in this process is one chunk at most, and
  over plain TCP nothing but the lines around the parts.
- A client that has acknowledged less than `LEAST_RATE` on average, over `WINDOW` seconds, is cut.

Over plain TCP Twisted's transport asks its producer for more when, and only when, its own buffer is
empty. From then on, until lines are to be written again, the reactor is made to call this module in
the place of the transport's own writing, whenever the socket takes more. Over TLS the kernel cannot
send from a file, and the same parts are read and written. So they are where a file system or a
sandbox has no sendfile(2).

The kernel sends the pages of the file and no copy of them: a file that is written to changes what
waits in the socket. So the last byte is held back until nothing waits there. (A client on the same
machine is given the very pages, and can see them change even later, until it has read them.)
"""

import fcntl
import io
import os
import socket
import termios
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from twisted.internet.interfaces import IPushProducer
from twisted.internet.tcp import Server
from twisted.logger import Logger
from zope.interface import implementer

from opq_twisted.http.ranges import Range
from opq_twisted.http.request import BoundedRequest
from opq_twisted.server.limits import Downloads

#: Seconds after which it is looked at how much a client has acknowledged since the last time, and
#: the bytes per second that it must have. A box gives up itself below 1,000 over ten minutes, and
#: goes on with a `Range` when it was cut. Without such a rate whoever reads a byte now and then
#: would hold a download for as long as he likes.
WINDOW = 300
LEAST_RATE = 500

#: Bytes read at once where the kernel cannot send by itself.
_CHUNK = 64 * 1024

Part = bytes | Range


def send_parts(
    request: BoundedRequest,
    head: bytes,
    file: io.FileIO,
    parts: Sequence[Part],
    downloads: Downloads,
) -> None:
    """Send `head` and `parts`, as one of the downloads under way."""
    transport = request.channel.transport
    plain = type(transport) is Server and not transport.TLS
    producer = _SendfileProducer if plain else _ReadingProducer
    producer(request, file, parts, downloads).start(head)


class FileChanged(Exception):
    """What is left of the file does not belong to what was sent of it."""


@implementer(IPushProducer)
class _PartsProducer:
    """One body under way."""

    _log = Logger()

    def __init__(
        self,
        request: BoundedRequest,
        file: io.FileIO,
        parts: Sequence[Part],
        downloads: Downloads,
    ) -> None:
        self._request = request
        self._channel = request.channel
        self._file = file
        self._parts = deque(parts)
        self._downloads = downloads
        self._state = self._look()
        self._taken = 0

    def start(self, head: bytes) -> None:
        """Send the head of the answer, and begin."""
        # Asked for later, it may never fire.
        self._request.notifyFinish().addBoth(self._ended)
        self._request.registerProducer(self, True)
        self._channel.set_deadline(WINDOW, self._check_progress)
        self._channel.write(head)

    def pauseProducing(self) -> None:
        """The client takes no more for now."""

    def resumeProducing(self) -> None:
        """Send as much as is good now: the client has taken what there was."""
        try:
            while self._parts:
                self._require_unchanged()
                if not self._send_piece():
                    return
        except (FileChanged, OSError) as error:
            self._log.error("download of {uri} cut: {why}", uri=self._request.uri, why=error)
            self._let_go()
            self._channel.close()
        else:
            self._let_go()
            self._request.finish()

    def stopProducing(self) -> None:
        """The client is gone: `notifyFinish` tells of that too."""

    def _send_piece(self) -> bool:
        """Send a piece of the first part; says whether to go on at once."""
        raise NotImplementedError

    def _unacknowledged(self) -> int:
        """Count the bytes that were handed over, and are still on this machine."""
        raise NotImplementedError

    def _account(self, part: Range, count: int) -> None:
        """Take what was sent off the first part."""
        if count == part.length:
            self._parts.popleft()
        else:
            self._parts[0] = Range(part.offset + count, part.length - count)
        self._downloads.bytes_sent += count

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _read(self, part: Range, most: int) -> bytes:
        """Read bytes that are those of the file as it was at the start."""
        data = os.pread(self._file.fileno(), min(part.length, most), part.offset)
        self._require_unchanged()
        if not data:
            raise FileChanged("the file has fewer bytes than its file system says")
        return data

    def _require_unchanged(self) -> None:
        if self._look() != self._state:
            raise FileChanged("the file was changed while it was sent")

    def _check_progress(self) -> None:
        taken = self._request.sentLength - self._unacknowledged()
        if taken - self._taken >= WINDOW * LEAST_RATE:
            self._taken = taken
            self._channel.set_deadline(WINDOW, self._check_progress)
        else:
            self._channel.abort()

    def _let_go(self) -> None:
        """Produce no more."""
        self._request.unregisterProducer()

    def _ended(self, _: object) -> None:
        self._file.close()


class _SendfileProducer(_PartsProducer):
    """A body that the kernel takes from the file to the socket."""

    _flushing = False
    #: Whether the kernel can send from this file.
    _has_sendfile = True

    def start(self, head: bytes) -> None:
        """Let the transport send the head first."""
        self._transport: Server = self._channel.transport
        self._hold_back_the_last_byte()
        self._set(socket.TCP_CORK, 1)
        super().start(head)
        self._wait_until_empty()

    def resumeProducing(self) -> None:
        """Write in the transport's place: its buffer is empty."""
        self._transport.doWrite = self._write  # type: ignore[method-assign]
        self._transport.startWriting()
        self._write()

    def _write(self) -> None:
        """Send what the socket takes now; the reactor calls it again when it takes more."""
        self._turn = self._downloads.turn
        super().resumeProducing()

    def _send_piece(self) -> bool:
        part = self._parts[0]
        if len(self._parts) == 1:
            if not self._flushing:
                self._flush()
                return False
            if isinstance(part, Range):
                last = self._read(part, part.length)
                self._account(part, part.length)
                self._parts.append(last)
                part = last
        if isinstance(part, bytes):
            self._hand_back()
            self._request.write(self._parts.popleft())
            self._wait_until_empty()
            return False
        if not self._has_sendfile:
            self._read_chunk(part)
            return True
        wanted = min(part.length, self._turn)
        try:
            count = os.sendfile(self._transport.fileno(), self._file.fileno(), part.offset, wanted)
        except BlockingIOError:
            return False
        except ConnectionError:
            self._channel.abort()
            return False
        except OSError:
            # A file system or a sandbox that has it not says so in many ways. If it is the disk
            # that fails, so does reading.
            count = 0
        if count == 0:
            self._has_sendfile = False
            return True
        self._turn -= count
        self._request.sentLength += count
        self._account(part, count)
        return count == wanted and self._turn > 0

    def _read_chunk(self, part: Range) -> None:
        """Put the beginning of the first part before it, as bytes."""
        chunk = self._read(part, _CHUNK)
        self._account(part, len(chunk))
        self._parts.appendleft(chunk)

    def _wait_until_empty(self) -> None:
        """Let the transport call `resumeProducing` when it has written all it has."""
        self._transport.producerPaused = True
        self._transport.startWriting()

    def _hand_back(self) -> None:
        # It stays registered: called once more, it sees by itself whether it is to close.
        del self._transport.doWrite

    def _let_go(self) -> None:
        self._hand_back()
        self._set(socket.TCP_NOTSENT_LOWAT, 0)
        super()._let_go()

    def _hold_back_the_last_byte(self) -> None:
        last = self._parts[-1]
        if isinstance(last, Range) and last.length > 1:
            self._parts[-1] = Range(last.offset, last.length - 1)
            self._parts.append(Range(last.offset + last.length - 1, 1))

    def _flush(self) -> None:
        """Let the kernel send all it has, and call again when it has."""
        self._flushing = True
        self._set(socket.TCP_CORK, 0)
        self._set(socket.TCP_NOTSENT_LOWAT, 1)

    def _set(self, option: int, value: int) -> None:
        """Set an option of the socket (tcp(7)): a cork lets it send full segments only."""
        # A kernel that does not know it sends all the same.
        with suppress(OSError):
            self._transport.getHandle().setsockopt(socket.IPPROTO_TCP, option, value)

    def _unacknowledged(self) -> int:
        try:
            queued = fcntl.ioctl(self._transport.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(queued, "little")


class _ReadingProducer(_PartsProducer):
    """A body that is read from the file and written to the transport, a chunk at a time."""

    _paused = False

    def start(self, head: bytes) -> None:
        """Send the head, and go on while the transport takes it."""
        super().start(head)
        if not self._paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Send until the transport's buffer is full again."""
        self._paused = False
        super().resumeProducing()

    def _send_piece(self) -> bool:
        part = self._parts[0]
        if isinstance(part, bytes):
            self._request.write(self._parts.popleft())
            return not self._paused
        chunk = self._read(part, _CHUNK)
        self._account(part, len(chunk))
        self._request.write(chunk)
        return not self._paused

    def _unacknowledged(self) -> int:
        # What a transport holds is bounded; so it takes part in any progress.
        return 0
