"""The documentation says what the programs say, and its links lead somewhere."""

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

import yaml
from attrs import fields
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Status
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.report.codes import RELEASE_AT_FAULT, Reason, Waiting
from opq_twisted.server.service import Options
from tests.helpers import stage_diagram
from tests.helpers.documentation import PAGES, ROOT, anchors, links, rows
from tests.helpers.terminal import run_main

TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"

#: The titles of the columns with printed sentences.
SENTENCES = (
    "the page says",
    "the log says",
    "the journal says",
    "its log says",
    "the answer",
    "it prints",
)

#: The programs with commands, `opq-box` and so on.
PROGRAMS = ("box", "fleet", "release")

#: Marks a variable part of a sentence.
ANYTHING = "\0"

#: A sentence whose longest fixed part is shorter would be found anywhere.
SHORTEST = 10


def words_of(node: ast.expr) -> str:
    """Return the text of a string in a source, with a mark for each variable part."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words_of, node.values))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # The fields of Twisted's logger.
        return re.sub(r"\{[a-z_]+[^}]*\}", ANYTHING, node.value)
    return ANYTHING


def strings_of(path: Path) -> Iterator[str]:
    """Yield the strings of a program; those of a script are its lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        nodes = list(ast.walk(ast.parse(text)))
        # Docstrings are not printed; the parts of an f-string belong to the whole.
        apart = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        apart |= {
            id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in nodes:
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in apart:
                yield words_of(node)
    else:
        for line in text.splitlines():
            if not line.lstrip().startswith(("#", "<!--")):
                yield re.sub(r"\$\(\(.*?\)\)|\$\w+", ANYTHING, line)


def sources() -> Iterator[Path]:
    """Yield the files that print sentences."""
    yield ROOT / "build_update.py"
    yield from (ROOT / "opq_twisted").rglob("*.py")
    yield from (ROOT / "opq_twisted" / "box" / "web" / "page").glob("*.html")
    yield ROOT / "opq_twisted" / "box" / "install" / "preflight.sh"
    yield ROOT / "deploy" / "box" / "install_update.sh"
    yield ROOT / "deploy" / "box" / "bin" / "release-python"
    yield ROOT / "deploy" / "box" / "rescue" / "opq-box-rescue"


def sentences(path: Path) -> list[str]:
    """Return the sentences that a page says are printed."""
    found = rows(path.read_text(encoding="utf-8"), *SENTENCES)
    return [sentence for cell, *_ in found for sentence in re.findall("`([^`]+)`", cell)]


class SentenceTests(SynchronousTestCase):
    """The printed sentences in the documentation."""

    maxDiff = None

    strings = "\n".join(string for path in sources() for string in strings_of(path))

    def is_printed(self, sentence: str) -> bool:
        """Tell whether the fixed parts of a sentence are in one string, in their order."""
        fixed = map(re.escape, sentence.strip("…").split("…"))
        # An ellipsis may also stand for fixed text, but not for the end of a string.
        between = f"[^\n]*{ANYTHING}[^\n]*"
        return re.search(between.join(fixed), self.strings) is not None

    def test_sentences_are_printed(self) -> None:
        """Each sentence that a page explains is printed by a program."""
        explained = {path: sentences(path) for path in PAGES}
        self.assertGreater(len(explained[TROUBLESHOOTING]), 100)
        unknown = [
            f"{path.name}: {sentence}"
            for path, found in explained.items()
            for sentence in found
            if not self.is_printed(sentence)
        ]
        self.assertEqual("\n".join(unknown), "")

    def test_sentences_can_be_distinguished(self) -> None:
        """Each sentence has a fixed part that is long enough to be found."""
        found = sentences(TROUBLESHOOTING)
        vague = [each for each in found if max(map(len, each.split("…"))) < SHORTEST]
        self.assertEqual("\n".join(vague), "")

    def test_another_sentence_is_missed(self) -> None:
        """A sentence that no program prints is noticed."""
        self.assertFalse(self.is_printed("Cannot reach the … update server"))
        self.assertTrue(self.is_printed("Cannot reach the update server …"))


class LinkTests(SynchronousTestCase):
    """The links of the documentation."""

    def test_links_lead_somewhere(self) -> None:
        """Each link within the project leads to a file, and to a section of it."""
        broken = []
        for page in PAGES:
            for link in links(page.read_text(encoding="utf-8")):
                name, _, anchor = link.partition("#")
                target = page.parent / name if name else page
                # Repository hosts show folders, but the site cannot.
                if not target.is_file() or (
                    anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
                ):
                    broken.append(f"{page.name}: {link}")
        self.assertEqual(broken, [])


class SiteTests(SynchronousTestCase):
    """What mkdocs.yml says of the documentation."""

    def test_navigation(self) -> None:
        """The site's navigation has each page once."""
        nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
        named = re.findall(r"[\w-]+\.md", str(nav))
        generated = [f"{path.stem}.md" for path in (ROOT / "docs" / "openapi").iterdir()]
        expected = [*(page.name for page in PAGES), "CHANGELOG.md", *generated]
        self.assertEqual(sorted(named), sorted(expected))


class ExampleTests(SynchronousTestCase):
    """What docs/your-own-boxes.md says of the example."""

    def test_files(self) -> None:
        """The page has the text of each file of the component, except its settings."""
        page = (ROOT / "docs" / "your-own-boxes.md").read_text(encoding="utf-8")
        example = ROOT / "examples" / "mysensor"
        for name in ("mysensor.py", "requirements.txt", "systemd/mysensor.service", "install.sh"):
            self.assertIn(f"\n{(example / name).read_text(encoding='utf-8')}```\n", page)


class ContributingTests(SynchronousTestCase):
    """What CONTRIBUTING.md says of the sources."""

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

    def test_places(self) -> None:
        """Each `file: words` of its tables is a file with these words."""
        named = re.findall("`([^` ]+): ([^`]+)`", self.text)
        self.assertGreater(len(named), 40)
        wrong = [
            f"{name}: {words}"
            for name, words in named
            if not (ROOT / name).is_file() or words not in (ROOT / name).read_text(encoding="utf-8")
        ]
        self.assertEqual(wrong, [])

    def test_commands(self) -> None:
        """The tests that it runs are there."""
        modules = re.findall(r"trial (\S+)", self.text)
        self.assertNotEqual(modules, [])
        for module in modules:
            self.assertIsNotNone(find_spec(module), module)
        [(path, word)] = re.findall(r"pytest (\S+) -k (\w+)", self.text)
        self.assertRegex((ROOT / path).read_text(encoding="utf-8"), rf"def test_\w*{word}")


class ChangesTests(SynchronousTestCase):
    """The lines for the changelog."""

    def test_one_line_each(self) -> None:
        """Each file has a name that towncrier knows, which leaves out others, and one sentence."""
        files = {*(ROOT / "changes").iterdir()} - {ROOT / "changes" / "template.md"}
        for path in files:
            self.assertRegex(path.name, r"\A[0-9]+\.(feature|bugfix)(\.[0-9]+)?\.md\Z")
            self.assertRegex(path.read_text(encoding="utf-8"), r"\A\S.*[.`]\n\Z", path.name)


class ArchitectureTests(SynchronousTestCase):
    """What docs/architecture.md says of the sources."""

    def test_modules(self) -> None:
        """Each module or package that it names is there."""
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        package = ROOT / "opq_twisted"
        packages = [path.name for path in package.iterdir() if (path / "__init__.py").exists()]
        named = set(re.findall(rf"`((?:{'|'.join(packages)})(?:/[a-z_]+)*)`", text))
        self.assertGreater(len(named), 50)
        missing = [
            name
            for name in named
            if not (package / name).is_dir() and not (package / f"{name}.py").is_file()
        ]
        self.assertEqual(missing, [])

    def test_stages(self) -> None:
        """Its diagram shows the stages as they are, and `make diagram` changes nothing."""
        page = stage_diagram.PAGE.read_text(encoding="utf-8")
        self.assertIn(f"    {Stage.DOWNLOADING} --> {Stage.VERIFYING}\n", page)
        self.assertEqual(stage_diagram.drawn_in(page), page, "run make diagram")


class FleetTests(SynchronousTestCase):
    """What docs/operating-a-fleet.md says of the words in reports."""

    text = (ROOT / "docs" / "operating-a-fleet.md").read_text(encoding="utf-8")

    def test_reasons(self) -> None:
        """Each reason is explained, with the ones that count against a release."""
        table = self.text.partition("| word | meaning | counts as bad |")[2].partition("\n\n")[0]
        counted = {
            word: line.endswith("| yes |")
            for line in table.splitlines()
            for word in re.findall("`([a-z-]+)`", line.split("|")[1] if "|" in line else "")
        }
        self.assertEqual(counted, {reason.value: reason in RELEASE_AT_FAULT for reason in Reason})

    def test_waiting(self) -> None:
        """Each word for what a box waits for is explained, and each state of a key."""
        words = "".join(cell for cell, *_ in rows(self.text, "word", "state"))
        named = set(re.findall("`([a-z-]+)`", words))
        self.assertLessEqual({*map(str, Waiting), *map(str, BoxState)}, named)


class MakeTests(SynchronousTestCase):
    """The targets of the Makefile."""

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    def test_named(self) -> None:
        """Each target that a page names is one."""
        targets = set(re.findall(r"^([a-z-]+):", self.makefile, re.MULTILINE))
        self.assertIn("test", targets)
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            for line in re.findall(r"(?:`|^)(make [a-z][^`\n#]*)", text, re.MULTILINE):
                named = {word for word in line.split()[1:] if re.fullmatch("[a-z-]+", word)}
                self.assertLessEqual(named, targets, f"{page.name}: {line}")

    def test_help(self) -> None:
        """Plain `make` prints a line about each target."""
        # Within `make test` it would also say which folder it enters.
        command = ["make", "--no-print-directory"]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", self.makefile, re.MULTILINE)
        assert phony is not None
        explained = {line.split()[0] for line in said.splitlines() if len(line.split()) > 1}
        self.assertEqual(explained, set(phony[1].replace("\\", "").split()))


class ProgramTests(SynchronousTestCase):
    """The commands of the programs for people."""

    def is_command(self, program: str, command: str) -> bool:
        """Tell whether a program has a command, by its own help."""
        main = import_module(f"opq_twisted.cli.{program}.main").main
        code, out, _ = run_main(main, command, "--help")
        return code == 0 and out.startswith(f"usage: opq-{program} {command} ")

    def test_named(self) -> None:
        """Each command that a page or a printed sentence names is one."""
        words = rf"opq-({'|'.join(PROGRAMS)}) ([a-z][a-z-]*)"
        named = {
            found
            for page in PAGES
            for found in re.findall(f"(?:`|^|&& ){words}", page.read_text("utf-8"), re.M)
        }
        named |= {
            found
            for path in sources()
            for string in strings_of(path)
            for found in re.findall(f": (?:run )?{words}", string)
        }
        self.assertGreater(len(named), 30)
        self.assertEqual([each for each in sorted(named) if not self.is_command(*each)], [])


class DefaultTests(SynchronousTestCase):
    """What the pages for operators say of options, settings and their defaults."""

    def assert_told(self, page: str, title: str, defaults: Mapping[str, object]) -> None:
        """Assert that a table has each name, and the defaults; None and "" are words there."""
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        told = {name.strip("`"): default.strip("`") for name, *_, default in rows(text, title)}
        self.assertEqual({*told}, {*defaults})
        for name, default in defaults.items():
            if default not in (None, ""):
                is_text = isinstance(default, str | Path)
                written = str(default) if is_text else json.dumps(default).removesuffix(".0")
                self.assertEqual(told[name], written, name)

    def test_server(self) -> None:
        """Each option of the server is there."""
        flags = {f"--{name}": None for name, *_ in Options.optFlags}
        defaults = {f"--{name}": default for name, default in Options().defaults.items()}
        self.assert_told("operating-a-server.md", "option", defaults | flags)

    def test_box(self) -> None:
        """Each setting of the agent is there."""
        # These two depend on others.
        words = {"page": None, "version_file": None}
        settings = {each.name: each.default for each in fields(UpdaterConfig)} | words
        self.assert_told("operating-a-box.md", "under `updater`", settings)


class StatusTests(SynchronousTestCase):
    """What docs/openapi/box-agent.yaml says of the status of a box."""

    description = yaml.safe_load((ROOT / "docs" / "openapi" / "box-agent.yaml").read_text("utf-8"))

    def test_status_is_explained(self) -> None:
        """Each field of the status is described and required, and no other."""
        status = self.description["components"]["schemas"]["Status"]
        self.assertEqual(status["required"], list(status["properties"]))
        self.assertEqual(
            set(status["properties"]), {field.name for field in fields(Status)} | {"page"}
        )

    def test_stages_are_named(self) -> None:
        """All stages are named, in their order."""
        stages = self.description["components"]["schemas"]["Stage"]["enum"]
        self.assertEqual(stages, [stage.value for stage in Stage])


#: Git reads the checkout of another user only with this option.
GIT = ("git", "-c", "safe.directory=*", "-C", ROOT)


class CheckoutTests(SynchronousTestCase):
    """What docs/releasing.md lets people put into a checkout."""

    def test_ignored(self) -> None:
        """Git does not take keys, passphrases, archives and what else is theirs."""
        if not (ROOT / ".git").exists():
            if "CI" in os.environ:
                self.fail("This is no checkout.")
            raise SkipTest("This is no checkout.")
        names = [
            *("opq-keys/root-0a1b2c3d4e5f.pem", "opq-keys/last-snapshot", "root-8.draft.json"),
            *("handed-over/timestamp.passphrase", "timestamp.passphrase", "passphrase"),
            *("updates/tuf/1.root.json", "root.json", "opq-box-update-1547860803.tar.bz2"),
            *("timestamp-0a1b2c3d4e5f.pem", "deploy/server/timestamp.pem"),
        ]
        ignored = subprocess.run(
            [*GIT, "check-ignore", "--no-index", *names],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(ignored.stdout.splitlines(), names)
        sources = subprocess.run(
            [*GIT, "ls-files", "--cached", "--ignored", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(sources.stdout, "")
