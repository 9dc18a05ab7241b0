"""Compresses bytes into a bzip2 file, with lbzip2 on all cores if it is installed."""

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
    """An object to which bytes can be written."""

    def write(self, data: bytes, /) -> object:
        """Write all of the data."""


#: Returns a context that compresses all written bytes into an open file. The end of the context
#: completes the bzip2 file, unless there was an error.
Compress = Callable[[BinaryIO], AbstractContextManager[Writable]]

#: Bytes of a stream. Its last block is shorter than 900 kB, so that a stream has several blocks.
_CHUNK = 4 * 900_000
#: lbzip2 reads more options from these variables, which would change the result.
_LBZIP2_VARIABLES = ("LBZIP2", "BZIP2", "BZIP")


def fastest(output: BinaryIO) -> AbstractContextManager[Writable]:
    """
    Compress with lbzip2 if there is one, otherwise with the standard library.

    The result of each depends only on the input, and not on the number of cores; the results of the
    two differ.
    """
    return with_lbzip2(output) if shutil.which("lbzip2") else with_stdlib(output)


@contextmanager
def with_lbzip2(output: BinaryIO) -> Iterator[Writable]:
    """
    Compress in a child process, which ends with the context.

    :raises BuildFailed: with the error message of lbzip2, if it fails.
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
            # Ctrl-C must reach only the builder, which then ends its child.
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
            said = complaints.read().decode(errors="replace").strip()
            reason = said.rpartition(": ")[2] or f"it ended with status {child.returncode}"
            raise BuildFailed(
                f"lbzip2 could not write the archive ({reason}): fix that and build again."
            )


class _Pipe:
    """Writes all data to an unbuffered pipe: a buffer could fail again when it is closed."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def write(self, data: bytes, /) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._pipe.write(rest) :]


@contextmanager
def with_stdlib(output: BinaryIO) -> Iterator[Writable]:
    """Compress in threads of this process; raise `OSError` if the file cannot be written."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        streams = _Streams(output, pool, 2 * (os.cpu_count() or 1))
        yield streams
        streams.finish()


class _Streams:
    """Writes a bzip2 file of many streams, each of which can be compressed on its own core."""

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
        # Data that is read faster than it is compressed must not fill the memory.
        if len(self._waiting) > self._most_waiting:
            self._write_oldest()

    def _write_oldest(self) -> None:
        self._output.write(self._waiting.popleft().result())
