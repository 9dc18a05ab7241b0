"""Tests of how rsync is started, and of what is typed for a server."""

import os
import shutil
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.rsync import connected

# Stands in for ssh: it writes down its arguments, and runs the command on this machine.
_SSH = """\
#!/bin/sh
printf '%s\\n' "$*" >>{log}
while [ "$1" != server ]; do shift; done
shift
exec sh -c "$*"
"""


class DestinationTests(SynchronousTestCase):
    """The names of destinations."""

    def test_accepted(self) -> None:
        """Names of machines and paths, as rsync knows them."""
        folder = self.mktemp()
        os.mkdir(folder)
        for name, host in (
            ("server:/var/opq/box-updates", "server"),
            ("anna@updates.example.org:box-updates/", "anna@updates.example.org"),
            ("[2001:db8::7]:/x", "[2001:db8::7]"),
            ("server::module/x", "server"),
            ("server:/home/jörg/updates", "server"),
            (folder, None),
            (f"./{folder}/", None),
        ):
            with connected(name) as destination:
                self.assertEqual((destination.name, destination.host), (name, host))

    def test_refused(self) -> None:
        """Nothing can be taken for an option or a command by ssh, rsync or a shell."""
        for name in (
            *("-oProxyCommand=x:/d", "a@-oProxyCommand=x:/d", "server:-x", "server:"),
            *("server:/x;y", "server:/x y", "server:/$(x)", "server:/x\ny", "ser ver:/x", ":/x"),
            *("", "-x", "no/such/folder"),
        ):
            with self.assertRaises(ReleaseFailed) as caught, connected(name):
                pass
            self.assertIn("give SERVER:/DIR", str(caught.exception))


class RunTests(SynchronousTestCase):
    """What is run."""

    def setUp(self) -> None:
        if shutil.which("rsync") is None:
            raise SkipTest("There is no rsync.")
        self.there = Path(self.mktemp()).absolute()
        (self.there / "tuf").mkdir(parents=True)
        self.bin = Path(self.mktemp()).absolute()
        self.bin.mkdir()
        self.log = self.bin / "log"
        self.set_environment("RSYNC_RSH", None)

    def set_environment(self, name: str, value: str | None) -> None:
        environment = {**os.environ}
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
        self.patch(os, "environ", environment)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)
        self.set_environment("PATH", f"{self.bin}{os.pathsep}{os.environ['PATH']}")

    def test_one_login(self) -> None:
        """All copies share one connection of ssh, unless another program was chosen."""
        self.program("ssh", _SSH.format(log=self.log))
        file = self.bin / "1.root.json"
        file.write_bytes(b"{}")
        with connected(f"server:{self.there}") as destination:
            destination.send([file], "tuf/")
            with destination.fetched([file.name]) as folder:
                self.assertEqual((folder / "tuf" / file.name).read_bytes(), b"{}")
        lines = self.log.read_text().splitlines()
        self.assertEqual(len(lines), 2)
        paths = {word for line in lines for word in line.split() if "ControlPath" in word}
        self.assertEqual(len(paths), 1)
        self.log.unlink()
        with self.assertRaises(SystemExit), connected(f"server:{self.there}") as destination:
            destination.send([file], "tuf/")
            [path] = (word for word in self.log.read_text().split() if "ControlPath" in word)
            Path(path.partition("=")[2]).touch()
            raise SystemExit(130)
        end = self.log.read_text().splitlines()[-1]
        self.assertEqual(end, f"{path} -O exit -- server", "the login ends with the command")
        self.set_environment("RSYNC_RSH", f"{self.bin}/ssh -p 22")
        self.log.unlink()
        with connected(f"server:{self.there}") as destination:
            destination.send([file], "tuf/")
        self.assertTrue(self.log.read_text().startswith("-p 22 server rsync --server"))

    def test_failures(self) -> None:
        """A sentence follows the message of ssh or rsync, and says what to do."""
        self.set_environment("RSYNC_RSH", "sh -c 'exit 255' x")
        with connected("anna@server:/x") as destination:
            error = self.assertRaises(ReleaseFailed, destination.send, [self.there])
        self.assertIn("no connection to anna@server", str(error))
        self.assertIn("ssh anna@server rsync --version", str(error))
        self.assertIn("opq-release push anna@server:/x again", str(error))
        with connected(str(self.there)) as destination:
            error = self.assertRaises(ReleaseFailed, destination.send, [self.there / "none"])
        self.assertIn("you may write in it and in its folder tuf", str(error))
        self.set_environment("PATH", str(self.bin))
        with connected(str(self.there)) as destination:
            error = self.assertRaises(ReleaseFailed, destination.send, [self.there])
        self.assertIn("There is no rsync on this machine: install it", str(error))
