"""Reads a command line, and explains a mistake in it in one sentence."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from opq_twisted import __version__
from opq_twisted.cli.program import say_line, warn
from opq_twisted.common import wording

#: Does a command, and returns the exit code, or None for 0; its docstring is its help.
Command = Callable[[argparse.Namespace], int | None]

#: The exit code for a wrong command line.
_WRONG = 2


class Parser(argparse.ArgumentParser):
    """
    Prints the usage only for `--help`.

    The options of a command can also stand before it: `opq-box --url URL status`.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(allow_abbrev=False, **more)
        self._commands: Mapping[str, Parser] = {}

    def add_version(self) -> None:
        """Define `--version`."""
        text = "print the version and exit"
        self.add_argument(
            "--version", action="version", version=f"{self.prog} {__version__}", help=text
        )

    def add_commands(self) -> Any:
        """Define that a command follows, for `add_command`."""
        commands = self.add_subparsers(title="commands", required=True, metavar="COMMAND")
        self._commands = commands.choices
        return commands

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse a command line that has no unknown arguments."""
        given = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(
            self._command_first(given) if self._commands else given, namespace
        )
        if unknown:
            self._refuse(unknown[0], self._option_string_actions)
        return found, []

    def error(self, message: str) -> NoReturn:
        """Print a sentence, and exit."""
        warn(wording.wrong_command_line(self.prog, message.removeprefix("argument ")))
        raise SystemExit(_WRONG)

    def _print_message(self, message: str, _file: object = None) -> None:
        """Print the help or the version."""
        say_line(message.rstrip("\n"))

    def _command_first(self, args: list[str]) -> list[str]:
        """Move the options that stand before the command behind it."""
        known = {
            name: action
            for command in self._commands.values()
            for name, action in command._option_string_actions.items()
        }
        position = 0
        while position < len(args) and args[position].startswith("-"):
            name, equals, _ = args[position].partition("=")
            if name in self._option_string_actions:
                return args
            if name not in known:
                self._refuse(args[position], known)
            # nargs is None for an option with one value, and 0 for a flag.
            position += 2 if known[name].nargs is None and not equals else 1
        if position >= len(args):
            self.error(f"give a command: {', '.join(self._commands)}")
        return [args[position], *args[:position], *args[position + 1 :]]

    def _refuse(self, argument: str, known: Mapping[str, object]) -> NoReturn:
        if not argument.startswith("-"):
            self.error(f"{argument!r} is one argument too many")
        name = argument.partition("=")[0]
        command = self.prog.partition(" ")[2]
        where = f" for {command}" if command else ""
        self.error(f"there is no option {name}{where}{wording.did_you_mean(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is self._commands and value not in self._commands:
            guess = wording.did_you_mean(value, self._commands)
            raise argparse.ArgumentError(None, f"there is no command {value!r}{guess}")
        super()._check_value(action, value)


def add_command(commands: Any, name: str, command: Command) -> Parser:
    """
    Define a command for `opq_twisted.cli.program.run`.

    :param commands: the result of `add_commands`, whose class is private to argparse.
    """
    sub: Parser = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
    sub.set_defaults(command=command)
    return sub
