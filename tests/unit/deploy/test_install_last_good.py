"""The first installation gives the box its last good archive."""

import hashlib
from pathlib import Path

from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from tests.helpers.root_folder import PYTHON, InstallCase, require_bash, service
from tests.helpers.torture import stride

#: Stores the archive, as `opq-box adopt --unpacked` does, unless it says that the content differs.
_ADOPT = """    *" adopt --unpacked . "*)
        for last; do :; done
        grep -q good "$last" || { echo "opq-box: It is another one." >&2; exit 1; }
        mkdir -p "$OPQ_STATE_DIR/archives"
        cp "$last" "$OPQ_STATE_DIR/archives/"
        (cd "$OPQ_STATE_DIR/archives" && sha256sum "${last##*/}" >"${last##*/}.sha256")
        ;;
    *)"""


class LastGoodTests(InstallCase):
    """An install as root with systemd, beside its archive or not."""

    def setUp(self) -> None:
        super().setUp()
        head, _, tail = PYTHON.rpartition("    *)")
        self.box.tool("python", f"{head}{_ADOPT}{tail}")
        self.archives = ArchiveStore(self.box.state_dir / "archives")
        self.box.unpack(100)

    def archive(self, version: int, content: str = "good") -> Path:
        path = self.box.folder / str(UpdateName(version))
        path.write_text(content)
        return path

    def good(self, version: int, content: bytes) -> Release:
        return Release(version, None, {"sha256": hashlib.sha256(content).hexdigest()})

    def assert_good(self, version: int, content: bytes) -> None:
        self.assertEqual(self.archives.last_good, self.good(version, content))
        self.assertEqual(self.archives.path(version).read_bytes(), content)

    def test_first(self) -> None:
        """The archive beside the folder becomes the last good one, without a further step."""
        archive = self.archive(100)
        said = self.box.install(100, managed=True)
        self.assert_good(100, archive.read_bytes())
        self.assertIn("goes back to release 100 when an update fails", said)

    def test_no_archive(self) -> None:
        """Without the archive the release is installed, and the script says what to do."""
        said = self.box.install(100, managed=True)
        self.assertIn("There is no ../opq-box-update-100.tar.bz2", said)
        self.assertIn("opq-box adopt opq-box-update-100.tar.bz2", said)
        self.assertEqual(self.box.version("current"), 100)
        self.assertFalse(self.archives.folder.exists())
        self.archive(100)
        self.box.install(100, managed=True)
        self.assert_good(100, b"good")

    def test_another_archive(self) -> None:
        """If the archive has another content, the release is installed, and the script says so."""
        self.archive(100, "bad")
        said = self.box.install(100, managed=True)
        self.assertIn("cannot go back from its next update: It is another one. Once", said)
        self.assertEqual(self.box.version("current"), 100)
        self.assertIsNone(self.archives.last_good)

    def test_kept(self) -> None:
        """A box that has a last good archive keeps it: the new release may be bad."""
        self.archive(100)
        self.box.install(100, managed=True)
        self.archive(200)
        self.install(200, managed=True)
        self.assert_good(100, b"good")

    def test_failed(self) -> None:
        """An archive whose release could not be installed is not the last good one."""
        self.box.install(100, managed=True)
        self.archive(200)
        update = self.box.unpack(200)
        service(update, "triggering", "opq-triggering.service")
        script = update / "triggering" / "install.sh"
        script.write_text("#!/bin/sh\nexit 1\n")
        script.chmod(0o755)
        self.assertEqual(self.box.run(200, managed=True).returncode, 1)
        self.assertIsNone(self.archives.last_good)
        self.assertEqual(self.box.version("current"), 100)

    def test_sandbox(self) -> None:
        """A sandbox changes nothing outside its prefix."""
        self.archive(100)
        self.box.install(100)
        self.assertFalse(self.box.state_dir.exists())

    def test_by_the_agent(self) -> None:
        """During an update the agent itself decides about the archive."""
        self.archive(100)
        self.box.install(100, managed=True, OPQ_REBOOT="no", OPQ_UNIT="opq-box-install.service")
        self.assertFalse(self.archives.folder.exists())

    def test_interrupted(self) -> None:
        """After a power cut at any point, the next boot registers the archive."""
        require_bash()
        self.archive(100)
        # The caller has built the release, and the power goes.
        self.box.install(100, managed=True, FINISH_SHELL="true")
        for count in range(1, 1000, stride(79)):
            box = self.box.copy(self.box.folder.parent / str(count))
            archives = ArchiveStore(box.state_dir / "archives")
            result = box.boot(FINISH_SHELL="bash", KILL_AT=str(count))
            if archives.last_good is not None:
                self.assertEqual(box.version("current"), 100)
            if result.returncode != 0:
                box.boot()
            self.assertEqual(archives.last_good, self.good(100, b"good"))
            if result.returncode == 0:
                self.assertGreater(count, 60)
                return
        self.fail("The script has no end.")
