"""The common options of the daemons, as plugins of twistd and as programs of their own."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from twisted.python import usage

from opq_twisted import __version__
from opq_twisted.common.log import log_to_standard_output
from opq_twisted.common.wording import did_you_mean, wrong_command_line


class WrongCommandLine(SystemExit):
    """A mistake in the command line, which was printed: the process exits with 2."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 2


class DaemonOptions(usage.Options):
    """Prints a mistake in the command line as one sentence; only `--help` prints the usage."""

    #: The name of the program, which is also that of the plugin.
    program: str

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line; raise `WrongCommandLine` after a mistake was printed."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            self._refuse(str(error).removeprefix("Parameter type enforcement failed: "))

    def postOptions(self) -> None:
        """Make logging non-blocking."""
        log_to_standard_output(self.parent)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse all arguments that are not options."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is one argument too many")

    def opt_version(self) -> None:
        """Display the version, and exit."""
        _print_and_exit(f"{self.program} {__version__}")

    def opt_help(self) -> None:
        """Display this help, and exit."""
        _print_and_exit(str(self))

    opt_h = opt_help

    def getSynopsis(self) -> str:
        """Return the beginning of the usage."""
        return f"Usage: {self.program} [options]"

    def getUsage(self, width: int | None = None) -> str:
        """Return the usage for the width of the terminal."""
        usage_text: str = super().getUsage(width or shutil.get_terminal_size().columns)
        return usage_text

    def _refuse(self, reason: str) -> NoReturn:
        unknown = re.fullmatch(r"option (-\S*) not recognized", reason)
        if unknown:
            known = [f"--{each.rstrip('=')}" for each in self.longOpt]
            reason = f"there is no option {unknown[1]}{did_you_mean(unknown[1], known)}"
        if sys.stderr is not None:
            with suppress(OSError):
                print(wrong_command_line(self.program, reason), file=sys.stderr)
        raise WrongCommandLine(reason)


def _print_and_exit(text: str) -> NoReturn:
    try:
        print(text, flush=True)
    except OSError as error:
        # Discard the rest, so that Python does not try to write it when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(f"The output cannot be written: {error.strerror}.") from None
    raise SystemExit(0)
