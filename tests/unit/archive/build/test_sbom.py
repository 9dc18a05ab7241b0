"""The bill of materials beside an update says what is in it."""

import hashlib
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted import __version__
from opq_twisted.archive.build.components import AGENT, WHEELS
from opq_twisted.archive.build.contents import Contents, gather
from opq_twisted.archive.build.sbom import write_sbom
from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import BuildFailed

NAME = UpdateName(1547860803)


class TestSbom(SynchronousTestCase):
    """An archive, and the folders that it was made of."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        for name in (AGENT, "kernel", WHEELS):
            (self.folder / name).mkdir(parents=True)
            (self.folder / name / "file").touch()
        self.archive = self.folder / str(NAME)
        self.archive.write_bytes(b"an archive")

    def wheel(self, metadata: str, name: str = "thing-1.2-py3-none-any.whl") -> Path:
        path = self.folder / WHEELS / name
        with ZipFile(path, "w") as wheel:
            wheel.writestr("thing-1.2.dist-info/METADATA", metadata)
        return path

    def write(self) -> bytes:
        contents: Contents = {}
        for name in (AGENT, "kernel", WHEELS):
            contents |= gather(self.folder / name, name)
        path = write_sbom(self.archive, NAME, contents)
        self.assertEqual(path, self.folder / "opq-box-update-1547860803.cdx.json")
        return path.read_bytes()

    def part(self, name: str) -> Any:
        parts = json.loads(self.write())["components"]
        return next(part for part in parts if part["name"] == name)

    def test_wheel(self) -> None:
        """A wheel has its version, its licence, its hash and its address as a package."""
        path = self.wheel("Name: Thing\nVersion: 1.2\nLicense-Expression: MIT OR Apache-2.0\n")
        part = self.part("Thing")
        self.assertEqual(part["version"], "1.2")
        self.assertEqual(part["licenses"], [{"expression": "MIT OR Apache-2.0"}])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.assertEqual(part["hashes"], [{"alg": "SHA-256", "content": digest}])
        self.assertEqual(part["purl"], f"pkg:pypi/thing@1.2?file_name={path.name}")

    def test_older_licences(self) -> None:
        """Without an SPDX expression, the licence is a short text, else a classifier."""
        head = "Name: Thing\nVersion: 1.2\n"
        classifier = "Classifier: License :: OSI Approved :: MIT License\n"
        for text, licence in (
            (f"{head}License: MIT\n{classifier}", [{"license": {"id": "MIT"}}]),
            (f"{head}License: {'x' * 61}\n{classifier}", [{"license": {"name": "MIT License"}}]),
            (head, None),
        ):
            self.wheel(text)
            self.assertEqual(self.part("Thing").get("licenses"), licence)

    def test_components(self) -> None:
        """Each component is a part; the project's own agent has its version and licence."""
        self.assertNotIn("version", self.part(AGENT))
        code = self.folder / AGENT / "opq_twisted"
        code.mkdir()
        (code / "__init__.py").touch()
        self.assertEqual(self.part(AGENT)["version"], __version__)
        self.assertEqual(self.part("kernel")["type"], "application")

    def test_archive(self) -> None:
        """It names the archive with its hash, and is valid CycloneDX."""
        self.wheel("Name: Thing\nVersion: 1.2\nLicense: MIT\n")
        text = self.write()
        about = json.loads(text)["metadata"]["component"]
        digest = hashlib.sha256(b"an archive").hexdigest()
        self.assertEqual(about["version"], "1547860803")
        self.assertEqual(about["hashes"], [{"alg": "SHA-256", "content": digest}])
        self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()))

    def test_reproducible(self) -> None:
        """The same archive gives the same bytes."""
        self.assertEqual(self.write(), self.write())

    def test_no_wheel(self) -> None:
        """A file that only has the name of a wheel is named in the error."""
        path = self.folder / WHEELS / "x-1-py3-none-any.whl"
        path.write_bytes(b"not a ZIP file")
        self.assertIn(path.name, str(self.assertRaises(BuildFailed, self.write)))
        for metadata in ("Name: Thing\n", "Version: 1.2\n"):
            self.wheel(metadata, path.name)
            self.assertIn(path.name, str(self.assertRaises(BuildFailed, self.write)))

    def test_not_written(self) -> None:
        """A failure says that the archive is there."""
        (self.folder / "opq-box-update-1547860803.cdx.json").mkdir()
        error = self.assertRaises(BuildFailed, self.write)
        self.assertIn(f"{self.archive} was built, but not its SBOM", str(error))
