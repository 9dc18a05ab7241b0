"""What the programs print fits the terminal."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import sys
import termios
from typing import TextIO

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.cli.program import say, say_line, warn
from opq_twisted.common import terminal
from opq_twisted.common.progress_bar import ProgressBar

SENTENCE = "There is no signed metadata here. The server keeps the previous one until there is."


class TerminalCase(SynchronousTestCase):
    """A pseudo-terminal."""

    def make_terminal(self, columns: int) -> TextIO:
        """Open a terminal of this width."""
        self.master, slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(slave, "w")
        self.addCleanup(self.stream.close)
        return self.stream

    def shown(self) -> list[str]:
        """Return the lines that the terminal has got, also those that were overwritten."""
        self.stream.close()
        got = b""
        with contextlib.suppress(OSError):  # the end
            while piece := os.read(self.master, 65536):
                got += piece
        return got.decode().replace("\r", "\n").split("\n")


class WidthTests(TerminalCase):
    """`terminal.columns`."""

    def test_columns(self) -> None:
        """A terminal that does not know its width has 80 columns; other streams have none."""
        self.assertEqual(terminal.columns(self.make_terminal(40)), 40)
        self.assertEqual(terminal.columns(self.make_terminal(0)), 80)
        self.assertIsNone(terminal.columns(io.StringIO()))
        self.assertIsNone(terminal.columns(None))


class WrappingTests(TerminalCase):
    """`say` and `warn`."""

    def test_wrapped(self) -> None:
        """On a terminal, text is wrapped at words, and only its first line is not indented."""
        self.patch(sys, "stdout", self.make_terminal(40))
        say(f"Notes    {SENTENCE}\n- opq-box-update-{'1' * 40}.tar.bz2", indent=9)
        first, *others, last = [line for line in self.shown() if line]
        self.assertEqual(first, "Notes    There is no signed metadata")
        self.assertEqual({line[:9] for line in others}, {" " * 9})
        self.assertLessEqual(max(map(len, others)), 40)
        self.assertEqual(last, f"{' ' * 9}opq-box-update-{'1' * 40}.tar.bz2")
        words = " ".join([first, *others]).split()
        self.assertEqual(words, ["Notes", *SENTENCE.split(), "-"])

    def test_errors(self) -> None:
        """The same on standard error."""
        self.patch(sys, "stderr", self.make_terminal(40))
        warn(SENTENCE)
        self.assertLessEqual(max(map(len, self.shown())), 40)

    def test_as_it_is(self) -> None:
        """A line for programs is not wrapped, and text in a pipe is only indented."""
        self.patch(sys, "stdout", self.make_terminal(40))
        say_line(SENTENCE + "  ")
        self.assertIn(SENTENCE + "  ", self.shown())
        piped = io.StringIO()
        self.patch(sys, "stdout", piped)
        say(f"Notes  {SENTENCE}\nMore.", indent=7)
        self.assertEqual(piped.getvalue(), f"Notes  {SENTENCE}\n       More.\n")


class ProgressTests(TerminalCase):
    """`ProgressBar`."""

    def draw(self, columns: int) -> list[str]:
        self.patch(sys, "stderr", self.make_terminal(columns))
        with ProgressBar(300_000_000) as progress:
            for _ in range(3):
                progress(100_000_000)
        return [line for line in self.shown() if line]

    def test_fits(self) -> None:
        """The bar is as long as the terminal allows, and full at the end."""
        self.assertEqual(self.draw(80)[-1], f"[{'#' * 25}] 100 % of 300.0 MB")
        self.assertEqual(self.draw(40)[-1], f"[{'#' * 19}] 100 % of 300.0 MB")
        self.assertEqual(self.draw(15)[-1], "100 % of 300.0 MB")

    def test_length(self) -> None:
        """No line reaches the last column."""
        for columns in (24, 40, 80):
            self.assertLess(max(map(len, self.draw(columns))), columns)
