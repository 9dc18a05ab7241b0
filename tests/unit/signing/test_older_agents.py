"""Tests of the warning about boxes with an older agent."""

from pathlib import Path

from opq_twisted.archive.build.contents import Contents, find_script
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.name import INSTALL_SCRIPT, TOP_FOLDER, UpdateName
from opq_twisted.signing.older_agents import describe_older_agents
from opq_twisted.signing.publish import Terms, publish
from tests.helpers.archives import make_archive, name_of
from tests.helpers.key_holders import NEW, NEWER, OLD, HoldersCase


class OlderAgentsTests(HoldersCase):
    """`describe_older_agents` after a release is published."""

    def build(self, version: int, top_folder: str) -> Path:
        script = self.place / INSTALL_SCRIPT
        script.write_text("#!/bin/sh\n")
        contents: Contents = {INSTALL_SCRIPT: find_script(script)}
        return pack(UpdateName(version), contents, self.place, top_folder=top_folder)

    def says(self, archive: Path) -> str | None:
        """Publish an archive; return the warning."""
        done = publish(self.signer, archive, Terms("stable"), lambda _: None)
        return describe_older_agents(done, archive, self.updates)

    def test_change_of_folder(self) -> None:
        """The first release with the new folder is warned of, and no other."""
        self.assertIsNone(self.says(self.build(OLD, UpdateName(OLD).folder)))
        self.assertIn("--folder-with-version", self.says(self.build(NEW, TOP_FOLDER)) or "")
        self.assertIsNone(self.says(self.build(NEWER, TOP_FOLDER)))

    def test_folder_with_version(self) -> None:
        """A release with the folder that all agents know is not warned of."""
        self.says(self.build(OLD, UpdateName(OLD).folder))
        self.assertIsNone(self.says(self.build(NEW, UpdateName(NEW).folder)))

    def test_unreadable(self) -> None:
        """An earlier archive that is gone, or no archive any more, leads to no warning."""
        self.says(self.build(OLD, UpdateName(OLD).folder))
        done = publish(self.signer, self.build(NEW, TOP_FOLDER), Terms("stable"), lambda _: None)
        earlier = self.updates / name_of(OLD)
        for content in (b"", b"BZh9", b"text", make_archive(self.place / "x", 1).read_bytes()):
            earlier.write_bytes(content)
            self.assertIsNone(describe_older_agents(done, self.place / name_of(NEW), self.updates))
        earlier.unlink()
        self.assertIsNone(describe_older_agents(done, self.place / name_of(NEW), self.updates))
