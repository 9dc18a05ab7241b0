"""Tests of the command line `opq-release`: its output and exit codes."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PublicFormat,
)
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root

from opq_twisted.cli.release import releases
from opq_twisted.cli.release.main import main
from opq_twisted.common import wording
from opq_twisted.signing.root_draft import Draft
from opq_twisted.signing.root_keys import ROLES
from opq_twisted.trust import keys
from tests.helpers.archives import (
    END,
    file,
    header,
    layout,
    make_pieces_archive,
    name_of,
    random_parts,
    stream,
    write_archive,
    write_pieces,
)
from tests.helpers.key_holders import NEW, NEWER, OLD, PASSPHRASE, HoldersCase, signer_in
from tests.helpers.privileges import give_away, without_privileges
from tests.helpers.signed_metadata import make_key, write_key
from tests.helpers.terminal import on_terminal, run_main

PROGRAM = str(Path(sys.executable).with_name("opq-release"))
#: The program, whose keys are cheap to open.
CHEAP = """
from opq_twisted.cli.release import main
from opq_twisted.trust import pkcs8
pkcs8.COST = 1 << 4
raise SystemExit(main.main())
"""
VARIABLES = ("OPQ_RELEASE_PASSPHRASE", "OPQ_TIMESTAMP_PASSPHRASE", "OPQ_UPDATES_DIR")
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class CommandCase(HoldersCase):
    """Commands are typed in a place with keys and an updates directory."""

    def setUp(self) -> None:
        super().setUp()
        self.secret = self.place / "passphrase"
        self.secret.touch(mode=0o600)
        self.secret.write_bytes(PASSPHRASE + b"\n")
        for number in SIGNALS:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.addCleanup(os.umask, os.umask(0o022))
        for variable in VARIABLES:
            self.patch_environment(variable, None)

    def patch_environment(self, name: str, value: str | None) -> None:
        before = os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
        if before is not None:
            self.addCleanup(os.environ.__setitem__, name, before)
        elif value is not None:
            self.addCleanup(os.environ.pop, name, None)

    def start_over(self) -> None:
        """Remove all keys and metadata."""
        shutil.rmtree(self.keys)
        shutil.rmtree(self.tuf)

    def write_public(self, key: Key) -> Path:
        """Write a public key as `openssl pkey -pubout` does."""
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
        path = self.place / f"{key.keyid[:12]}.pub"
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path

    def options(self, command: str) -> list[str]:
        if command == "encrypt":
            return ["--passphrase-file", str(self.secret)]
        if command == "show":
            return ["--keys-dir", str(self.keys)]
        if command == "keygen":
            return ["--passphrase-file", str(self.secret)]
        options = ["--updates-dir", str(self.updates)]
        if command != "status":
            options += ["--keys-dir", str(self.keys), "--passphrase-file", str(self.secret)]
        return options

    def type(self, command: str, *more: object, status: int = 0) -> str:
        """Run a command in this process; return its output."""
        code, out, error = run_main(main, command, *self.options(command), *more)
        self.assertEqual(code, status, error)
        return error or out

    def run_program(self, *arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PROGRAM, *map(str, arguments)],
            env={"PATH": os.environ["PATH"], **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def assert_sentence(self, text: str, *words: str) -> None:
        self.assertTrue(text.startswith("opq-release: "), text)
        self.assertEqual(text.count("\n"), 1, text)
        self.assertTrue(text.endswith(".\n"), text)
        for word in words:
            self.assertIn(word, text)


class TypedTests(CommandCase):
    """Each command runs in this process."""

    def test_init(self) -> None:
        """`init` says where each key belongs."""
        self.start_over()
        said = self.type("init")
        for word in ("root keys offline", "--timestamp-key", "1.root.json", "/etc/opq/root.json"):
            self.assertIn(word, said)
        self.assertNotIn("One root key", said)
        self.assertEqual(len(list(self.keys.glob("root-*.pem"))), 3)

    def test_one_key(self) -> None:
        """One root key is possible, and the risk is explained."""
        self.start_over()
        said = self.type("init", "--root-keys", 1, "--root-threshold", 1)
        self.assertIn("somebody has to visit each box", said)

    def test_publish(self) -> None:
        """`publish` says which boxes get the release."""
        archive = self.archive(OLD)
        said = self.type("publish", archive, "--rollout", 25, "--channel", "beta")
        self.assertIn(f"Release {OLD} is signed for 25 % of the boxes in the channel beta.", said)
        said = self.type("publish", archive, "--channel", "beta", "--critical", "--yes")
        self.assertIn("for all boxes", said)
        self.assertIn("It is critical", said)
        self.serve()
        offer = self.box().asks("beta")
        assert offer is not None
        self.assertTrue(offer.critical)

    def test_publish_to_some(self) -> None:
        """`publish` says what the other boxes get, and how to withdraw a release."""
        said = self.type("publish", self.archive(OLD), "--rollout", 25)
        self.assertIn("Boxes whose turn has not come keep the release that they have.", said)
        self.type("publish", self.archive(OLD))
        said = self.type("publish", self.archive(NEW), "--rollout", 0)
        self.assertIn(f"Boxes whose turn has not come get release {OLD} until then.", said)
        self.assertIn("opq-release withdraw", said)
        self.assertIn(f"0 % of the boxes, until their turn {OLD}", self.type("status", status=0))

    def test_fetch_size(self) -> None:
        """`publish` says how much boxes with the release before fetch; so does `--dry-run`."""
        old, new = (
            make_pieces_archive(
                self.place / name_of(version), version, random_parts(0, version, size=500_000)
            )
            for version in (OLD, NEW)
        )
        self.assertNotIn("fetch", self.type("publish", old))
        for more in ((), ("--dry-run",)):
            said = self.type("publish", new, *more)
            self.assertIn(f"\nBoxes with release {OLD} fetch 0.5 MB of 1.0 MB.\n", said)

    def test_prune(self) -> None:
        """`prune` lists the removed archives, and where they still are."""
        for version in (OLD, NEW, NEWER):
            self.type("publish", self.archive(version))
        self.assertIn("nothing was changed", self.type("prune"))
        (self.tuf / "timestamp.json").touch()
        said = self.type("prune", "--keep", 0)
        self.assertIn(f"  {name_of(OLD)}\n", said)
        self.assertNotIn(name_of(NEW), said)
        self.assertIn(f"1 of them are still in {self.updates}", said)

    def test_withdraw(self) -> None:
        """`withdraw` says what boxes get now, with and without a trusted root."""
        self.type("publish", self.archive(OLD))
        self.type("publish", self.archive(NEW), "--rollout", 10)
        said = self.type("withdraw")
        self.assertIn(f"Release {NEW} is withdrawn: the channel stable offers {OLD}", said)
        self.assertIn(
            f"installing {name_of(NEW)}, move it out of the directory, here and on the server", said
        )
        self.assert_sentence(self.type("withdraw", status=1), "--to VERSION")

    def test_refused(self) -> None:
        """A refusal is a sentence, and the status is 1."""
        self.type("publish", self.archive(NEW))
        said = self.type("publish", self.archive(OLD), status=1)
        self.assert_sentence(said, "older", "--allow-downgrade")
        said = self.type("publish", self.archive(OLD), "--allow-downgrade", "--yes")
        self.assertIn("Boxes that have a newer release go back to it.", said)
        both = self.type("publish", self.archive(NEW), "--critical", "--rollout", 5, status=1)
        self.assert_sentence(both, "--critical or --rollout")

    def test_wrong_use(self) -> None:
        """A wrong command line has another exit code than a refusal."""
        for arguments in (
            ["publish"],
            ["publish", "x", "--rollout", "many"],
            ["rotate", "everything"],
            ["init", "--public-key", "nobody=x"],
        ):
            self.type(arguments[0], *arguments[1:], status=2)

    def test_dry_run(self) -> None:
        """`--dry-run` says what would be signed, checks all of it, and changes nothing."""
        self.type("publish", self.archive(OLD))
        before = self.files()
        notes = self.place / "notes"
        notes.write_text("Quiet fans.\nSmall \x1b faults.\n")
        archive = self.archive(NEW)
        terms = ("--critical", "--notes", notes, "--dry-run")
        said = self.type("publish", archive, *terms)
        for words in (
            *("Nothing was changed", f"{NEW}, built 2019-01-20 01:20 UTC", "for their turn"),
            f"{archive.stat().st_size} bytes",
            sha256(archive.read_bytes()).hexdigest(),
            f"channel  stable, which offers release {OLD} to all boxes now",
            "boxes    all boxes",
            "notes    Quiet fans.\n           Small \\u001b faults.",
        ):
            self.assertIn(words, said)
        self.assertEqual(self.files(), before)
        self.type("publish", archive)
        said = self.type("publish", self.archive(OLD), "--dry-run", status=1)
        self.assert_sentence(said, "older", "--allow-downgrade")
        write_archive(self.place / name_of(NEW), stream(file("VERSION", b"1")))
        said = self.type("publish", self.place / name_of(NEW), "--dry-run", status=1)
        self.assert_sentence(said, "Boxes would refuse")
        self.secret.write_bytes(b"wrong")
        said = self.type("publish", self.archive(NEWER), "--dry-run", status=1)
        self.assert_sentence(said, "passphrase is wrong")

    def test_not_confirmed(self) -> None:
        """Without a terminal, an unusual change needs `--yes`; the sentence says what boxes do."""
        archive, before = self.archive(OLD), self.files()
        said = self.type("publish", archive, "--critical", status=1)
        self.assert_sentence(said, f"install release {OLD}", "without a rollout", "--yes")
        said = self.type("publish", archive, "--allow-downgrade", status=1)
        self.assert_sentence(said, "go back to", "--yes")
        said = self.type("drop", "stable", status=1)
        self.assert_sentence(said, "keep the release that they have", "--yes")
        self.assertEqual(self.files(), before)

    def test_directory_in_environment(self) -> None:
        """`OPQ_UPDATES_DIR` names the updates directory, unless `--updates-dir` does."""
        self.patch_environment("OPQ_UPDATES_DIR", str(self.updates))
        code, out, error = run_main(main, "status")
        self.assertEqual((code, error), (0, ""))
        self.assertIn("root                1", out)
        code, _, error = run_main(main, "status", "--updates-dir", self.place / "none")
        self.assert_sentence(error, "none/tuf holds no root")

    def test_push(self) -> None:
        """`push` accepts the options of `publish` only with an archive."""
        for option in (
            "--critical",
            "--allow-downgrade",
            "--rollout=1",
            "--channel=x",
            "--notes=x",
        ):
            said = self.type("push", self.place, option, status=1)
            self.assert_sentence(said, option.partition("=")[0], "name its archive")
        said = self.type("push", "server:/x;y", status=1)
        self.assert_sentence(said, "'server:/x;y' is no destination", "SERVER:/DIR")

    def test_drop(self) -> None:
        """`drop` removes channels, and refuses unknown ones."""
        self.type("publish", self.archive(OLD), "--channel", "beta")
        self.type("publish", self.archive(NEW))
        self.serve()
        box = self.box()
        self.assertEqual(box.version("beta"), OLD)
        said = self.type("drop", "beta", "--yes")
        self.assertIn("The channel beta is removed", said)
        self.assertIn(f"installing {name_of(OLD)}, move it out", said)
        self.serve()
        self.assertEqual((box.version("beta"), box.version()), (None, NEW))
        self.type("publish", self.archive(NEWER), "--channel", "beta")
        said = self.type("drop", "beta", "stable", "--yes")
        for channel in ("beta", "stable"):
            self.assertIn(f"The channel {channel} is removed", said)
        for name in ("beta", name_of(OLD)):
            said = self.type("drop", name, "--yes", status=1)
            self.assert_sentence(said, "There is no channel", name)

    def test_rest(self) -> None:
        """The rare commands."""
        self.assertIn("signed again", self.type("resign"))
        self.assertIn("next root is in place", self.type("renew-root"))
        said = self.type("rotate", "timestamp", "targets", "snapshot")
        self.assertIn("new timestamp key", said)
        self.assertNotIn("new timestamp key", self.type("rotate", "root"))
        self.assertEqual(self.repository.numbers("root"), [1, 2, 3, 4])
        self.assert_sentence(self.type("rotate", status=1), "Name the role")

    def test_replace(self) -> None:
        """The replaced root key can be named by its file."""
        [old] = self.keys.glob("root-*.pem")
        self.type("rotate", "root", "--replace", old)
        self.assertTrue((self.keys / "retired" / old.name).exists())
        public = self.place / "other.pub"
        shutil.copy(Path(__file__), public)
        self.assert_sentence(self.type("rotate", "root", "--replace", public, status=1), "no PEM")

    def test_rotate_mistakes(self) -> None:
        """Options without effect are errors."""
        given = ("--public-key", f"targets={self.write_public(make_key().public_key)}")
        said = self.type("rotate", "targets", *given, *given, status=1)
        self.assert_sentence(said, "one --public-key")
        self.assert_sentence(self.type("rotate", "snapshot", *given, status=1), "for targets")
        said = self.type("rotate", "snapshot", "--replace", "0123", status=1)
        self.assert_sentence(said, "--replace", "root")
        self.assertEqual(self.repository.numbers("root"), [1])

    def test_made_elsewhere(self) -> None:
        """If the release keys are on another machine, the root is completed there."""
        self.start_over()
        there = signer_in(self.place / "there")
        options = []
        for role in ("targets", "snapshot"):
            key = there.key_folder.create(role)
            options += ["--public-key", f"{role}={self.write_public(key)}"]
        said = self.type("init", "--root-keys", 1, "--root-threshold", 1, *options)
        self.assertIn("has all its signatures", said)
        self.assertEqual(self.repository.numbers("root"), [])
        draft = self.keys / "root-1.draft.json"
        said = self.type("init", "--keys-dir", there.key_folder.folder, "--append", draft)
        self.assertIn("The root is in place", said)
        self.type("publish", "--keys-dir", there.key_folder.folder, self.archive(OLD))
        self.assert_served(OLD)

    def test_holders(self) -> None:
        """The output shows the draft's path, its content, and who has signed."""
        self.start_over()
        ben = self.place / "ben"
        ben.mkdir()
        key = keys.create(ben, "root", PASSPHRASE).public_key
        said = self.type("init", "--root-keys", 2, "--public-key", f"root={self.write_public(key)}")
        draft = self.keys / "root-1.draft.json"
        for word in ("lacks 1 more signature", str(draft), "--append", "2 of 2", key.keyid[:12]):
            self.assertIn(word, said)
        there = ["--updates-dir", self.place / "none", "--keys-dir", ben]
        said = self.type("init", *there, "--append", draft)
        self.assertIn("has all its signatures", said)
        self.assertIn("The root is in place", self.type("init", "--append", draft))
        self.type("renew-root")
        draft = self.keys / "root-2.draft.json"
        self.type("rotate", *there, "--append", draft)
        self.assertIn("next root is in place", self.type("renew-root", "--append", draft))

    def test_keygen(self) -> None:
        """A key is made with the file of its public key, which `init` accepts."""
        self.start_over()
        ben = self.place / "ben"
        said = self.type("keygen", "root", "--keys-dir", ben)
        [private], [public] = ben.glob("root-*.pem"), ben.glob("root-*.pub")
        key = keys.load(private, PASSPHRASE).public_key
        for words in (str(private), str(public), key.keyid):
            self.assertIn(words, said)
        self.assertEqual(private.stat().st_mode & 0o777, 0o600)
        self.type("init", "--root-keys", 2, "--public-key", f"root={public}")
        draft = self.keys / "root-1.draft.json"
        said = self.type("show", draft, "--keys-dir", ben)
        self.assertIn(f"It lacks 1 more signature(s), of these keys: {key.keyid[:12]}.", said)
        self.assertIn(f"    {key.keyid}\n", said)

    def test_show(self) -> None:
        """A draft's changes are said in words, with what is missing; nothing is signed."""
        [signer] = self.keys.glob("root-*.pem")
        draft = self.keys / "root-2.draft.json"
        signer.rename(self.place / signer.name)
        other = keys.create(self.keys, "root", PASSPHRASE).public_key
        current = self.repository.roots()[-1]
        root = Metadata[Root].from_bytes(current.to_bytes())
        root.signed.version = 2
        root.signed.add_key(other, "root")
        root.signed.roles["root"].threshold = 2
        [gone] = root.signed.roles["targets"].keyids
        root.signed.revoke_key(gone, "targets")
        new = make_key().public_key
        root.signed.add_key(new, "targets")
        root.signatures.clear()
        Draft(draft, root, current).save()
        before = draft.read_bytes()
        said = self.type("show", draft)
        for words in (
            f"root: signatures of {other.keyid[:12]} are trusted from now on.",
            "root: 2 of its keys have to sign, not 1.",
            f"targets: signatures of {new.keyid[:12]} are trusted from now on.",
            f"targets: signatures of {gone[:12]} are not trusted any more.",
            *("Signed by nobody.", "It lacks 2 more signature(s), of these keys: "),
        ):
            self.assertIn(words, said)
        self.assertEqual(draft.read_bytes(), before)
        draft.unlink()
        root.signed.version = 5
        Draft(draft, root, current).save()
        self.assert_sentence(self.type("show", draft, status=1), "draft of root 5, not 2")
        draft.write_bytes(b"[" * 100_000)
        self.assert_sentence(self.type("show", draft, status=1), "no draft of a root")

    def test_shown(self) -> None:
        """A holder sees complete ids, and the differences from the root that he knows."""
        self.start_over()
        self.type("init", "--root-keys", 2)
        first = self.repository.roots()[0].signed
        ben = self.place / "ben"
        ben.mkdir()
        bens = next(self.keys.glob("root-*.pem"))
        bens.rename(ben / bens.name)
        shutil.copy(self.keys / "trusted-root.json", ben)
        there = ("--updates-dir", self.place / "none", "--keys-dir", ben)
        draft = self.keys / "root-2.draft.json"
        self.type("renew-root")
        said = self.type("renew-root", *there, "--append", draft)
        for keyid in first.keys:
            self.assertIn(f"    {keyid}\n", said)
        self.assertIn("keys of root 1: nothing else has changed", said)
        for word in ("NEW", "REMOVED", "CHANGED", "came with the draft"):
            self.assertNotIn(word, said)
        draft.unlink()
        said = self.type("rotate", "targets")
        [gone] = first.roles["targets"].keyids
        [came] = Draft.load(draft).root.signed.roles["targets"].keyids
        self.assertIn(f"    {came}  NEW\n", said)
        self.assertIn(f"    {gone}  REMOVED\n", said)
        self.assertEqual((said.count("NEW\n"), said.count("REMOVED\n")), (1, 1))

    def test_shown_from_what_is_known(self) -> None:
        """The draft is compared with the holder's own root, not with the one in the draft."""
        known = self.repository.roots()[-1]
        alien = Metadata[Root].from_bytes(known.to_bytes())
        alien.signed.version = 2
        [old] = alien.signed.roles["targets"].keyids
        alien.signed.revoke_key(old, "targets")
        key = make_key().public_key
        alien.signed.add_key(key, "targets")
        alien.signed.roles["root"].threshold = 1
        root = Metadata[Root].from_bytes(alien.to_bytes())
        root.signed.version = 3
        draft = self.place / "root-3.draft.json"
        Draft(draft, root, alien).save()
        said = self.type(*("renew-root", "--updates-dir", self.place / "none", "--append", draft))
        self.assertIn(f"    {key.keyid}  NEW\n", said)
        (self.keys / "trusted-root.json").unlink()
        said = self.type(*("renew-root", "--updates-dir", self.place / "none", "--append", draft))
        self.assertNotIn("NEW\n", said)
        self.assertIn("Root 2 came with the draft", said)

    def test_weak_passphrase(self) -> None:
        """There is a warning about a short passphrase, and about one that others can read."""
        self.secret.chmod(0o644)
        self.assertIn(f"chmod go-rwx {self.secret}", self.type("resign"))
        self.secret.chmod(0o600)
        short = self.place / "short"
        short.touch(mode=0o600)
        short.write_bytes(b"short\n")
        said = self.type("rotate", "timestamp", "--timestamp-passphrase-file", short)
        self.assertIn("5 characters", said)
        [path] = self.keys.glob("targets-*.pem")
        said = self.type("encrypt", path, "--new-passphrase-file", short)
        self.assertIn("5 characters", said)
        self.assertNotIn("characters", self.type("renew-root"))

    def test_encrypt(self) -> None:
        """Keys in an older format cause advice until they are encrypted again, all or none."""
        paths = sorted(self.keys.glob("*.pem"))
        for path in paths:
            write_key(path, keys.load(path, PASSPHRASE), BestAvailableEncryption(PASSPHRASE))
        said = self.type("resign")
        self.assertEqual(said.count("opq-release encrypt"), 2)
        before = [path.read_bytes() for path in paths]
        nothing = self.place / "none"
        said = self.type("encrypt", *paths, nothing, status=1)
        self.assert_sentence(said, str(nothing), "No such file")
        self.assertEqual([path.read_bytes() for path in paths], before)
        said = self.type("encrypt", *paths)
        for path in paths:
            self.assertIn(f"{path} is encrypted again", said)
        self.assertNotIn("encrypt", self.type("resign"))
        new = self.place / "new"
        new.touch(mode=0o600)
        new.write_bytes(b"another long passphrase")
        self.type("encrypt", *paths, "--new-passphrase-file", new)
        self.type("resign", "--passphrase-file", new)

    def test_status(self) -> None:
        """`status` shows the state and the problems, also as JSON."""
        self.type("publish", self.archive(OLD), "--rollout", 5)
        self.serve()
        said = self.type("status")
        self.assertIn(f"channel stable: release {OLD}, 5 % of the boxes", said)
        self.assertIn(f"built {wording.moment(OLD)}", said)
        found = json.loads(self.type("status", "--json"))
        self.assertEqual(found["problems"], [])
        self.assertEqual([role["role"] for role in found["roles"]], list(ROLES))
        self.assertEqual(found["channels"][0]["version"], OLD)
        (self.updates / name_of(OLD)).unlink()
        self.assertIn(f"! {self.updates}", self.type("status", status=1))
        self.assertEqual(len(json.loads(self.type("status", "--json", status=1))["problems"]), 1)
        shutil.rmtree(self.tuf)
        self.assert_sentence(self.type("status", status=2), "holds no root")

    def test_status_expired(self) -> None:
        """Expired metadata is reported, and the exit code is 1."""
        self.serve()

        class Later:
            @staticmethod
            def now(zone: tzinfo) -> datetime:
                return datetime.now(zone) + timedelta(days=400)

        self.patch(releases, "datetime", Later)
        said = self.type("status", status=1)
        self.assertNotIn("days left", said)
        for role in ROLES:
            self.assertIn(f"! The {role} has expired", said)

    def test_status_damaged(self) -> None:
        """Damaged files are reported; without a readable root there is nothing else."""
        (self.tuf / "1.snapshot.json").write_bytes(b"{")
        said = self.type("status", status=1)
        self.assertIn(f"! {self.tuf}/1.snapshot.json is damaged", said)
        root = self.tuf / "1.root.json"
        for damage in (b"", b"{}", (self.tuf / "1.targets.json").read_bytes()):
            root.write_bytes(damage)
            self.assert_sentence(self.type("status", status=2), str(root), "restore")
            self.assert_sentence(self.type("status", "--json", status=2), str(root))

    def test_no_right(self) -> None:
        """Missing permissions are reported with the path."""
        archive = self.archive(OLD)
        self.place.parent.chmod(0o755)
        give_away(self.place)
        (self.tuf / ".lock").chmod(0o444)
        self.tuf.chmod(0o555)
        with without_privileges():
            self.type("status")
            for command in (("resign",), ("publish", archive), ("rotate", "targets")):
                said = self.type(*command, status=1)
                self.assert_sentence(said, f"Nothing can be written in {self.tuf}")
        self.tuf.chmod(0)
        with without_privileges():
            said = self.type("status", status=2)
            self.assert_sentence(said, str(self.tuf), "Permission denied")
        self.tuf.chmod(0o700)

    def test_no_folder(self) -> None:
        """Wrong names of the folders are errors."""
        said = self.type("resign", "--keys-dir", self.place / "none", status=1)
        self.assert_sentence(said, "none does not hold the keys of targets", "--keys-dir")
        said = self.type("resign", "--updates-dir", self.place / "none", status=1)
        self.assert_sentence(said, "There is no updates directory", "--updates-dir")
        self.assertFalse((self.place / "none").exists())

    def test_timestamp_passphrase(self) -> None:
        """The passphrase of the timestamp key may come from its own file."""
        secret = self.place / "servers"
        secret.touch(mode=0o600)
        secret.write_bytes(b"the server's own\r\n")
        self.type("rotate", "timestamp", "--timestamp-passphrase-file", secret)
        [path] = self.keys.glob("timestamp-*.pem")
        keys.load(path, b"the server's own")

    def test_disk_full(self) -> None:
        """A full disk is reported in a sentence."""

        def fsync(_: int) -> None:
            raise OSError(28, os.strerror(28))

        self.patch(os, "fsync", fsync)
        said = self.type("resign", status=1)
        self.assert_sentence(said, "No space left on device", "try again")
        self.assertNotIn("Errno", said)

    def test_environment(self) -> None:
        """The passphrases may be in the environment; a file has priority."""
        self.patch_environment("OPQ_RELEASE_PASSPHRASE", "wrong")
        self.type("resign")
        self.secret.write_bytes(b"wrong")
        self.assert_sentence(self.type("resign", status=1), "passphrase is wrong")
        self.start_over()
        self.patch_environment("OPQ_TIMESTAMP_PASSPHRASE", "another")
        self.type("init")
        [path] = self.keys.glob("timestamp-*.pem")
        keys.load(path, b"another")

    def test_no_passphrase(self) -> None:
        """An empty passphrase and a missing file are errors."""
        self.start_over()
        self.secret.write_bytes(b"\n")
        self.assert_sentence(self.type("init", status=1), "first line", "empty")
        self.secret.unlink()
        self.assert_sentence(self.type("init", status=1), str(self.secret), "No such file")


class ProcessTests(CommandCase):
    """The program itself."""

    def test_help(self) -> None:
        """Each command has a help text."""
        ended = self.run_program("--help")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        for command in ("init", "publish", "resign", "drop", "renew-root", "rotate", "status"):
            self.assertIn(command, ended.stdout)

    def test_no_terminal(self) -> None:
        """Without a terminal a sentence names the other ways to give a passphrase."""
        ended = self.run_program("resign", *self.options("resign")[:4])
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assert_sentence(ended.stderr, "--passphrase-file", "OPQ_RELEASE_PASSPHRASE")

    def test_publish(self) -> None:
        """`publish` works without a terminal, and shows no progress there."""
        ended = self.run_program(
            *("publish", *self.options("publish")[:4], self.archive(OLD)),
            OPQ_RELEASE_PASSPHRASE=PASSPHRASE.decode(),
        )
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        path = self.place / name_of(NEW)
        write_archive(path, stream(file("VERSION", str(NEW).encode())))
        ended = self.run_program("publish", *self.options("publish"), path)
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assert_sentence(ended.stderr, "Boxes would refuse", "no file install_update.sh")
        self.assertEqual(self.run_program("status", *self.options("status")).returncode, 0)

    def test_signals(self) -> None:
        """A signal ends it before anything is written; the exit code names the signal."""
        for number in (signal.SIGINT, signal.SIGTERM):
            before = self.files()
            # If the tests were started in the background, they may ignore SIGINT.
            process, terminal = self.asking("env", "--default-signal=INT,TERM")
            # Not sooner: this check takes the lock, and the program would refuse to work.
            self.assertTrue(self.is_locked())
            process.send_signal(number)
            # A signal just before the program waits is noticed only after the wait.
            os.write(terminal, b"\n")
            error = process.communicate(timeout=30)[1]
            self.assertEqual((process.returncode, error), (128 + number, ""))
            self.assertEqual(self.files(), before)
            self.assertFalse(self.is_locked())

    def test_at_once(self) -> None:
        """While one process waits for its passphrase, another one refuses to work."""
        process, terminal = self.asking("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
        self.assertTrue(self.is_locked())
        ended = self.run_program("resign", *self.options("resign"))
        self.assertEqual(ended.returncode, 1)
        self.assert_sentence(ended.stderr, "Another opq-release", "wait")
        process.send_signal(signal.SIGHUP)
        os.write(terminal, PASSPHRASE + b"\n")
        said, error = process.communicate(timeout=30)
        self.assertEqual((process.returncode, error), (0, "\n"), said)
        self.assertEqual(self.repository.numbers("targets"), [1, 2])

    def asking(self, *through: str) -> "tuple[subprocess.Popen[str], int]":
        """Start it on a terminal, where it waits for its passphrase; return both."""
        terminal, stdin = pty.openpty()
        self.addCleanup(os.close, terminal)
        process = subprocess.Popen(
            [*through, PROGRAM, "resign", *self.options("resign")[:4]],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Without a terminal of its own it does not open /dev/tty.
            start_new_session=True,
        )
        os.close(stdin)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stderr is not None
        self.assertEqual(os.read(process.stderr.fileno(), 4096), b"Passphrase of the keys: ")
        return process, terminal

    def test_in_the_middle(self) -> None:
        """Ended while it copies, it leaves no part of the archive."""
        part, parts = os.urandom(512_000), 40
        members = [*layout(OLD), header("content", b"0", parts * len(part))]
        # Equal pieces, which are compressed only once.
        archive = write_pieces(self.place / name_of(OLD), *members, *[part] * parts, END)
        # So slow that a busy machine sees the temporary file.
        command = ["nice", "-n", "19", PROGRAM, "publish", *self.options("publish")]
        process = subprocess.Popen([*command, str(archive)])
        self.wait_until(
            lambda: bool(list(self.updates.glob(".opq*"))) or process.poll() is not None
        )
        process.terminate()
        self.assertEqual(process.wait(30), 128 + signal.SIGTERM)
        self.assertEqual([path.name for path in self.updates.iterdir()], ["tuf"])
        self.assertEqual(self.repository.numbers("targets"), [1])

    def test_confirmed(self) -> None:
        """At a terminal, an unusual change is asked about, and done after `yes`."""
        self.type("publish", self.archive(OLD))
        before = self.files()
        command = (PROGRAM, "drop", *self.options("drop"), "stable")
        for answer, status in ((b"no\n", 1), (b"\x04", 1), (b"yes\n", 0)):
            self.assertEqual(self.files(), before)
            said, code = on_terminal(*command, prompts={b"Type yes to go on: ": answer})
            self.assertEqual(code, status, said)
            self.assertIn("Boxes of stable keep the release that they have", said)

    def test_terminal(self) -> None:
        """On a terminal it asks twice when keys are made, and again for the timestamp key."""
        self.start_over()
        prompts: Mapping[bytes, bytes] = {
            b"of the keys: ": b"one\n",
            b"more: ": b"one\n",
            b"the same): ": b"\n",
        }
        command = ["init", *self.options("init")[:4]]
        said, status = on_terminal(sys.executable, "-c", CHEAP, *command, prompts=prompts)
        self.assertEqual(status, 0, said)
        for path in self.keys.glob("*.pem"):
            keys.load(path, b"one")
        said, status = self.on_terminal("resign", {b"of the keys: ": b"two\n"})
        self.assertEqual(status, 1)
        self.assertIn("passphrase is wrong", " ".join(said.split()))

    def test_progress(self) -> None:
        """On a terminal it shows its progress."""
        said, status = self.on_terminal(
            "publish", {b"of the keys: ": PASSPHRASE + b"\n"}, self.archive(OLD)
        )
        self.assertEqual(status, 0, said)
        self.assertIn("100 %", said)

    def test_asked_once(self) -> None:
        """If no key is made, the passphrase is typed once."""
        self.type("renew-root")
        draft = self.keys / "root-3.draft.json"
        current = self.repository.roots()[-1]
        root = Metadata[Root].from_bytes(current.to_bytes())
        root.signed.version = 3
        root.signatures.clear()
        Draft(draft, root, current).save()
        said, status = self.on_terminal(
            "rotate", {b"of the keys: ": PASSPHRASE + b"\n"}, "--append", draft
        )
        self.assertEqual(status, 0, said)
        self.assertIn("next root is in place", said)

    def test_typed_wrongly(self) -> None:
        """Two different passphrases make no keys; the end of the input is no traceback."""
        self.start_over()
        for second, word in ((b"two\n", "differ"), (b"\x04", "No passphrase was typed")):
            prompts = {b"of the keys: ": b"one\n", b"more: ": second}
            said, status = self.on_terminal("init", prompts)
            self.assertEqual(status, 1, said)
            self.assertIn(word, said)
            self.assertEqual(list(self.keys.glob("*.pem")), [])

    def test_typed_in_another_encoding(self) -> None:
        """Input that is not UTF-8 is reported in a sentence."""
        said, status = self.on_terminal("resign", {b"of the keys: ": b"m\xfcll\n"})
        self.assertEqual(status, 1, said)
        self.assertIn("not UTF-8", said)
        self.assertNotIn("Traceback", said)

    def test_nobody_reads(self) -> None:
        """The command succeeds even if its output cannot be written."""
        reader, closed = os.pipe()
        os.close(reader)
        full = os.open("/dev/full", os.O_WRONLY)
        for number, (output, words) in enumerate([(closed, ""), (full, "No space left")], 2):
            ended = subprocess.run(
                [PROGRAM, "resign", *self.options("resign")],
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
            os.close(output)
            self.assertEqual(ended.returncode, 0, ended.stderr)
            self.assertIn(words, ended.stderr)
            self.assertEqual(ended.stderr.count("\n"), bool(words))
            self.assertEqual(self.newest("snapshot").version, number)

    def on_terminal(
        self, command: str, prompts: Mapping[bytes, bytes], *more: object
    ) -> tuple[str, int]:
        """Run it on a terminal, and type the answers."""
        return on_terminal(PROGRAM, command, *self.options(command)[:4], *more, prompts=prompts)

    def is_locked(self) -> bool:
        try:
            with self.repository.locked():
                return False
        except Exception:
            return True

    def wait_until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not holds():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.005)
