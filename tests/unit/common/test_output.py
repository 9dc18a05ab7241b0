"""Lines are written completely, or lost completely, and do not block their writer."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from twisted.logger import LogEvent, Logger, formatEvent
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.log import MAX_PER_MINUTE, RepeatCounter, log_to_standard_output
from opq_twisted.common.output import Output, WholeLines
from opq_twisted.common.sighup import SighupHandler


class WholeLinesTests(SynchronousTestCase):
    """`WholeLines`, on a pipe that accepts only a part."""

    def setUp(self) -> None:
        self.read, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(self.read, False)
        self.lines = WholeLines(write)
        self.addCleanup(os.close, self.read)
        self.addCleanup(self.lines.close)

    def drain(self) -> bytes:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.read, 65536):
                data += piece
        return data

    def test_full(self) -> None:
        """The rest of an unfinished line is written first; the lines after it are lost."""
        sent = [b"%06d %s\n" % (number, b"x" * 500) for number in range(500)]
        with self.assertRaises(BlockingIOError):
            self.lines.write(b"".join(sent))
        with self.assertRaises(BlockingIOError):
            self.lines.write(b"lost\n")
        received = self.drain()
        self.assertNotEqual(received[-1:], b"\n", "a pipe takes a part")
        self.lines.write(b"after\n")
        received += self.drain()
        *whole, last = received.splitlines(keepends=True)
        self.assertEqual((whole, last), (sent[: len(whole)], b"after\n"))

    def test_close_fails(self) -> None:
        """The descriptor is closed even if the file system reports a full disk only then."""
        another = WholeLines(os.dup(self.read))
        os.close(another._fd)
        another.close()

    def test_nothing_taken(self) -> None:
        """The rest of a line is kept while nothing can be written."""
        self.lines = WholeLines(self.lines._fd, rest=b"rest\n")
        os.write(self.lines._fd, b"x" * 65536)
        for _ in range(2):
            with self.assertRaises(BlockingIOError):
                self.lines.write(b"lost\n")
        self.drain()
        self.lines.write(b"after\n")
        self.assertEqual(self.drain(), b"rest\nafter\n")


class OutputTests(SynchronousTestCase):
    """`Output`, without a reader for some time."""

    def make(self, blocking: bool = True) -> Output:
        self.read, self.write = os.pipe()
        os.set_blocking(self.write, blocking)
        return Output(self.write)

    def read_all(self, pieces: list[bytes]) -> None:
        while piece := os.read(self.read, 65536):
            pieces.append(piece)

    def test_written(self) -> None:
        """Lines with any characters are written."""
        output = self.make()
        output.write("one \u00e9 \udcff\n")
        output.write(b"two\n")
        self.assertEqual(os.read(self.read, 100), b"one \xc3\xa9 \\udcff\ntwo\n")

    def test_nobody_reads(self) -> None:
        """No call waits long; surplus lines are lost as a whole, and their number is logged."""
        for blocking in (True, False):
            output = self.make(blocking)
            for number in range(3000):
                output.write(f"{number} {'x' * 1000}\n")
            pieces: list[bytes] = []
            reader = threading.Thread(target=self.read_all, args=(pieces,))
            reader.start()
            output.drain()
            output.write("last\n")
            output.drain()
            os.close(self.write)
            reader.join()
            received = b"".join(pieces)
            lines = received.decode().splitlines()
            numbers = [int(line.split()[0]) for line in lines if line.endswith("x")]
            lost = re.findall(rb"^\((\d+) lines are missing here: nobody took them", received, re.M)
            self.assertEqual(numbers, sorted(numbers))
            self.assertEqual(len(numbers) + sum(map(int, lost)), 3000)
            self.assertEqual(len(numbers) + len(lost) + 1, len(lines))

    def test_none(self) -> None:
        """Without a standard output, nothing is written to the descriptor with its number."""
        output = Output(None)
        output.write("lost\n")
        output.drain()
        self.assertIsNone(output._thread)

    def test_reader_gone(self) -> None:
        """A pipe without a reader is no error."""
        output = self.make()
        os.close(self.read)
        for _ in range(2):
            output.write("lost\n")
            output.drain()
        self.assertEqual(output._size, 0)

    def test_end(self) -> None:
        """A process whose output has no reader ends nevertheless."""
        program = """
from opq_twisted.common.output import standard_output
for _ in range(1000):
    standard_output().write("x" * 999 + "\\n")
"""
        with socket.socketpair()[0] as ours:
            process = subprocess.Popen([sys.executable, "-c", program], stdout=ours.fileno())
            self.addCleanup(process.kill)
            self.assertEqual(process.wait(timeout=20), 0)


class RepeatCounterTests(SynchronousTestCase):
    """Repeated lines."""

    def setUp(self) -> None:
        self.now = 0.0
        self.written: list[str] = []
        self.counter = RepeatCounter(self.write, lambda: self.now)
        self.log = Logger("opq", observer=self.counter)

    def write(self, event: LogEvent) -> None:
        self.written.append(formatEvent(event))

    def test_few(self) -> None:
        """Lines below the limit are written unchanged."""
        for minute in range(3):
            self.now = minute * 60.0
            for number in range(MAX_PER_MINUTE):
                self.log.info("Line {number}.", number=number)
        self.assertEqual(len(self.written), 3 * MAX_PER_MINUTE)

    def test_many(self) -> None:
        """Surplus lines of one format are counted; lines of other formats are written."""
        for number in range(MAX_PER_MINUTE + 1234):
            self.log.info("Line {number}.", number=number)
        self.log.info("Another line.")
        self.assertEqual(self.written[MAX_PER_MINUTE:], ["Another line."])
        self.now = 60.0
        self.log.info("Line {number}.", number=0)
        self.assertEqual(
            self.written[MAX_PER_MINUTE + 1 :],
            [f"Line {MAX_PER_MINUTE + 1233}. (1,234 more of these in a minute.)", "Line 0."],
        )

    def test_where(self) -> None:
        """Only a log to standard output is changed."""
        for options, taken in (
            ({"nodaemon": 1, "logfile": None, "syslog": 0, "logger": None}, True),
            ({"nodaemon": 1, "logfile": "-", "syslog": 0, "logger": None}, True),
            ({"nodaemon": 1, "logfile": "a.log", "syslog": 0, "logger": None}, False),
            ({"nodaemon": 1, "logfile": None, "syslog": 1, "logger": None}, False),
            ({"nodaemon": 0, "logfile": None, "syslog": 0, "logger": None}, False),
        ):
            twistd = usage.Options()
            twistd.update(options)
            log_to_standard_output(twistd)
            self.assertEqual(twistd["logger"] is not None, taken, options)


class HangupTests(SynchronousTestCase):
    """SIGHUP."""

    def setUp(self) -> None:
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        # The tests themselves may have been started with nohup(1).
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self.done: list[str] = []

    def callFromThread(self, action: Any) -> None:
        """Stand in for the reactor."""
        self.assertIs(threading.current_thread(), threading.main_thread())
        action()

    def test_taken(self) -> None:
        """The signal calls the function, and does not end the process."""
        SighupHandler(self, lambda: self.done.append("reopened")).startService()
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(self.done, ["reopened"])

    def test_ignored(self) -> None:
        """The signal stays ignored in a process that was started by nohup(1)."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        SighupHandler(self, lambda: self.done.append("reopened")).startService()
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(self.done, [])

    def test_children(self) -> None:
        """A child process ends by the signal as usual."""
        SighupHandler(self).startService()
        child = subprocess.run(
            [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGHUP).name)"],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(child.stdout, "SIG_DFL\n")
