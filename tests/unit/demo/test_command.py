"""The demo's folder, its output, and its end; `make demo CLICK=1` shows the whole of it."""

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demo import folder as demo_folder
from demo.terminal import DemoFailed
from tests.helpers.project import PROJECT

#: Stands in for the builder: it says that it has begun, and ends when it is told to.
BUILDER = """
import os, sys
print("It is slow.", flush=True)
with open("{events}", "w") as events:
    events.write("begun\\n")
os.read(os.open("{gate}", os.O_RDONLY), 1)
sys.exit("It is broken.")
"""
BEGIN = [
    "An update server, a box and keys, all in .demo/1. Nothing else is changed.",
    "1/5 Building yesterday's release ...",
]
END = "The demo has ended. `make clean` removes its files."


class FolderTests(SynchronousTestCase):
    """The folder of a demo."""

    def setUp(self) -> None:
        self.demos = Path(self.mktemp()).absolute()
        self.patch(demo_folder, "DEMOS", self.demos)

    def test_own_folder(self) -> None:
        """Each demo has its own, and empties one that no other uses any more."""
        (self.demos / "1" / "old").mkdir(parents=True)
        (self.demos / "3" / "old").mkdir(parents=True)
        self.assertEqual(demo_folder.claim_folder(), self.demos / "1")
        self.assertEqual(demo_folder.claim_folder(), self.demos / "2")
        self.assertEqual(list((self.demos / "1").iterdir()), [])
        self.assertTrue((self.demos / "3" / "old").exists())

    def test_own_ports(self) -> None:
        """Each demo has its own ports, also before its programs listen there."""
        self.demos.mkdir()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            claimed = {demo_folder.claim_port(port) for _ in range(3)}
        self.assertEqual(len(claimed), 3)
        self.assertNotIn(port, claimed)

    def test_no_folder(self) -> None:
        """If there can be none, a sentence says what to do."""
        self.demos.write_text("")
        error = self.assertRaises(DemoFailed, demo_folder.claim_folder)
        self.assertEqual(
            str(error),
            f"Cannot make a folder in {self.demos}: File exists. Remove {self.demos}, as root if "
            "root has run a demo before.",
        )


class ProcessTests(SynchronousTestCase):
    """A demo with another builder, on a terminal of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute() / "two words, jörg"
        self.folder.mkdir(parents=True)
        self.events, self.gate = self.folder / "events", self.folder / "gate"
        shutil.copytree(PROJECT / "demo", self.folder / "demo")
        builder = BUILDER.format(events=self.events, gate=self.gate)
        (self.folder / "build_update.py").write_text(builder)
        for path in (self.events, self.gate):
            os.mkfifo(path)

    def start(self, *options: str) -> tuple[subprocess.Popen[bytes], int]:
        """Start a demo, and wait until it builds; returns it and its terminal."""
        ours, terminal = pty.openpty()
        program = subprocess.Popen(
            [sys.executable, "-m", "demo", *options],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            preexec_fn=lambda: os.login_tty(terminal),
        )
        os.close(terminal)
        self.addCleanup(program.wait)
        self.addCleanup(program.kill)
        self.assertEqual(self.events.read_text(), "begun\n")
        return program, ours

    def end(self, program: subprocess.Popen[bytes], terminal: int) -> tuple[int, list[str]]:
        """Wait for the end; returns the exit status and the lines on the terminal."""
        said = b""
        while True:
            try:
                said += os.read(terminal, 4096)
            except OSError:
                break
        os.close(terminal)
        return program.wait(), said.decode().replace("\r\n", "\n").splitlines()

    def assert_builder_ended(self) -> None:
        """Nobody reads from the gate any more."""
        with self.assertRaises(OSError):
            os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK)

    def test_interrupted(self) -> None:
        """Ctrl-C ends it with a sentence, which covers the ^C, and without a traceback."""
        program, terminal = self.start()
        os.write(terminal, b"\x03")
        status, lines = self.end(program, terminal)
        self.assertEqual(status, 0)
        self.assertEqual(lines[:2], [BEGIN[0], f"{BEGIN[1]}^C"])
        self.assertEqual(lines[-1], END)
        self.assertLessEqual(len(lines), 4)
        self.assert_builder_ended()

    def test_terminated(self) -> None:
        """So does SIGTERM; with --click the update has failed then."""
        program, terminal = self.start("--click")
        program.send_signal(signal.SIGTERM)
        status, lines = self.end(program, terminal)
        self.assertEqual((status, lines[-1]), (130, END))
        self.assert_builder_ended()

    def test_terminal_closed(self) -> None:
        """It ends with its terminal, and so does what it has started."""
        program, terminal = self.start()
        os.close(terminal)
        self.assertIn(program.wait(), (0, 120))
        self.assert_builder_ended()

    def test_beside_another(self) -> None:
        """A second one uses another folder; a step that fails shows its output."""
        first = self.start()
        second = self.start()
        with self.gate.open("w") as gate:
            gate.write("12")
            gate.flush()
            ended = [self.end(*each) for each in (first, second)]
        for number, (status, lines) in enumerate(ended, 1):
            self.assertEqual(status, 1)
            self.assertIn(f"all in .demo/{number}.", lines[0])
            self.assertEqual(
                lines[2:], ["It is slow.", "It is broken.", "This step failed: see above."]
            )
