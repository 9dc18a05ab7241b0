"""A box follows signed metadata: what it takes, what it refuses, and that it never hangs."""

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
    """A signed repository in a folder, whose files come at once unless the test says otherwise."""

    def setUp(self) -> None:
        self.updates = Path(self.mktemp())
        self.updates.mkdir()
        self.signed, self.archive = with_one_release(self.updates, NEW)
        self.root = (self.signed.folder / "1.root.json").read_bytes()
        self.cache = Path(self.mktemp())
        self.clock = Clock()
        #: The names that were asked for, and how many bytes of each would have been taken.
        self.asked: list[tuple[str, int]] = []
        self.metadata = self.another()

    def another(self) -> SignedMetadata:
        """Make what the next run of the agent would have."""
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
        """What was asked for during the last lookup."""
        return [name for name, _ in self.asked]

    def assert_fails(self, kind: type[Exception]) -> str:
        """A lookup fails, with one sentence or two."""
        sentence = str(self.failureResultOf(self.begin(), kind).value)
        self.assertNotIn("\n", sentence)
        self.assertTrue(sentence.endswith("."), sentence)
        return sentence


class FindTests(SignedMetadataCase):
    """A repository as it should be."""

    def test_found(self) -> None:
        """The target has the length, the hashes and the terms that were signed."""
        found = self.find()
        assert found is not None
        self.assertEqual(found.length, len(b"an archive"))
        self.assertEqual(list(found.hashes), ["sha256"])
        self.assertEqual(found.custom, {"version": NEW, "file": self.archive.name})

    def test_requests(self) -> None:
        """Each file is fetched once; the next time only what may have changed."""
        self.find()
        first = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
        self.assertEqual(self.names(), first)
        for _ in range(2):
            self.metadata = self.another()
            self.find()
            self.assertEqual(self.names(), ["2.root.json", "timestamp.json"])

    def test_limits(self) -> None:
        """No file may be longer than it is known to be, or than any is."""
        self.find()
        size = (self.signed.folder / "1.snapshot.json").stat().st_size
        self.assertEqual([limit for _, limit in self.asked], [512_000, 16_384, size, 5_000_000])

    def test_news(self) -> None:
        """What was published since is found."""
        self.find()
        newer = self.updates / f"opq-box-update-{NEWER}.tar.bz2"
        newer.write_bytes(b"a newer archive")
        self.signed.publish(2, newer)
        self.signed.timestamp(2, 2)
        found = self.find()
        assert found is not None
        self.assertEqual(found.length, len(b"a newer archive"))
        self.assertEqual(
            self.names(), ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"]
        )

    def test_not_signed(self) -> None:
        """What is not signed is not found, and that is no failure."""
        self.assertIsNone(self.find("beta"))

    def test_refresh(self) -> None:
        """Without a target the metadata is renewed all the same."""
        self.assertIsNone(self.find(None))
        self.assertEqual(self.names()[-1], "1.targets.json")
        self.find()
        self.assertEqual(self.names(), ["2.root.json", "timestamp.json"])

    def test_new_keys(self) -> None:
        """Each key may be replaced, by a root that the holders of the last one signed."""
        for version, role in enumerate(("timestamp", "snapshot", "targets", "root"), 2):
            self.signed.rotate(role, version)
            self.signed.publish(version, self.archive)
            self.signed.timestamp(version, version)
            self.assertIsNotNone(self.find())

    def test_fifty_roots(self) -> None:
        """A box that was in a drawer for years goes through all the roots since."""
        for version in range(2, 52):
            self.signed.rotate("root", version)
        self.assertIsNotNone(self.find())
        self.assertEqual(self.names()[:50], [f"{version}.root.json" for version in range(2, 52)])
        self.metadata = self.another()
        self.find()
        self.assertEqual(self.names(), ["52.root.json", "timestamp.json"])


class RefusalTests(SignedMetadataCase):
    """A repository that cannot be believed, and a box that then still knows what it knew."""

    def test_wrong_key(self) -> None:
        """What another key signed is not taken, at any level."""
        self.find()
        right = dict(self.signed.keys)
        for role in ("timestamp", "snapshot", "targets"):
            with self.subTest(role=role):
                self.signed.keys = {**right, role: make_key()}
                self.signed.publish(2, self.archive)
                self.signed.timestamp(2, 2)
                self.assertIn("not what the release key signed", self.assert_fails(Untrusted))

    def test_stolen_root(self) -> None:
        """A root that the last one's key did not sign changes nothing."""
        self.signed.root(2, signers=[make_key()])
        self.assert_fails(Untrusted)

    def test_false_id(self) -> None:
        """A root that gives a key the id of another one changes nothing, whoever signed it."""
        self.find()
        right = dict(self.signed.keys)
        for role in ("root", "timestamp", "snapshot", "targets"):
            with self.subTest(role=role):
                false = under_id(make_key(), right[role].public_key.keyid)
                self.signed.keys = {**right, role: false}
                self.signed.root(2, signers=[right["root"]])
                self.signed.publish(2, self.archive)
                self.signed.timestamp(2, 2)
                self.assertIn("which is not its own", self.assert_fails(Untrusted))
        self.signed.keys = right
        self.signed.root(2)
        self.signed.publish(2, self.archive)
        self.signed.timestamp(2, 2)
        self.assertIsNotNone(self.find())

    def test_false_id_from_the_start(self) -> None:
        """Nor is it what a box begins with."""
        false = under_id(make_key(), self.signed.keys["targets"].public_key.keyid)
        self.signed.keys["targets"] = false
        self.root = self.signed.root(1).to_bytes()
        self.assertIn("trusted root cannot be used", self.assert_fails(Untrusted))

    def test_ids_of_all_that_is_said(self) -> None:
        """The digest may be over what else is said of a key: the specification has it so."""
        key = self.signed.keys["targets"].public_key
        more = {**key.to_dict(), "x": 1}
        digest = sha256(str(encode_canonical(more)).encode()).hexdigest()
        named = under_id(self.signed.keys["targets"], digest)
        named.public_key.unrecognized_fields["x"] = 1
        self.signed.keys["targets"] = named
        self.signed.root(2)
        self.signed.publish(2, self.archive)
        self.signed.timestamp(2, 2)
        self.assertIsNotNone(self.find())

    def test_back(self) -> None:
        """An older timestamp that was signed once is said to be old, expired or not."""
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
        """So is one of a copy that has not got the root yet which replaced the timestamp's key."""
        self.find()
        old = (self.signed.folder / "timestamp.json").read_bytes()
        stolen = self.signed.keys["timestamp"]
        self.signed.rotate("timestamp", 2)
        (self.signed.folder / "timestamp.json").write_bytes(old)
        self.assert_fails(OlderCopy)
        # Nobody lags with a newer one: that is a thief of the key that was replaced.
        self.signed.timestamp(2, 1, signer=stolen)
        self.assertIn("not what the release key signed", self.assert_fails(Untrusted))
        self.signed.timestamp(1, 1, signer=make_key())
        self.assertIn("not what the release key signed", self.assert_fails(Untrusted))

    def test_back_with_a_lie(self) -> None:
        """An older number that nobody signed is no older copy."""
        self.signed.timestamp(2, 1)
        self.find()
        self.signed.timestamp(1, 1, signer=make_key())
        self.assert_fails(Untrusted)

    def test_back_beneath(self) -> None:
        """So is an older snapshot beneath a new timestamp; older targets are refused."""
        self.signed.publish(2, self.archive)
        self.signed.timestamp(2, 2)
        self.find()
        self.signed.timestamp(3, 1)
        self.assert_fails(OlderCopy)
        self.signed.snapshot(3, 1)
        self.signed.timestamp(4, 3)
        self.assert_fails(Untrusted)

    def test_recovers(self) -> None:
        """When the repository is right again, so is everything."""
        self.find()
        self.signed.timestamp(2, 1, signer=make_key())
        self.assert_fails(Untrusted)
        self.signed.timestamp(2, 1)
        self.assertIsNotNone(self.find())

    def test_changed_on_the_way(self) -> None:
        """What is not what the timestamp or the snapshot names, or no metadata at all, is not."""
        for name in ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"):
            for content in (b"", b"\0" * 100, b"[" * 10_000, b"{}"):
                with self.subTest(name=name, content=content[:10]):
                    path = self.signed.folder / name
                    whole = path.read_bytes() if path.exists() else None
                    path.write_bytes(content)
                    self.assert_fails(Untrusted)
                    path.unlink()
                    if whole is not None:
                        path.write_bytes(whole)
        self.assertIsNotNone(self.find())

    def test_web_page(self) -> None:
        """The page of a network that wants people to log in is no attack."""
        for name in ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"):
            with self.subTest(name=name):
                path = self.signed.folder / name
                whole = path.read_bytes() if path.exists() else None
                path.write_bytes(b"\r\n<!doctype html><p>Please log in.</p>")
                self.assertIn("answers with a web page", self.assert_fails(ServerFailed))
                path.unlink()
                if whole is not None:
                    path.write_bytes(whole)
        self.assertIsNotNone(self.find())

    def test_trusted_root(self) -> None:
        """A trusted root that is none is the box's own trouble, and nobody is asked."""
        for root in (b"", b"\0" * 100, b"{}", (self.signed.folder / "timestamp.json").read_bytes()):
            self.root = root
            self.assertIn("The box's trusted root cannot be used", self.assert_fails(Untrusted))
        self.assertEqual(self.asked, [])

    def test_other_root(self) -> None:
        """A root that vouches for other keys trusts nothing of this repository."""
        other = Path(self.mktemp())
        other.mkdir()
        Signed(other).init()
        self.root = (other / "tuf" / "1.root.json").read_bytes()
        self.assert_fails(Untrusted)

    def test_stale(self) -> None:
        """What has expired is stale, at any level, and no forgery."""
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
        """So is a root; one that the box ships with may have expired, when there is a newer."""
        self.signed.now = time.time() - 1000 * 86400
        self.signed.root(1)
        self.root = (self.signed.folder / "1.root.json").read_bytes()
        self.assertIn("has expired", self.assert_fails(Stale))
        self.signed.root(2, days=2000)
        self.assertIsNotNone(self.find())


class MissingTests(SignedMetadataCase):
    """A server that does not have all of it."""

    def test_missing(self) -> None:
        """Each file but a newer root has to be there; then it works again."""
        for name in ("timestamp.json", "1.snapshot.json", "1.targets.json"):
            with self.subTest(name=name):
                path = self.signed.folder / name
                away = path.rename(f"{path}.away")
                self.assertIn(f"there is no {URL}{name}", self.assert_fails(ServerFailed))
                away.rename(path)
        self.assertIsNotNone(self.find())

    def test_server_fails(self) -> None:
        """When it cannot be reached, the reason and the time to wait are handed on."""

        async def fail(url: str, limit: int) -> bytes | None:
            raise ServerFailed("Busy.", retry_after=7.0)

        self.patch(self, "fetch", fail)
        self.metadata = self.another()
        failure = self.failureResultOf(self.begin(), ServerFailed)
        self.assertEqual((str(failure.value), failure.value.retry_after), ("Busy.", 7.0))


class CacheTests(SignedMetadataCase):
    """The folder of what was trusted last."""

    def damage(self, content: bytes | None) -> None:
        """Damage one file after the other; None halves it."""
        self.find()
        for path in sorted(self.cache.rglob("*.json")):
            with self.subTest(path=path, content=content):
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2] if content is None else content)
                self.metadata = self.another()
                self.assertIsNotNone(self.find())
                self.assertEqual(path.read_bytes(), whole)

    def test_damaged(self) -> None:
        """What a power cut left as zeros, or half of it, or as nothing, heals."""
        self.signed.root(2)
        self.damage(b"\0" * 1000)
        self.damage(None)
        self.damage(b"")

    def test_all_damaged(self) -> None:
        """So does all of it at once."""
        self.signed.root(2)
        self.find()
        for path in self.cache.rglob("*.json"):
            path.write_bytes(bytes(500))
        self.metadata = self.another()
        self.assertIsNotNone(self.find())

    def test_false_id(self) -> None:
        """A root with a false id that an earlier agent has trusted is forgotten."""
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
        """What was being written when the power was cut is removed."""
        self.find()
        (self.cache / "tmpabcdef").write_bytes(b"{")
        self.find()
        self.assertEqual(list(self.cache.glob("tmp*")), [])

    def test_removed(self) -> None:
        """And what was removed comes back."""
        self.find()
        for path in self.cache.rglob("*.json"):
            path.unlink()
        self.assertIsNotNone(self.find())

    def test_dangling(self) -> None:
        """A link to a root that is not there any more is made anew."""
        self.find()
        (self.cache / "root.json").unlink()
        (self.cache / "root.json").symlink_to("root_history/9.root.json")
        self.assertIsNotNone(self.find())
        self.assertEqual((self.cache / "root.json").read_bytes(), self.root)

    def test_unusable(self) -> None:
        """A folder that cannot be made is the disk's failure, and not the server's."""
        self.cache.write_text("This is no folder.")
        self.failureResultOf(self.begin(), OSError)
        self.cache.unlink()
        self.assertIsNotNone(self.find())


class WaitingTests(SignedMetadataCase):
    """A server that takes its time."""

    def setUp(self) -> None:
        super().setUp()
        self.waiting: list[Deferred[None]] = []

    async def pause(self, name: str) -> None:
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        await waiting

    def serve(self) -> None:
        """Let all that is asked for come, until nothing is."""
        while self.waiting:
            self.waiting.pop(0).callback(None)

    def assert_works(self) -> None:
        """A lookup that is answered succeeds."""
        finding = self.begin()
        self.serve()
        self.assertIsNotNone(self.successResultOf(finding))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent(self) -> None:
        """After ten minutes it is given up, and the next lookup begins anew."""
        finding = self.begin()
        self.clock.advance(599)
        self.assertNoResult(finding)
        self.clock.advance(1)
        self.assertIn("10 minutes", str(self.failureResultOf(finding, ServerFailed).value))
        self.assertTrue(self.waiting.pop(0).called)
        self.assert_works()

    def test_endless(self) -> None:
        """The ten minutes are for all the files: a root after the other does not hold the box."""
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
        """A lookup that is cancelled ends at once, whatever it waits for."""
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
        """So it does while the thread works."""
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
        """The second of two lookups begins when the first has ended, with what that one learnt."""
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
        """The second goes on when the first is cancelled; the first, when the second is."""
        first, second, third = self.begin(), self.begin(), self.begin()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertTrue(self.waiting.pop(0).called)
        self.serve()
        self.assertIsNotNone(self.successResultOf(third))
