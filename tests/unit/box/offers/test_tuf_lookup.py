"""The lookup in signed metadata: valid and invalid repositories, and slow ones."""

import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from securesystemslib.formats import encode_canonical
from tuf.ngclient import TargetFile
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.offers.tuf_lookup import SignedMetadata
from opq_twisted.common.errors import OlderCopy, ServerFailed, Stale, Untrusted
from tests.helpers.box_fakes import NEW, NEWER
from tests.helpers.signed_metadata import Signed, make_key, under_id, with_one_release

URL = "http://updates.example:8151/tuf/"


class SignedMetadataCase(SynchronousTestCase):
    """A signed repository in a folder, whose files arrive at once unless the test delays them."""

    def setUp(self) -> None:
        self.updates = Path(self.mktemp())
        self.updates.mkdir()
        self.signed, self.archive = with_one_release(self.updates, NEW)
        self.root = (self.signed.folder / "1.root.json").read_bytes()
        self.cache = Path(self.mktemp())
        self.clock = Clock()
        #: The requested names, and the limit for each in bytes.
        self.asked: list[tuple[str, int]] = []
        self.metadata = self.another()

    def another(self) -> SignedMetadata:
        """Make the lookup of the next run of the agent."""
        return SignedMetadata(self.clock, self.fetch, self.cache, maybeDeferred)

    async def fetch(self, url: str, limit: int) -> bytes | None:
        name = url.removeprefix(URL)
        self.asked.append((name, limit))
        await self.pause(name)
        path = self.signed.folder / name
        return path.read_bytes() if path.exists() else None

    async def pause(self, name: str) -> None:
        """Wait before the answer."""

    def begin(self, target: str | None = "stable") -> Deferred[TargetFile | None]:
        return Deferred.fromCoroutine(self.metadata.find(URL, self.root, target))

    def find(self, target: str | None = "stable") -> TargetFile | None:
        self.asked.clear()
        return self.successResultOf(self.begin(target))

    def names(self) -> list[str]:
        """The requests of the last lookup."""
        return [name for name, _ in self.asked]

    def assert_fails(self, kind: type[Exception]) -> str:
        """Assert that a lookup fails; return its one or two sentences."""
        sentence = str(self.failureResultOf(self.begin(), kind).value)
        self.assertNotIn("\n", sentence)
        self.assertTrue(sentence.endswith("."), sentence)
        return sentence


class FindTests(SignedMetadataCase):
    """A valid repository."""

    def test_found(self) -> None:
        """The target has the signed length, hashes and custom fields."""
        found = self.find()
        assert found is not None
        self.assertEqual(found.length, len(b"an archive"))
        self.assertEqual(list(found.hashes), ["sha256"])
        self.assertEqual(found.custom, {"version": NEW, "file": self.archive.name})

    def test_requests(self) -> None:
        """Each file is downloaded once, and later only those that may have changed."""
        self.find()
        first = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
        self.assertEqual(self.names(), first)
        for _ in range(2):
            self.metadata = self.another()
            self.find()
            self.assertEqual(self.names(), ["2.root.json", "timestamp.json"])

    def test_limits(self) -> None:
        """No file may be longer than its known length, or than the limit."""
        self.find()
        size = (self.signed.folder / "1.snapshot.json").stat().st_size
        self.assertEqual([limit for _, limit in self.asked], [512_000, 16_384, size, 5_000_000])

    def test_news(self) -> None:
        """A later publication is found."""
        self.find()
        newer = self.updates / f"opq-box-update-{NEWER}.tar.bz2"
        newer.write_bytes(b"a newer archive")
        self.signed.announce(2, newer)
        found = self.find()
        assert found is not None
        self.assertEqual(found.length, len(b"a newer archive"))
        self.assertEqual(
            self.names(), ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"]
        )

    def test_not_signed(self) -> None:
        """A target that is not signed is not found, without an error."""
        self.assertIsNone(self.find("beta"))

    def test_refresh(self) -> None:
        """Without a target, the metadata is refreshed."""
        self.assertIsNone(self.find(None))
        self.assertEqual(self.names()[-1], "1.targets.json")
        self.find()
        self.assertEqual(self.names(), ["2.root.json", "timestamp.json"])

    def test_new_keys(self) -> None:
        """Each key may be replaced by a root that the holders of the previous root signed."""
        for version, role in enumerate(("timestamp", "snapshot", "targets", "root"), 2):
            self.signed.rotate(role, version)
            self.signed.announce(version, self.archive)
            self.assertIsNotNone(self.find())

    def test_fifty_roots(self) -> None:
        """A box that was off for years goes through all the roots since."""
        for version in range(2, 52):
            self.signed.rotate("root", version)
        self.assertIsNotNone(self.find())
        self.assertEqual(self.names()[:50], [f"{version}.root.json" for version in range(2, 52)])
        self.metadata = self.another()
        self.find()
        self.assertEqual(self.names(), ["52.root.json", "timestamp.json"])


class RefusalTests(SignedMetadataCase):
    """An invalid repository, after which the box still has its last trusted metadata."""

    def test_wrong_key(self) -> None:
        """Metadata of another key is refused at any level."""
        self.find()
        right = dict(self.signed.keys)
        for role in ("timestamp", "snapshot", "targets"):
            with self.subTest(role=role):
                self.signed.keys = {**right, role: make_key()}
                self.signed.announce(2, self.archive)
                self.assertIn("not what the release key signed", self.assert_fails(Untrusted))

    def test_stolen_root(self) -> None:
        """A root that the previous root's key did not sign changes nothing."""
        self.signed.root(2, signers=[make_key()])
        self.assert_fails(Untrusted)

    def test_false_id(self) -> None:
        """A root that gives a key the id of another key changes nothing, whoever signed it."""
        self.find()
        right = dict(self.signed.keys)
        for role in ("root", "timestamp", "snapshot", "targets"):
            with self.subTest(role=role):
                false = under_id(make_key(), right[role].public_key.keyid)
                self.signed.keys = {**right, role: false}
                self.signed.root(2, signers=[right["root"]])
                self.signed.announce(2, self.archive)
                self.assertIn("which is not its own", self.assert_fails(Untrusted))
        self.signed.keys = right
        self.signed.root(2)
        self.signed.announce(2, self.archive)
        self.assertIsNotNone(self.find())

    def test_false_id_from_the_start(self) -> None:
        """Such a root cannot be the trusted root either."""
        false = under_id(make_key(), self.signed.keys["targets"].public_key.keyid)
        self.signed.keys["targets"] = false
        self.root = self.signed.root(1).to_bytes()
        self.assertIn("trusted root cannot be used", self.assert_fails(Untrusted))

    def test_ids_of_all_that_is_said(self) -> None:
        """The digest may include further fields of a key, as the specification allows."""
        key = self.signed.keys["targets"].public_key
        more = {**key.to_dict(), "x": 1}
        digest = sha256(str(encode_canonical(more)).encode()).hexdigest()
        named = under_id(self.signed.keys["targets"], digest)
        named.public_key.unrecognized_fields["x"] = 1
        self.signed.keys["targets"] = named
        self.signed.root(2)
        self.signed.announce(2, self.archive)
        self.assertIsNotNone(self.find())

    def test_back(self) -> None:
        """An older timestamp that was validly signed is an older copy, expired or not."""
        for days in (-1, 7):
            with self.subTest(days=days):
                self.signed.timestamp(1, 1, days=days)
                old = (self.signed.folder / "timestamp.json").read_bytes()
                self.signed.timestamp(2, 1)
                self.find()
                (self.signed.folder / "timestamp.json").write_bytes(old)
                self.metadata = self.another()
                sentence = self.assert_fails(OlderCopy)
                self.assertIn("older than what this box has seen", sentence)
                # The copy catches up.
                self.signed.timestamp(2, 1)
                self.assertIsNotNone(self.find())

    def test_back_behind_a_root(self) -> None:
        """So is a timestamp with the previous key, of a copy without the root that replaced it."""
        self.find()
        old = (self.signed.folder / "timestamp.json").read_bytes()
        stolen = self.signed.keys["timestamp"]
        self.signed.rotate("timestamp", 2)
        (self.signed.folder / "timestamp.json").write_bytes(old)
        self.assert_fails(OlderCopy)
        # A copy cannot lag with a newer timestamp: that comes from a stolen replaced key.
        self.signed.timestamp(2, 1, signer=stolen)
        self.assertIn("not what the release key signed", self.assert_fails(Untrusted))
        self.signed.timestamp(1, 1, signer=make_key())
        self.assertIn("not what the release key signed", self.assert_fails(Untrusted))

    def test_back_with_a_lie(self) -> None:
        """An older number with an invalid signature is not an older copy."""
        self.signed.timestamp(2, 1)
        self.find()
        self.signed.timestamp(1, 1, signer=make_key())
        self.assert_fails(Untrusted)

    def test_back_beneath(self) -> None:
        """An older snapshot under a new timestamp is refused, and so are older targets."""
        self.signed.announce(2, self.archive)
        self.find()
        self.signed.timestamp(3, 1)
        self.assert_fails(OlderCopy)
        self.signed.snapshot(3, 1)
        self.signed.timestamp(4, 3)
        self.assert_fails(Untrusted)

    def test_recovers(self) -> None:
        """When the repository is valid again, lookups succeed."""
        self.find()
        self.signed.timestamp(2, 1, signer=make_key())
        self.assert_fails(Untrusted)
        self.signed.timestamp(2, 1)
        self.assertIsNotNone(self.find())

    def assert_replaced(self, kind: type[Exception], words: str, *contents: bytes) -> None:
        """A lookup fails if any file has such a content, and then succeeds with the right one."""
        for name in ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"):
            for content in contents:
                with self.subTest(name=name, content=content[:10]):
                    path = self.signed.folder / name
                    whole = path.read_bytes() if path.exists() else None
                    path.write_bytes(content)
                    self.assertIn(words, self.assert_fails(kind))
                    path.unlink()
                    if whole is not None:
                        path.write_bytes(whole)
        self.assertIsNotNone(self.find())

    def test_changed_on_the_way(self) -> None:
        """Files other than those that the timestamp or the snapshot names are refused."""
        self.assert_replaced(Untrusted, "", b"", b"\0" * 100, b"[" * 10_000, b"{}")

    def test_web_page(self) -> None:
        """The login page of a network is not an attack."""
        page = b"\r\n<!doctype html><p>Please log in.</p>"
        self.assert_replaced(ServerFailed, "answers with a web page", page)

    def test_trusted_root(self) -> None:
        """An invalid trusted root is the box's own fault, and nothing is requested."""
        for root in (b"", b"\0" * 100, b"{}", (self.signed.folder / "timestamp.json").read_bytes()):
            self.root = root
            self.assertIn("The box's trusted root cannot be used", self.assert_fails(Untrusted))
        self.assertEqual(self.asked, [])

    def test_other_root(self) -> None:
        """A root with other keys accepts nothing of this repository."""
        other = Path(self.mktemp())
        other.mkdir()
        Signed(other).init()
        self.root = (other / "tuf" / "1.root.json").read_bytes()
        self.assert_fails(Untrusted)

    def test_stale(self) -> None:
        """Expired metadata at any level is stale, and not invalid."""
        self.find()
        self.signed.now = time.time() - 1000 * 86400
        for version, expired in enumerate(("targets", "snapshot", "timestamp"), 2):
            with self.subTest(expired=expired):
                days = dict.fromkeys(("targets", "snapshot", "timestamp"), 2000) | {expired: 1}
                self.signed.targets(version, days=days["targets"])
                self.signed.snapshot(version, version, days=days["snapshot"])
                self.signed.timestamp(version, version, days=days["timestamp"])
                self.assertIn("has expired", self.assert_fails(Stale))

    def test_stale_root(self) -> None:
        """An expired root is stale too, but a trusted root with a newer one may have expired."""
        self.signed.now = time.time() - 1000 * 86400
        self.signed.root(1)
        self.root = (self.signed.folder / "1.root.json").read_bytes()
        self.assertIn("has expired", self.assert_fails(Stale))
        self.signed.root(2, days=2000)
        self.assertIsNotNone(self.find())


class MissingTests(SignedMetadataCase):
    """A server that lacks a part of the metadata."""

    def test_missing(self) -> None:
        """Each file except a newer root must exist; then lookups succeed again."""
        for name in ("timestamp.json", "1.snapshot.json", "1.targets.json"):
            with self.subTest(name=name):
                path = self.signed.folder / name
                away = path.rename(f"{path}.away")
                self.assertIn(f"there is no {URL}{name}", self.assert_fails(ServerFailed))
                away.rename(path)
        self.assertIsNotNone(self.find())

    def test_server_fails(self) -> None:
        """If the server cannot be reached, the reason and its `Retry-After` are passed on."""

        async def fail(url: str, limit: int) -> bytes | None:
            raise ServerFailed("Busy.", retry_after=7.0)

        self.patch(self, "fetch", fail)
        self.metadata = self.another()
        failure = self.failureResultOf(self.begin(), ServerFailed)
        self.assertEqual((str(failure.value), failure.value.retry_after), ("Busy.", 7.0))


class CacheTests(SignedMetadataCase):
    """The folder of the last trusted metadata."""

    def damage(self, content: bytes | None) -> None:
        """Damage one file after the other; None halves a file."""
        self.find()
        for path in sorted(self.cache.rglob("*.json")):
            with self.subTest(path=path, content=content):
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2] if content is None else content)
                self.metadata = self.another()
                self.assertIsNotNone(self.find())
                self.assertEqual(path.read_bytes(), whole)

    def test_damaged(self) -> None:
        """A file that a power cut has damaged is replaced."""
        self.signed.root(2)
        self.damage(b"\0" * 1000)
        self.damage(None)
        self.damage(b"")

    def test_all_damaged(self) -> None:
        """All files together are replaced too."""
        self.signed.root(2)
        self.find()
        for path in self.cache.rglob("*.json"):
            path.write_bytes(bytes(500))
        self.metadata = self.another()
        self.assertIsNotNone(self.find())

    def test_false_id(self) -> None:
        """A root with a false key id that an earlier agent trusted is removed."""
        self.find()
        right = dict(self.signed.keys)
        self.signed.keys["targets"] = under_id(make_key(), right["targets"].public_key.keyid)
        false = self.signed.root(2).to_bytes()
        (self.cache / "root_history" / "2.root.json").write_bytes(false)
        self.signed.keys = right
        self.signed.root(2)
        self.assertIsNotNone(self.find())
        self.assertNotEqual((self.cache / "root.json").read_bytes(), false)

    def test_left_behind(self) -> None:
        """Temporary files of a power cut are removed."""
        self.find()
        (self.cache / "tmpabcdef").write_bytes(b"{")
        self.find()
        self.assertEqual(list(self.cache.glob("tmp*")), [])

    def test_removed(self) -> None:
        """Removed files are downloaded again."""
        self.find()
        for path in self.cache.rglob("*.json"):
            path.unlink()
        self.assertIsNotNone(self.find())

    def test_dangling(self) -> None:
        """A link to a missing root is replaced."""
        self.find()
        (self.cache / "root.json").unlink()
        (self.cache / "root.json").symlink_to("root_history/9.root.json")
        self.assertIsNotNone(self.find())
        self.assertEqual((self.cache / "root.json").read_bytes(), self.root)

    def test_unusable(self) -> None:
        """A folder that cannot be created is an error of the disk, and not of the server."""
        self.cache.write_text("This is no folder.")
        self.failureResultOf(self.begin(), OSError)
        self.cache.unlink()
        self.assertIsNotNone(self.find())


class WaitingTests(SignedMetadataCase):
    """A slow server."""

    def setUp(self) -> None:
        super().setUp()
        self.waiting: list[Deferred[None]] = []

    async def pause(self, name: str) -> None:
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        await waiting

    def serve(self) -> None:
        """Answer all requests, until there are none."""
        while self.waiting:
            self.waiting.pop(0).callback(None)

    def assert_works(self) -> None:
        """A lookup with all responses succeeds."""
        finding = self.begin()
        self.serve()
        self.assertIsNotNone(self.successResultOf(finding))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent(self) -> None:
        """A lookup fails after ten minutes, and the next one starts again."""
        finding = self.begin()
        self.clock.advance(599)
        self.assertNoResult(finding)
        self.clock.advance(1)
        self.assertIn("10 minutes", str(self.failureResultOf(finding, ServerFailed).value))
        self.assertTrue(self.waiting.pop(0).called)
        self.assert_works()

    def test_endless(self) -> None:
        """The ten minutes are for all files together, even for many roots."""
        for version in range(2, 20):
            self.signed.rotate("root", version)

        async def wait(name: str) -> None:
            await deferLater(self.clock, 59)

        self.patch(self, "pause", wait)
        finding = self.begin()
        self.clock.pump([59] * 10)
        self.assertNoResult(finding)
        self.clock.advance(10)
        self.failureResultOf(finding, ServerFailed)
        self.assertEqual(len(self.asked), 11)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """A cancelled lookup ends at once, whatever it waits for."""
        for answered in range(4):
            with self.subTest(answered=answered):
                finding = self.begin()
                for _ in range(answered):
                    self.waiting.pop(0).callback(None)
                finding.cancel()
                self.failureResultOf(finding, CancelledError)
                self.assertTrue(self.waiting.pop(0).called)
                self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assert_works()

    def test_cancelled_in_thread(self) -> None:
        """It ends at once even while its thread works."""
        threads: list[Deferred[Any]] = []

        def in_thread(*_: object) -> Deferred[Any]:
            threads.append(Deferred())
            return threads[-1]

        self.metadata = SignedMetadata(self.clock, self.fetch, self.cache, in_thread)
        finding = self.begin()
        finding.cancel()
        self.failureResultOf(finding, CancelledError)
        self.assertTrue(threads[0].called)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_two_at_once(self) -> None:
        """The second of two lookups starts after the first, with its metadata."""
        first, second = self.begin(), self.begin(None)
        self.assertEqual(self.names(), ["2.root.json"])
        for _ in range(4):
            self.assertNoResult(first)
            self.waiting.pop(0).callback(None)
        self.assertIsNotNone(self.successResultOf(first))
        self.assertNoResult(second)
        self.serve()
        self.assertIsNone(self.successResultOf(second))
        self.assertEqual(self.names()[4:], ["2.root.json", "timestamp.json"])

    def test_first_cancelled(self) -> None:
        """If one of two lookups is cancelled, the other continues."""
        first, second, third = self.begin(), self.begin(), self.begin()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertTrue(self.waiting.pop(0).called)
        self.serve()
        self.assertIsNotNone(self.successResultOf(third))
