"""Tests of which archives stay in the targets."""

from datetime import UTC, datetime

from tuf.api.metadata import TargetFile

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.prune import describe_crowding, prune
from opq_twisted.signing.status import inspect
from tests.helpers.archives import name_of
from tests.helpers.key_holders import NEW, NEWER, OLD, HoldersCase


class PruningCase(HoldersCase):
    """Some archives that were published."""

    def named(self) -> set[str]:
        """The archives that are signed."""
        return {name for name in self.newest("targets").targets if name.endswith(".bz2")}


class MissingTests(PruningCase):
    """`publish` removes archives that are gone."""

    def test_dropped(self) -> None:
        """An archive that is gone, and that no channel needs, is no longer signed."""
        self.publish(OLD)
        self.publish(NEW)
        self.assertEqual(self.named(), {name_of(OLD), name_of(NEW)})
        (self.updates / name_of(OLD)).unlink()
        self.publish(NEWER)
        self.assertEqual(self.named(), {name_of(NEW), name_of(NEWER)})

    def test_in_use(self) -> None:
        """An archive that a channel needs stays, even if it is gone."""
        self.publish(OLD)
        self.publish(NEW, "beta")
        self.publish(NEWER, rollout=10)
        for version in (OLD, NEW):
            (self.updates / name_of(version)).unlink()
        self.publish(NEWER, "gamma")
        self.assertEqual(self.named(), {name_of(OLD), name_of(NEW), name_of(NEWER)})


class PruneTests(PruningCase):
    """`prune` removes old archives."""

    def setUp(self) -> None:
        super().setUp()
        for version in range(OLD - 4, OLD):
            self.publish(version)
        self.publish(OLD, "beta")
        self.publish(NEW)
        self.publish(NEWER, rollout=10)
        self.used = {name_of(OLD), name_of(NEW), name_of(NEWER)}

    def test_all(self) -> None:
        """Only the archives that channels need stay, with the previous release of a rollout."""
        self.serve()
        box = self.box()
        self.assertEqual(box.version(), NEWER)
        (self.updates / name_of(OLD - 4)).unlink()
        pruned = prune(self.signer, 0)
        self.assertEqual(pruned.removed, [name_of(OLD - back) for back in (4, 3, 2, 1)])
        self.assertEqual(pruned.still_there, [])
        archives = {name for name in self.files() if name.endswith(".bz2")}
        self.assertEqual(archives, self.used)
        self.assertEqual(self.named(), self.used)
        self.assertEqual(self.serve().alerts, ())
        self.assertEqual((box.version(), box.version("beta")), (NEWER, OLD))

    def test_keep(self) -> None:
        """The chosen number of newest archives stays."""
        pruned = prune(self.signer, 5)
        self.assertEqual(pruned.removed, [name_of(OLD - 4), name_of(OLD - 3)])
        files = self.files()
        self.assertEqual(prune(self.signer, 100).removed, [])
        self.assertEqual(self.files(), files)

    def test_not_announced(self) -> None:
        """An archive that boxes may get by the timestamp is deleted later."""
        for version, is_served in ((NEWER + 1, True), (NEWER + 2, False), (NEWER + 3, False)):
            self.publish(version, "beta")
            if is_served:
                self.serve()
        pruned = prune(self.signer, 0)
        self.assertEqual(pruned.still_there, [name_of(NEWER + 1)])
        self.assertNotIn(name_of(OLD), self.files())

    def test_timestamp_unreadable(self) -> None:
        """Without knowing what boxes may get, nothing is deleted."""
        (self.tuf / "timestamp.json").write_bytes(b"{")
        pruned = prune(self.signer, 0)
        self.assertEqual(pruned.still_there, pruned.removed)

    def test_published_again(self) -> None:
        """The next release does not bring removed archives back."""
        prune(self.signer, 0)
        self.publish(NEWER)
        self.assertEqual(self.named(), self.used)

    def test_refused(self) -> None:
        """An invalid number changes nothing."""
        self.assert_refused(lambda: prune(self.signer, -1), "a number from 0", kind=ReleaseFailed)


class CrowdingTests(PruningCase):
    """Targets that come near the size that boxes read."""

    def test_warning(self) -> None:
        """There is a warning long before boxes refuse them, and none after pruning."""
        self.assertIsNone(describe_crowding(self.repository))
        hashes = {"sha256": "ab" * 32, "sha512": "cd" * 64}

        def crowd(targets: dict[str, TargetFile]) -> None:
            for version in range(1, 10_000):
                targets[name_of(version)] = TargetFile(1, hashes, name_of(version))

        self.signer.change(crowd)
        sentence = describe_crowding(self.repository)
        assert sentence is not None
        self.assertIn("boxes read 5000000 at most", sentence)
        self.assertIn(sentence, inspect(self.repository, datetime.now(UTC)).problems)
        prune(self.signer, 0)
        self.assertIsNone(describe_crowding(self.repository))
