"""Common tools read an archive of the builder, which is cut into many bzip2 streams."""

import subprocess
import tarfile
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.build.contents import Contents, find_script, gather
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.pieces import read_index
from tests.helpers.privileges import tool

TOP = "opq-box-update-files"


class ToolsTests(SynchronousTestCase):
    """The tools of Linux, and Python's."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        kernel = self.folder / "kernel"
        kernel.mkdir(parents=True)
        (kernel / "dense").write_bytes(Random(0).randbytes(1_500_000))
        (kernel / "text").write_bytes(b"some words\n" * 100_000)
        script = self.folder / "install_update.sh"
        script.write_text("#!/bin/sh\necho installing $(cat VERSION)\n")
        contents: Contents = {script.name: find_script(script), **gather(kernel, "kernel")}
        self.archive = pack(UpdateName(7), contents, self.folder)
        self.dense = kernel / "dense"

    def run_tool(self, name: str, *arguments: str) -> str:
        command = [tool(name), *arguments, self.archive.name]
        ended = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertNotIn("trailing", ended.stderr)
        return ended.stdout

    def test_pieces(self) -> None:
        """The archive has several streams."""
        with self.archive.open("rb") as file:
            index = read_index(file.fileno(), self.archive.stat().st_size)
        self.assertGreater(len(index.pieces), 5)

    def test_testers(self) -> None:
        """Each bzip2 program finds the archive whole."""
        for name in ("bzip2", "lbzip2", "pbzip2"):
            self.run_tool(name, "-t")

    def test_7z(self) -> None:
        """7-Zip finds the archive whole."""
        self.assertIn("Everything is Ok", self.run_tool("7z", "t"))

    def test_tar(self) -> None:
        """The machine's tar unpacks all files, as older boxes do."""
        self.run_tool("tar", "xf")
        self.assertEqual(
            (self.folder / TOP / "kernel" / "dense").read_bytes(), self.dense.read_bytes()
        )
        ended = subprocess.run(
            ["sh", "-c", "cd opq-box-update-*/ && ./install_update.sh"],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        self.assertEqual((ended.stdout, ended.stderr), ("installing 7\n", ""))

    def test_tarfile(self) -> None:
        """Python's tarfile reads the archive."""
        with tarfile.open(self.archive) as archive:
            content = archive.extractfile(f"{TOP}/kernel/dense")
            assert content is not None
            self.assertEqual(content.read(), self.dense.read_bytes())
