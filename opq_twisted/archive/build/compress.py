"""Write bytes as a bzip2 file, with lbzip2 on all cores where the machine has it."""

import bz2
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from subprocess import PIPE, Popen
from typing import IO, BinaryIO, Protocol

from opq_twisted.common.errors import BuildFailed


class Writable(Protocol):
    """What bytes can be written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of the data."""


#: Makes something that compresses what is written to it into an open file. Leaving the context
#: completes the bzip2 file, unless an error leaves it.
Compress = Callable[[BinaryIO], AbstractContextManager[Writable]]

#: A stream's last block is cut short, so each stream holds several blocks of 900 kB.
_CHUNK = 4 * 900_000
#: lbzip2 takes further arguments from these, which would change the bytes.
_LBZIP2_VARIABLES = ("LBZIP2", "BZIP2", "BZIP")


def fastest(output: BinaryIO) -> AbstractContextManager[Writable]:
    """
    Compress with lbzip2 if there is one, otherwise with the standard library.

    Each gives the same bytes for the same input on any number of cores, and other bytes than the
    other one.
    """
    return with_lbzip2(output) if shutil.which("lbzip2") else with_stdlib(output)


@contextmanager
def with_lbzip2(output: BinaryIO) -> Iterator[Writable]:
    """
    Compress in a child process, which is gone when the context is left.

    :raises BuildFailed: with lbzip2's own complaint, when it fails.
    """
    environment = {key: os.environ[key] for key in os.environ if key not in _LBZIP2_VARIABLES}
    with (
        tempfile.TemporaryFile() as complaints,
        Popen(
            ["lbzip2", "-9"],
            stdin=PIPE,
            stdout=output,
            stderr=complaints,
            env=environment,
            bufsize=0,
            # Ctrl-C is for the builder, which then ends its child.
            process_group=0,
        ) as child,
    ):
        assert child.stdin is not None
        try:
            yield _Pipe(child.stdin)
            child.stdin.close()
            is_whole = child.wait() == 0
        except BrokenPipeError:
            child.wait()
            is_whole = False
        finally:
            child.kill()
        if not is_whole:
            complaints.seek(0)
            raise _failure(child.returncode, complaints.read().decode(errors="replace"))


class _Pipe:
    """An unbuffered pipe that takes all: a buffer could fail once more when it is closed."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def write(self, data: bytes, /) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._pipe.write(rest) :]


def _failure(status: int, complaints: str) -> BuildFailed:
    reason = complaints.strip().rpartition(": ")[2] or f"it ended with status {status}"
    return BuildFailed(f"lbzip2 could not write the archive ({reason}): mend that and build again.")


@contextmanager
def with_stdlib(output: BinaryIO) -> Iterator[Writable]:
    """
    Compress in threads of this process.

    :raises OSError: when the file cannot be written.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        streams = _Streams(output, pool, 2 * (os.cpu_count() or 1))
        yield streams
        streams.finish()


class _Streams:
    """A bzip2 file of many streams: they are independent, so each can have a core of its own."""

    def __init__(self, output: BinaryIO, pool: ThreadPoolExecutor, most_waiting: int) -> None:
        self._output = output
        self._pool = pool
        self._most_waiting = most_waiting
        self._waiting: deque[Future[bytes]] = deque()
        self._chunk = bytearray()

    def write(self, data: bytes, /) -> None:
        self._chunk += data
        while len(self._chunk) >= _CHUNK:
            self._submit(bytes(self._chunk[:_CHUNK]))
            del self._chunk[:_CHUNK]

    def finish(self) -> None:
        if self._chunk:
            self._submit(bytes(self._chunk))
        while self._waiting:
            self._write_oldest()

    def _submit(self, chunk: bytes) -> None:
        self._waiting.append(self._pool.submit(bz2.compress, chunk))
        # What is read faster than it is compressed must not fill the memory.
        if len(self._waiting) > self._most_waiting:
            self._write_oldest()

    def _write_oldest(self) -> None:
        self._output.write(self._waiting.popleft().result())
