"""Metadata that a real client refuses is refused before it is written."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.dry_run import try_metadata_sets, try_roots
from opq_twisted.trust.repository_reader import Document, MetadataSet

KEYS = {
    role: CryptoSigner.generate_ed25519() for role in ("root", "targets", "snapshot", "timestamp")
}
OTHER = CryptoSigner.generate_ed25519()
CUSTOM = {"version": 7, "file": "opq-box-update-7.tar.bz2"}


def later(days: float = 30) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def make_root(version: int = 1, *signers: CryptoSigner, days: float = 30) -> Metadata[Root]:
    root = Metadata(Root(version, expires=later(days)))
    for role, key in KEYS.items():
        root.signed.add_key(key.public_key, role)
    for signer in signers or (KEYS["root"],):
        root.sign(signer, append=True)
    return root


def channel(custom: Mapping[str, Any], name: str = "stable") -> dict[str, TargetFile]:
    target = TargetFile(1, {"sha256": "ab" * 32}, name, {"custom": dict(custom)})
    return {name: target}


def metadata_set(
    number: int = 1,
    *,
    days: float = 30,
    named: int | None = None,
    targets: Mapping[str, TargetFile] | None = None,
    keys: Mapping[str, CryptoSigner] = KEYS,
) -> MetadataSet:
    content = dict(channel(CUSTOM) if targets is None else targets)
    metadata = Metadata(Targets(number, expires=later(days), targets=content))
    meta = {"targets.json": MetaFile(named or number)}
    snapshot = Metadata(Snapshot(number, expires=later(days), meta=meta))
    metadata.sign(keys["targets"])
    snapshot.sign(keys["snapshot"])
    return MetadataSet(make_root().signed, Document.of(snapshot), Document.of(metadata))


def naming(metadata_set: MetadataSet, targets: MetaFile) -> MetadataSet:
    """Let the snapshot name these targets."""
    snapshot = metadata_set.snapshot.metadata
    snapshot.signed.meta["targets.json"] = targets
    snapshot.sign(KEYS["snapshot"])
    return evolve(metadata_set, snapshot=Document.of(snapshot))


class DryRunCase(SynchronousTestCase):
    """Each refusal is a sentence."""

    def refuses_roots(self, *roots: Metadata[Root], word: str = "Boxes would refuse this") -> None:
        error = self.assertRaises(ReleaseFailed, try_roots, roots)
        self._is_sentence(str(error), word)

    def refuses(self, *metadata_sets: MetadataSet, word: str = "nothing was changed") -> None:
        error = self.assertRaises(ReleaseFailed, try_metadata_sets, *metadata_sets)
        self._is_sentence(str(error), word)

    def _is_sentence(self, text: str, word: str) -> None:
        self.assertIn(word, text)
        self.assertTrue(text.endswith("."), text)
        self.assertFalse(text.endswith(".."), text)
        self.assertNotIn("\n", text)


class RootTests(DryRunCase):
    """A chain of roots."""

    def test_chain(self) -> None:
        """Each root is signed by the previous root's keys and its own."""
        try_roots([make_root(1)])
        try_roots([make_root(1), make_root(2), make_root(3)])

    def test_not_from_the_first(self) -> None:
        """The chain may start with a later root."""
        try_roots([make_root(4), make_root(5)])

    def test_expired_between(self) -> None:
        """An expired root is followed if others come after it."""
        try_roots([make_root(1, days=-1), make_root(2)])

    def test_not_signed(self) -> None:
        """A root is refused if it is signed by another key, by none, or by too few."""
        self.refuses_roots(make_root(1, OTHER))
        self.refuses_roots(make_root(1), make_root(2, OTHER))
        unsigned = make_root(2)
        unsigned.signatures.clear()
        self.refuses_roots(make_root(1), unsigned)
        strict = make_root(2)
        strict.signed.add_key(OTHER.public_key, "root")
        strict.signed.roles["root"].threshold = 2
        strict.sign(KEYS["root"])
        self.refuses_roots(make_root(1), strict)
        strict.sign(OTHER, append=True)
        try_roots([make_root(1), strict])

    def test_gap(self) -> None:
        """A chain without one version is refused."""
        self.refuses_roots(make_root(1), make_root(3), word="do not get further than to 1")

    def test_too_many(self) -> None:
        """More roots than a client follows at once are refused."""
        small = UpdaterConfig(max_root_rotations=2)
        self.patch(Updater, "__init__", _with(small))
        roots = [make_root(number) for number in range(1, 5)]
        try_roots(roots[:3])
        self.refuses_roots(*roots, word="do not get further than to 3")

    def test_too_long(self) -> None:
        """A root that is larger than a client reads is refused."""
        large = make_root(2)
        large.signed.unrecognized_fields["x"] = "x" * 512_000
        large.sign(KEYS["root"])
        self.refuses_roots(make_root(1), large, word="512000 are read")


def _with(config: UpdaterConfig) -> Any:
    real = Updater.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **{**named, "config": config})

    return init


class MetadataSetTests(DryRunCase):
    """Targets and snapshot, alone and after previous ones."""

    def test_good(self) -> None:
        """One client starts with it, and another follows to it."""
        try_metadata_sets(metadata_set())
        try_metadata_sets(metadata_set(1), metadata_set(2), metadata_set(5))

    def test_other_key(self) -> None:
        """A file that is signed by a key that the root does not name is refused."""
        for role in ("targets", "snapshot"):
            self.refuses(metadata_set(keys={**KEYS, role: OTHER}), word=role)

    def test_rotated(self) -> None:
        """A new root with new keys is followed."""
        keys = {**KEYS, "targets": OTHER}
        root = make_root(2)
        root.signed.revoke_key(KEYS["targets"].public_key.keyid, "targets")
        root.signed.add_key(OTHER.public_key, "targets")
        try_metadata_sets(metadata_set(1), evolve(metadata_set(2, keys=keys), root=root.signed))

    def test_rollback(self) -> None:
        """A lower version is refused."""
        self.refuses(metadata_set(2), metadata_set(1))
        fresh = metadata_set(3)
        back = metadata_set(2, named=1)
        older = evolve(metadata_set(1), snapshot=back.snapshot)
        self.refuses(fresh, older)

    def test_wrong_number(self) -> None:
        """A snapshot that names missing targets is refused."""
        self.refuses(metadata_set(2, named=3))

    def test_hash(self) -> None:
        """A snapshot that names other bytes is refused."""
        bad = metadata_set()
        bad = naming(bad, MetaFile(1, hashes={"sha256": "ab" * 32}))
        self.refuses(bad, word="hash")

    def test_as_on_the_disk(self) -> None:
        """The bytes of files are tried unchanged, also if another tool wrote them."""
        good = metadata_set()
        data = good.targets.data + b"\n"
        good = naming(good, MetaFile.from_data(1, data, ["sha256"]))
        self.refuses(good)
        try_metadata_sets(evolve(good, targets=evolve(good.targets, data=data)))

    def test_expired(self) -> None:
        """The last metadata set must not have expired; earlier ones may have."""
        try_metadata_sets(metadata_set(1, days=-1), metadata_set(2))
        self.refuses(metadata_set(1), metadata_set(2, days=-1), word="expired")

    def test_too_long(self) -> None:
        """Targets that are larger than boxes read are refused, even if their length is signed."""
        large = metadata_set(
            targets={"opq-box-update-1.tar.bz2": TargetFile(1, {"sha256": ""}, "x")}
        )
        large.targets.signed.unrecognized_fields["x"] = "x" * 5_000_000
        large.targets.metadata.sign(KEYS["targets"])
        targets = Document.of(large.targets.metadata)
        meta = MetaFile.from_data(1, targets.data, ["sha256"])
        large = evolve(naming(large, meta), targets=targets)
        self.refuses(large, word="5000000 are read")

    def test_channels(self) -> None:
        """Every channel can be followed; an archive is no channel."""
        archive = channel({}, "opq-box-update-7.tar.bz2")
        try_metadata_sets(metadata_set(targets={**channel(CUSTOM), **archive}))
        for custom in ({}, {**CUSTOM, "version": 8}, {**CUSTOM, "critical": "yes"}):
            self.refuses(metadata_set(targets=channel(custom, "beta")), word="'beta'")
        self.refuses(metadata_set(targets=channel({}, "opq-box-update-beta")), word="-beta'")
