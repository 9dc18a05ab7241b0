#!/usr/bin/env python3
"""Write the manual pages and the shell completions of the command lines into a folder."""

import argparse
import os
import re
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

import build_update
from opq_twisted import __version__
from opq_twisted.box import service as agent
from opq_twisted.cli.box import main as box
from opq_twisted.cli.fleet import main as fleet
from opq_twisted.cli.parser import Parser
from opq_twisted.cli.release import main as release
from opq_twisted.common.daemon_options import DaemonOptions
from opq_twisted.server import service as server

#: The name of a program's completion file, for each shell.
COMPLETIONS = {"bash": "{}", "zsh": "_{}"}


def main() -> None:
    """Write all files into the folder that the command line names."""
    # The result must not depend on the width of the terminal.
    os.environ["COLUMNS"] = "72"
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path, metavar="DIR", help="the folder to write into")
    folder: Path = arguments.parse_args().folder
    for module in (box, fleet, release, build_update):
        write(folder / "man" / f"{module.make_parser().prog}.1", page(module.make_parser()))
        complete(module.make_parser(), folder)
    # The server's manual page is deploy/server/debian/opq-update-server.8.
    for options in (agent.Options(), server.Options()):
        complete(parser_of(options), folder)


def page(parser: argparse.ArgumentParser) -> str:
    """Return a manual page in roff format."""
    manual = Manpage(parser, format="single-commands-section")
    assert parser.description
    summary = parser.description.partition("\n")[0].rstrip(".")
    manual.description = summary[0].lower() + summary[1:]
    manual.source = f"opq_twisted {__version__}"
    manual.manual = "OPQ Boxes"
    for command in commands(parser):
        # The summary above has the same text.
        command.description = None
    # Indented lines of --help must keep their line breaks.
    return re.sub(r"((?:^ .*\n)+)", r".nf\n\1.fi\n", str(manual), flags=re.MULTILINE)


def parser_of(options: DaemonOptions) -> Parser:
    """Make a parser with the options of a daemon, for completions."""
    parser = Parser(prog=options.program, add_help=False)
    for each in options.longOpt:
        name, text = each.rstrip("="), options.docs[each.rstrip("=")]
        if each == name:
            parser.add_argument(f"--{name}", help=text, action="store_true")
        else:
            # A number is completed with files, too: nothing would be of more use.
            metavar = "DIR" if name.endswith("-dir") else "FILE"
            parser.add_argument(f"--{name}", help=text, type=Path, metavar=metavar)
    return parser


def complete(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Write the completions of a program for all shells."""
    complete_paths(parser)
    for shell, name in COMPLETIONS.items():
        path = folder / "completions" / shell / name.format(parser.prog)
        write(path, shtab.complete(parser, shell))


def complete_paths(parser: argparse.ArgumentParser) -> None:
    """Complete arguments that are paths with files, or with folders."""
    for each in (parser, *commands(parser)):
        for action in each._actions:
            if action.type is Path:
                complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
                action.complete = complete  # type: ignore[attr-defined]


def commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return the parsers of all commands."""
    return [
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in action.choices.values()
    ]


def write(path: Path, text: str) -> None:
    """Write a file, and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
