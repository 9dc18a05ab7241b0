"""`opq-box setup` writes a box's configuration."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.reader import read_config
from opq_twisted.cli.box.main import main
from opq_twisted.cli.box.setup import make_box_id
from opq_twisted.common.errors import OpqError, SetupFailed
from tests.helpers.failing_disk import counting
from tests.helpers.privileges import without_privileges
from tests.helpers.project import PROJECT
from tests.helpers.terminal import run_main

SERVER = "http://updates.example.net:8151"


class SetupTests(SynchronousTestCase):
    """The command."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp()).absolute() / "etc" / "opqbox_config.json"

    def setup(self, *options: str, status: int = 0) -> str:
        code, said, complaint = run_main(main, "setup", *options, f"--config={self.file}")
        self.assertEqual(code, status, said + complaint)
        self.assertEqual(complaint.count("\n"), status)
        return said + complaint

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return content

    def write(self, content: object) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(content))

    def assert_refused(self, *options: str) -> None:
        """Assert that nothing changes, and that the sentence is the agent's."""
        before = self.file.read_bytes()
        said = self.setup(*options, status=1)
        self.assertEqual(self.file.read_bytes(), before)
        self.assertTrue(said.startswith(f"opq-box: The configuration {self.file} cannot"), said)

    def test_new(self) -> None:
        """A file that does not exist is created, and the agent can read it."""
        said = self.setup(
            *("--server=UPDATES.example.net:8151/", "--box-id=7", "--name=Küche"),
            *("--install=automatic", "--channel=beta", "--services", "a.service", "b.service"),
        )
        self.assertIn(f"The configuration {self.file} was written.", said)
        self.assertIn("The agent reads them when it starts.", said)
        config = read_config(self.file)
        self.assertEqual((config.updates_ep, config.box_id), (SERVER, 7))
        settings = config.updater
        self.assertEqual((settings.name, settings.channel), ("Küche", "beta"))
        self.assertEqual(settings.install, "automatic")
        self.assertEqual(settings.services, ("a.service", "b.service"))
        self.assertEqual(list(self.content), ["updates_ep", "box_id", "updater"])
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o644)
        self.assertIn("Küche", self.file.read_text(encoding="utf-8"))

    def test_sample(self) -> None:
        """The keys of other daemons, and their order, stay as they are in the sample."""
        sample = PROJECT / "deploy" / "box" / "opqbox_config.json"
        before = json.loads(sample.read_text())
        self.write(before)
        self.setup(f"--server={SERVER}", "--box-id=7")
        self.assertEqual(self.content, {**before, "updates_ep": SERVER, "box_id": 7})
        self.assertEqual(list(self.content), list(before))

    def test_again(self) -> None:
        """The same command again writes nothing; another one changes only its own setting."""
        self.setup(f"--server={SERVER}", "--box-id=7")
        number = self.file.stat().st_ino
        said = self.setup(f"--server={SERVER}", "--box-id=7")
        self.assertIn("nothing was written", said)
        self.assertEqual(self.file.stat().st_ino, number)
        self.setup("--install=automatic")
        self.assertEqual(
            self.content, {"updates_ep": SERVER, "box_id": 7, "updater": {"install": "automatic"}}
        )

    def test_number_is_kept(self) -> None:
        """Without --box-id the number in the file stays, also one that is a text."""
        self.write({"updates_ep": SERVER, "box_id": "9"})
        self.setup("--name=Kitchen")
        self.assertEqual(self.content["box_id"], "9")

    def test_refused(self) -> None:
        """What the agent refuses is refused with the same sentence, and changes nothing."""
        self.write({"updates_ep": SERVER, "box_id": 7, "updater": {"log": "/var/log/x"}})
        for option in ("--server=ftp://x", "--channel=A", "--name= x", "--name=a\tb"):
            self.assert_refused(option)
        self.write({"updates_ep": SERVER, "updater": {"check_evry": 5}})
        self.assert_refused("--box-id=7")
        self.write({"updates_ep": SERVER, "updater": []})
        self.assert_refused("--box-id=7", "--name=Kitchen")
        self.write({"updates_ep": SERVER, "updater": {"web_password_file": "/nonexistent"}})
        self.assertIn("/nonexistent", self.setup("--box-id=7", status=1))
        self.write({"box_id": 7})
        self.assert_refused()
        self.file.write_text("{")
        self.assertIn("is not JSON", self.setup(f"--server={SERVER}", status=1))

    def test_wrong_number(self) -> None:
        """A number that no program could read is refused as a wrong command line."""
        for text in ("0", "-1", "x", "", str(2**53), "1e3", "٣"):
            code, _, complaint = run_main(main, "setup", f"--box-id={text}")
            self.assertEqual(code, 2)
            self.assertIn("from 1 to 9007199254740991", complaint)

    def test_mode_and_link(self) -> None:
        """The file keeps its permissions, and a link to it stays a link."""
        self.write({"updates_ep": SERVER, "box_id": 7})
        self.file.chmod(0o600)
        link, actual = self.file, self.file.with_name("actual.json")
        link.rename(actual)
        link.symlink_to(actual.name)
        self.setup("--name=Kitchen")
        self.assertTrue(link.is_symlink())
        self.assertEqual(actual.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.content["updater"], {"name": "Kitchen"})

    def test_owner(self) -> None:
        """The file of another user stays that user's."""
        self.write({"updates_ep": SERVER, "box_id": 7})
        with mock.patch("os.fchown") as given:
            self.setup("--name=Kitchen")
        status = self.file.stat()
        self.assertEqual(given.call_args.args[1:], (status.st_uid, status.st_gid))

    def test_forbidden(self) -> None:
        """An ordinary user is told who may write the file, and who may read it."""
        self.write({"updates_ep": SERVER, "box_id": 7})
        self.file.parent.chmod(0o555)
        self.addCleanup(self.file.parent.chmod, 0o755)
        # The folder that trial made for this test.
        self.file.parent.parent.parent.chmod(0o755)
        with without_privileges():
            said = self.setup("--name=Kitchen", status=1)
        self.assertIn(f"Cannot write {self.file}: Permission denied. Run the command as", said)
        self.file.chmod(0)
        with without_privileges():
            said = self.setup("--name=Kitchen", status=1)
        self.assertIn(f"{self.file}: Permission denied. Run the command as root.", said)

    def test_full_disk(self) -> None:
        """If the disk is full, the old file stays, and a sentence says so."""
        self.write({"updates_ep": SERVER, "box_id": 7})
        before = self.file.read_bytes()
        with counting(1):
            said = self.setup("--name=Kitchen", status=1)
        self.assertIn(f"Cannot write {self.file}: No space left on device. Fix that", said)
        self.assertEqual(self.file.read_bytes(), before)
        self.assertEqual(list(self.file.parent.iterdir()), [self.file])

    def test_json(self) -> None:
        """--json prints what a program needs."""
        said = json.loads(self.setup(f"--server={SERVER}", "--box-id=7", "--json"))
        self.assertEqual(set(said), {"status", "box_id", "warnings"})
        self.assertEqual(said["box_id"], 7)


class BoxIdTests(SynchronousTestCase):
    """The number that is made from the machine's id."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def make(self, text: str) -> int:
        self.path.write_text(text)
        return make_box_id(self.path)

    def test_stable(self) -> None:
        """One machine always gets the same number, whatever the version of the program."""
        self.assertEqual(self.make(f"{'0123456789abcdef' * 2}\n"), 627459353849)
        self.assertEqual(self.make("0123456789abcdef" * 2), 627459353849)

    def test_spread(self) -> None:
        """The numbers differ, and are spread evenly over their range."""
        numbers = [self.make(f"{index:032x}") for index in range(2000)]
        self.assertEqual(len(set(numbers)), 2000)
        self.assertTrue(all(0 < number <= 10**12 for number in numbers))
        tenths = Counter((number - 1) // 10**11 for number in numbers)
        self.assertTrue(all(150 < tenths[part] < 250 for part in range(10)), tenths)

    def test_no_id(self) -> None:
        """Without a machine's id there is one sentence."""
        for text in ("", "uninitialized\n", "0123456789abcdef\n", "g" * 32, "A" * 32, "0" * 200):
            with self.assertRaises(SetupFailed) as caught:
                self.make(text)
            self.assertIn("systemd-machine-id-setup", str(caught.exception))
        with self.assertRaises(OpqError):
            make_box_id(Path("/nonexistent"))
