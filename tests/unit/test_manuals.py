"""The manual pages and the shell completions that `make manuals` writes."""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import build_manuals
import build_update
from opq_twisted.cli.box import main as box
from opq_twisted.cli.fleet import main as fleet
from opq_twisted.cli.release import main as release
from tests.helpers.privileges import tool
from tests.helpers.project import PROJECT
from tests.helpers.terminal import on_terminal

PARSERS = [module.make_parser() for module in (box, fleet, release, build_update)]
NAMES = [parser.prog for parser in PARSERS]
DAEMONS = ["opq-box-agent", "opq-update-server"]


def plain(page: str) -> str:
    """Replace the typographic characters of a page."""
    return re.sub("\x1b\\[[0-9;]*m|.\b", "", page)


@cache
def build() -> Path:
    """Build all pages and completions once for all tests."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    subprocess.run(
        [sys.executable, PROJECT / "build_manuals.py", folder],
        # Neither the terminal nor the day may show.
        env={**os.environ, "COLUMNS": "30", "SOURCE_DATE_EPOCH": "1547860803"},
        check=True,
    )
    return folder


class ManualsCase(SynchronousTestCase):
    """All pages and completions, in a folder."""

    def setUp(self) -> None:
        self.folder = build()


class PageTests(ManualsCase):
    """The manual pages."""

    def test_all(self) -> None:
        """Each program has a page, and completions for bash and zsh."""
        files = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        for name in NAMES:
            each = {f"man/{name}.1", f"completions/bash/{name}", f"completions/zsh/_{name}"}
            self.assertLessEqual(each, files)
        for name in DAEMONS:
            self.assertLessEqual({f"completions/bash/{name}", f"completions/zsh/_{name}"}, files)

    def test_valid(self) -> None:
        """The formatter prints no warnings."""
        for page in (self.folder / "man").iterdir():
            self.assertEqual(self.format(page, "-Tutf8", "-z").stderr, "")

    def test_complete(self) -> None:
        """Each command and each option of `--help` is in the page, with its description."""
        for parser in PARSERS:
            page = self.folder / "man" / f"{parser.prog}.1"
            # Lines so long that nothing is hyphenated.
            text = plain(self.format(page, "-Tascii", "-rLL=300n").stdout)
            self.assertIn(f"{parser.prog} - ", text)
            for each in build_manuals.commands(parser) or [parser]:
                section = text
                if each is not parser:
                    section = text.partition(f"\n   {each.prog}\n")[2]
                    section = section.partition(f"\n   {parser.prog} ")[0]
                options = re.findall(r"^ +(--[a-z-]+)", each.format_help(), re.M)
                self.assertTrue(options)
                for option in options:
                    self.assertRegex(section, f"\n +{option}[ \n]")

    def format(self, page: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        """Format a page for a terminal, with all warnings."""
        return subprocess.run(
            [tool("groff"), "-man", "-ww", *options, page],
            capture_output=True,
            text=True,
            check=True,
        )

    def test_reproducible(self) -> None:
        """The same sources make the same bytes."""
        page = (self.folder / "man" / "opq-box.1").read_text()
        self.assertIn("2019", page)
        self.assertNotIn(str(PROJECT), page)


class CompletionTests(ManualsCase):
    """The completions, in a real shell."""

    def setUp(self) -> None:
        super().setUp()
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()

    def typed(self, text: str, completed: str) -> None:
        """Type a text and the tabulator in bash, and check the completed line."""
        setup = self.place / "setup"
        files = [self.folder / "completions" / "bash" / name for name in (*NAMES, *DAEMONS)]
        sources = "".join(f"source {file}\n" for file in files)
        setup.write_text(f"{sources}cd {self.place}\nPS1='ready> '\n")
        prompts = {b"ready> ": f"{text}\t".encode(), completed.encode(): b"\x15exit\n"}
        said, status = on_terminal(
            *(tool("bash"), "--noprofile", "--rcfile", setup, "-i"),
            prompts=prompts,
            environment={"TERM": "dumb", "INPUTRC": os.devnull},
        )
        self.assertEqual(status, 0, said)
        self.assertIn(f"ready> {completed}", said)

    def test_command(self) -> None:
        """A command is completed."""
        self.typed("opq-box st", "opq-box status ")
        self.typed("opq-release rot", "opq-release rotate ")
        self.typed("opq-fleet wi", "opq-fleet widen ")

    def test_option(self) -> None:
        """An option is completed, also if the program is called by its path."""
        self.typed("opq-box update --pass", "opq-box update --password-file ")
        self.typed("./build_update.py --no", "./build_update.py --no-wheels ")
        self.typed("opq-update-server --up", "opq-update-server --updates-dir ")

    def test_file(self) -> None:
        """A path is completed for an option that needs a file."""
        (self.place / "archive.tar.bz2").touch()
        self.typed("opq-box adopt arch", "opq-box adopt archive.tar.bz2 ")
