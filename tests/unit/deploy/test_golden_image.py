"""golden-image removes from a root what must be different in each copy, or secret."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.stages import Stage
from tests.helpers.project import PROJECT
from tests.helpers.root_folder import AGENT, InstallCase, Result

SCRIPT = PROJECT / "deploy" / "box" / "golden-image"

#: What an image must not have.
SECRETS = (
    *("etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "etc/opq/web_password"),
    *("etc/NetworkManager/system-connections/home.nmconnection", "boot/firmware/custom.toml"),
    *("boot/firmware/network-config", "var/lib/iwd/home.psk", "var/lib/cloud/instance/user-data"),
    *("var/log/syslog", "var/log/journal/0123/system.journal", "var/log/opq/box_update.log"),
    *("var/lib/systemd/random-seed", "var/lib/NetworkManager/secret_key"),
    *("var/lib/dbus/machine-id", "root/.bash_history", "home/opq/.python_history"),
    *("var/lib/opq/updater/tuf/root.json", "var/lib/opq/updater/rescue.tries"),
    "var/lib/opq/updater/box.key",
    "var/lib/opq/updater/archives/opq-box-update-200.tar.bz2.part",
)
#: What it needs.
NEEDED = (
    *("opt/opq/current/VERSION", "etc/opq/root.json", "etc/ssh/sshd_config", "home/opq/.profile"),
    *("etc/NetworkManager/system-connections/wired.nmconnection", "etc/shadow"),
)
CONFIG = {"cmd_sub_ep": "tcp://x", "updates_ep": "http://updates.example.net", "box_id": 7}
UNIT = "etc/systemd/system/opq-box-first-boot.service"
WANTED = "etc/systemd/system/multi-user.target.wants/opq-box-first-boot.service"


class GoldenImageTests(SynchronousTestCase):
    """The script with a folder."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute() / "the root"
        for name in (*SECRETS, *NEEDED):
            self.write(name, "x")
        self.write("etc/NetworkManager/system-connections/home.nmconnection", "type = wifi\n")
        self.write("etc/machine-id", f"{'0' * 32}\n")
        self.write("etc/shadow", "root:*:1\nopq:$y$hash:1\nada:!:1\n")
        settings = {"name": "Kitchen", "web_password_file": "/etc/opq/web_password"}
        self.write("etc/opq/opqbox_config.json", json.dumps({**CONFIG, "updater": settings}))
        (self.root / "etc/opq/opqbox_config.json").chmod(0o640)
        self.state = self.root / "var/lib/opq/updater"
        self.archives = ArchiveStore(self.state / "archives")
        self.archives.path(100).write_bytes(b"an archive")
        self.good = Release(100, None, {"sha256": hashlib.sha256(b"an archive").hexdigest()})
        self.archives.keep_as_last_good(self.good)
        self.journal = Journal(self.state / "journal.json", "a boot")
        self.journal.write(stage=Stage.IDLE)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def prepare(self, *options: str, status: int = 0) -> str:
        result = subprocess.run(["sh", SCRIPT, *options, self.root], capture_output=True, text=True)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(result.stderr.count("\n"), status)
        return result.stdout + result.stderr

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.root / name)

    def assert_clean(self) -> None:
        self.assertEqual([name for name in SECRETS if self.exists(name)], [])
        self.assertEqual([name for name in NEEDED if not self.exists(name)], [])
        self.assertEqual((self.root / "etc/machine-id").read_bytes(), b"")
        self.assertEqual([path.name for path in self.state.iterdir()], ["archives"])
        self.assertEqual(self.archives.last_good, self.good)
        self.assertEqual(self.archives.path(100).read_bytes(), b"an archive")
        path = self.root / "etc/opq/opqbox_config.json"
        without = {key: value for key, value in CONFIG.items() if key != "box_id"}
        self.assertEqual(json.loads(path.read_text()), {**without, "updater": {}})
        self.assertEqual(path.stat().st_mode & 0o777, 0o640)
        self.assertIn("golden-image --first-boot", (self.root / UNIT).read_text())
        self.assertEqual(os.readlink(self.root / WANTED), f"../{Path(UNIT).name}")

    def test_prepared(self) -> None:
        """Nothing that is secret or belongs to one box stays, and the copy boots into a box."""
        said = self.prepare()
        self.assert_clean()
        self.assertIn("the same in all copies: opq.\n", said)
        self.assertIn("The image is ready", said)

    def test_again(self) -> None:
        """A second run changes nothing."""
        self.prepare()
        self.prepare()
        self.assert_clean()

    def test_wifi(self) -> None:
        """The Wi-Fi networks stay if that is wanted."""
        self.assertIn("their passwords stay", self.prepare("--keep-wifi"))
        self.assertTrue(self.exists("etc/NetworkManager/system-connections/home.nmconnection"))
        self.assertFalse(self.exists("etc/ssh/ssh_host_rsa_key"))

    def assert_refused(self, words: str) -> None:
        """Assert that the script changes nothing, and says why."""
        self.assertIn(words, self.prepare(status=1))
        self.assertTrue(all(map(self.exists, SECRETS)))
        self.assertFalse(self.exists(UNIT))

    def test_update_under_way(self) -> None:
        """During an update nothing is removed."""
        self.journal.write(stage=Stage.CONFIRMING)
        self.assert_refused("an update is under way")
        self.journal.write(stage=Stage.IDLE)
        self.write("etc/systemd/system/opq-box-install-finish.service", "")
        self.assert_refused("an update is under way")

    def test_no_last_good_release(self) -> None:
        """A box that could not go back from its first update is no model for others."""
        (self.archives.folder / "last-good").unlink()
        self.assert_refused("run opq-box adopt")

    def test_no_release(self) -> None:
        """Another root than a box's is left alone."""
        (self.root / "opt/opq/current/VERSION").unlink()
        self.write("opt/opq/x", "")
        self.assertIn("there is no release", self.prepare(status=1))

    def test_links_out(self) -> None:
        """A link never leads to a file of the machine on which the script runs."""
        outside = self.root.with_name("outside")
        outside.mkdir()
        (outside / "file").touch()
        for name in ("etc/opq/opqbox_config.json", "var/log", "home", "etc/ssh", "var/lib/dbus"):
            path = self.root / name
            aside = path.with_name("aside")
            path.rename(aside)
            path.symlink_to(outside)
            self.assertIn("leads out of", self.prepare(status=1))
            self.assertTrue((outside / "file").exists())
            path.unlink()
            aside.rename(path)
        self.assertTrue(all(map(self.exists, SECRETS)))
        self.assertFalse(self.exists(UNIT))

    def test_password_elsewhere(self) -> None:
        """The file of the password is only removed from the image."""
        settings = {"web_password_file": "/../outside"}
        self.write("etc/opq/opqbox_config.json", json.dumps({**CONFIG, "updater": settings}))
        outside = self.root.with_name("outside")
        outside.touch()
        self.assert_refused("leads out of")
        self.assertTrue(outside.exists())
        self.assertFalse(self.exists("etc/opq/opqbox_config.json.new"))

    def test_machine_id_elsewhere(self) -> None:
        """A link in the place of the machine's id is replaced."""
        outside = self.root.with_name("outside")
        outside.write_text("an id")
        (self.root / "etc/machine-id").unlink()
        (self.root / "etc/machine-id").symlink_to(outside)
        self.prepare()
        self.assertEqual(outside.read_text(), "an id")
        self.assert_clean()

    def test_odd_configuration(self) -> None:
        """A configuration that is not JSON is named."""
        self.write("etc/opq/opqbox_config.json", "{")
        result = subprocess.run(["sh", SCRIPT, self.root], capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"^golden-image: .* cannot be read: correct it\.\n$")


class FirstBootTests(InstallCase):
    """The first boot of a copy."""

    def setUp(self) -> None:
        super().setUp()
        # Like the real one it cannot read the keys that a power cut has left.
        self.box.tool("ssh-keygen", '#!/bin/sh\necho "ssh-keygen $*"; [ "$*" = -A ]\n')
        self.install(100, managed=True)
        self.unit = self.box.units / Path(UNIT).name
        self.unit.write_text("[Service]\n")
        self.key = self.box.folder / "etc" / "ssh" / "ssh_host_rsa_key"
        self.key.parent.mkdir()
        self.key.touch()
        self.box.asked()

    def boot(self) -> Result:
        return self.box.call(f"/opt/opq/current/{AGENT}/golden-image", "--first-boot")

    def test_identity(self) -> None:
        """The copy gets SSH host keys and a number, and that once only."""
        result = self.boot()
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        keys, number = result.stdout.splitlines()
        self.assertEqual(keys, "ssh-keygen -A")
        self.assertTrue(number.endswith(" setup --box-id auto"), number)
        self.assertFalse(self.key.exists())
        self.assertFalse(self.unit.exists())
        self.assertEqual(self.box.asked(), [f"--quiet disable {self.unit.name}"])

    def test_again(self) -> None:
        """If a step fails, the next boot repeats it."""
        self.box.tool("ssh-keygen", "#!/bin/sh\nexit 1\n")
        self.assertEqual(self.boot().returncode, 1)
        self.assertTrue(self.unit.exists())
        self.assertEqual(self.box.asked(), [])
