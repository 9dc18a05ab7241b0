"""The command line of a daemon."""

import io
import os
import sys
from typing import ClassVar

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted import __version__
from opq_twisted.common.daemon_options import DaemonOptions, WrongCommandLine
from tests.helpers.terminal import run_main


def _even(text: str) -> int:
    if int(text) % 2:
        raise ValueError(f"--number {text}: give an even number.")
    return int(text)


class _Options(DaemonOptions):
    program = "frog"
    optParameters: ClassVar = [["number", "n", 2, "an even number", _even]]
    optFlags: ClassVar = [["jump", None, "jump"]]


def parse(arguments: list[str]) -> int:
    options = _Options()
    options.parseOptions(arguments)
    print(options["number"], options["jump"])
    return 0


class DaemonOptionsTests(SynchronousTestCase):
    """`DaemonOptions`."""

    def assert_wrong(self, sentence: str, *arguments: str) -> None:
        expected = f"frog: {sentence} Try: frog --help\n"
        self.assertEqual(run_main(parse, *arguments), (2, "", expected))

    def test_right(self) -> None:
        """Options have their values."""
        self.assertEqual(run_main(parse, "-n", "4", "--jump"), (0, "4 1\n", ""))

    def test_wrong(self) -> None:
        """A mistake is told in a sentence, and ends the program with 2."""
        self.assert_wrong("There is no option --numbr: did you mean --number?", "--numbr=3")
        self.assert_wrong("There is no option -x.", "-x")
        self.assert_wrong("--number 3: give an even number.", "--number", "3")
        self.assert_wrong("'pond' is one argument too many.", "--jump", "pond", "lake")
        self.assert_wrong("Option --number requires argument.", "--number")

    def test_plugin(self) -> None:
        """The same if twistd reads the command line: it prints nothing else."""

        class Twistd(usage.Options):
            subCommands: ClassVar = [["frog", None, _Options, "A frog"]]

        self.patch(sys, "stderr", io.StringIO())
        error = self.assertRaises(WrongCommandLine, Twistd().parseOptions, ["frog", "--jmp"])
        self.assertEqual(error.code, 2)

    def test_closed(self) -> None:
        """The program also ends with 2 if standard error is closed."""
        self.patch(sys, "stderr", None)
        self.assertRaises(WrongCommandLine, _Options().parseOptions, ["--jmp"])

    def test_usage(self) -> None:
        """`--help` prints the usage for the width of the terminal, `--version` the version."""
        self.patch(os, "environ", {"COLUMNS": "40"})
        code, out, _ = run_main(parse, "--help")
        self.assertEqual((code, out[:22]), (0, "Usage: frog [options]\n"))
        self.assertLess(max(map(len, out.splitlines())), 41)
        self.assertEqual(run_main(parse, "-h")[:2], (0, out))
        self.assertEqual(run_main(parse, "--version"), (0, f"frog {__version__}\n", ""))
