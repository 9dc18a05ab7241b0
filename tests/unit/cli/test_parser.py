"""What all command lines have in common."""

import argparse

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted import __version__
from opq_twisted.cli.parser import Parser, add_command
from tests.helpers.terminal import run_main


def look(_options: argparse.Namespace) -> None:
    """Look."""


def jump(_options: argparse.Namespace) -> None:
    """Jump."""


def parse(arguments: list[str]) -> int:
    """Read a command line of a small program, and print the result."""
    parser = Parser(prog="frog")
    parser.add_version()
    commands = parser.add_commands()
    sub = add_command(commands, "look", look)
    sub.add_argument("--at", default="sky")
    sub.add_argument("--json", action="store_true")
    add_command(commands, "jump", jump).add_argument("--high", type=int)
    found = vars(parser.parse_args(arguments))
    print(found.pop("command").__name__, *(f"{name}={found[name]}" for name in sorted(found)))
    return 0


class ParserTests(SynchronousTestCase):
    """`Parser`."""

    def assert_parsed(self, result: str, *arguments: str) -> None:
        self.assertEqual(run_main(parse, *arguments), (0, f"{result}\n", ""))

    def assert_wrong(self, sentence: str, *arguments: str) -> None:
        self.assertEqual(run_main(parse, *arguments), (2, "", f"frog: {sentence}\n"))

    def test_options_before_the_command(self) -> None:
        """A command's options stand before or after it, and keep their order."""
        for arguments in (
            ["look", "--at", "moon", "--json"],
            ["--at", "moon", "look", "--json"],
            ["--at=moon", "--json", "look"],
            ["--json", "look", "--at=moon"],
            ["--at", "sun", "look", "--at", "moon", "--json"],
        ):
            self.assert_parsed("look at=moon json=True", *arguments)
        self.assert_parsed("look at=sky json=False", "look")

    def test_option_of_another_command(self) -> None:
        """An option that the command does not have is refused, wherever it stands."""
        for arguments in (["--at", "moon", "jump"], ["jump", "--at", "moon"]):
            self.assert_wrong("There is no option --at for jump. Try: frog jump --help", *arguments)

    def test_mistyped(self) -> None:
        """For a mistyped command or option, the most similar one is suggested."""
        self.assert_wrong(
            "There is no command 'lok': did you mean look? Try: frog --help", "lok", "--json"
        )
        sentence = "There is no option --jsn for look: did you mean --json? Try: frog look --help"
        self.assert_wrong(sentence, "look", "--jsn=1")
        sentence = "There is no option --jsn: did you mean --json? Try: frog --help"
        self.assert_wrong(sentence, "--jsn", "look")
        self.assert_wrong("There is no command 'xyz'. Try: frog --help", "xyz")

    def test_incomplete(self) -> None:
        """Missing commands and values, and superfluous arguments, are told in a sentence."""
        for arguments in ([], ["--json"], ["--at"]):
            self.assert_wrong("Give a command: look, jump. Try: frog --help", *arguments)
        self.assert_wrong("--at: expected one argument. Try: frog look --help", "look", "--at")
        self.assert_wrong("'me' is one argument too many. Try: frog look --help", "look", "me")
        self.assert_wrong(
            "--high: invalid int value: 'up'. Try: frog jump --help", "--high=up", "jump"
        )

    def test_hostile(self) -> None:
        """Control characters of a mistake do not reach the terminal."""
        self.assertNotIn("\x1b", run_main(parse, "look", "--\x1b[31m")[2])

    def test_usage(self) -> None:
        """`--help` prints the usage, also after an option, and `--version` the version."""
        for arguments in (["--help"], ["look", "-h"], ["--json", "--help"]):
            code, out, _ = run_main(parse, *arguments)
            self.assertEqual((code, out[:12]), (0, "usage: frog "), arguments)
        self.assertEqual(run_main(parse, "--version"), (0, f"frog {__version__}\n", ""))
