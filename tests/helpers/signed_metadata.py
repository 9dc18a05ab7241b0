"""Signed metadata for tests, with any mistake that a test needs."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

DAY = 86400

ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)


def make_key() -> CryptoSigner:
    """Make a private key."""
    return CryptoSigner.generate_ed25519()


def under_id(signer: CryptoSigner, keyid: str) -> CryptoSigner:
    """Give a key the id of another key."""
    key = signer.public_key
    return CryptoSigner(
        signer._private_key, SSlibKey(keyid, key.keytype, key.scheme, dict(key.keyval))
    )


def write_key(
    path: Path,
    signer: CryptoSigner,
    encryption: KeySerializationEncryption | None = None,
) -> Path:
    """Write a private key to a file with mode 0600; by default it is not encrypted."""
    private = signer._private_key
    assert isinstance(private, Ed25519PrivateKey)
    encryption = encryption or NoEncryption()
    path.touch(mode=0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


class Signed:
    """The `tuf` folder of an updates directory, and the keys of all its roles."""

    def __init__(self, updates: Path, now: float | None = None) -> None:
        self.updates = updates
        self.folder = updates / "tuf"
        self.now = time.time() if now is None else now
        self.keys = {role: make_key() for role in ROLES}

    def init(self) -> "Signed":
        """Make the folder with the first root."""
        self.folder.mkdir()
        self.root(1)
        return self

    def later(self, days: float) -> datetime:
        """Return the time so many days from now."""
        return datetime.fromtimestamp(int(self.now), UTC) + timedelta(days=days)

    def root(
        self,
        version: int,
        *,
        days: float = 365,
        signers: list[CryptoSigner] | None = None,
        thresholds: dict[str, int] | None = None,
    ) -> Metadata[Root]:
        """Write a root that names the keys; by default the root key signs it."""
        roles = {
            role: Role([self.keys[role].public_key.keyid], (thresholds or {}).get(role, 1))
            for role in ROLES
        }
        public: dict[str, Key] = {
            key.public_key.keyid: key.public_key for key in self.keys.values()
        }
        root = Metadata(Root(version, expires=self.later(days), keys=public, roles=roles))
        return self.write(root, *(signers or [self.keys[Root.type]]))

    def rotate(self, role: str, version: int) -> None:
        """Give a role another key in a new root."""
        before = self.keys[Root.type]
        self.keys[role] = make_key()
        self.root(version, signers=list({before: None, self.keys[Root.type]: None}))

    def targets(
        self, version: int, channels: dict[str, TargetFile] | None = None, *, days: float = 365
    ) -> Metadata[Targets]:
        """Write targets with these channels."""
        targets = Targets(version, expires=self.later(days), targets=dict(channels or {}))
        return self.write(Metadata(targets), self.keys[Targets.type])

    def snapshot(
        self, version: int, targets: int, *, days: float = 365, **more: Any
    ) -> Metadata[Snapshot]:
        """Write a snapshot that names this version of the targets."""
        meta = {"targets.json": MetaFile(targets, **more)}
        snapshot = Snapshot(version, expires=self.later(days), meta=meta)
        return self.write(Metadata(snapshot), self.keys[Snapshot.type])

    def timestamp(
        self,
        version: int,
        snapshot: int,
        *,
        days: float = 7,
        signer: CryptoSigner | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Metadata[Timestamp]:
        """Write a timestamp like an earlier one of the server, with additional fields."""
        data = (self.folder / f"{snapshot}.snapshot.json").read_bytes()
        meta = MetaFile.from_data(snapshot, data, ["sha256"])
        timestamp = Timestamp(
            version,
            expires=self.later(days),
            snapshot_meta=meta,
            unrecognized_fields=dict(fields or {}),
        )
        return self.write(Metadata(timestamp), signer or self.keys[Timestamp.type])

    def publish(
        self,
        version: int,
        *archives: Path,
        days: float = 365,
        custom: Mapping[str, Any] | None = None,
    ) -> None:
        """Write targets and a snapshot; the last archive becomes the newest one in `stable`."""
        channels = {"stable": channel(archives[-1], custom)} if archives else {}
        self.targets(version, channels, days=days)
        self.snapshot(version, version, days=days)

    def announce(self, version: int, *archives: Path) -> None:
        """Publish archives, and announce them with a timestamp of the same version."""
        self.publish(version, *archives)
        self.timestamp(version, version)

    def write(self, metadata: Metadata[Any], *signers: CryptoSigner) -> Metadata[Any]:
        """Sign metadata, and rename it into the folder."""
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        signed = metadata.signed
        name = f"{signed.version}.{signed.type}.json"
        if signed.type == Timestamp.type:
            name = "timestamp.json"
        new = self.folder / f".{name}.new"
        new.write_bytes(metadata.to_bytes())
        new.rename(self.folder / name)
        return metadata

    def read_timestamp(self) -> Timestamp:
        """Read the timestamp, which must be signed as the newest root requires."""
        newest = max(self.folder.glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        root = Metadata[Root].from_file(str(newest)).signed
        metadata = Metadata[Timestamp].from_file(str(self.folder / "timestamp.json"))
        root.verify_delegate(Timestamp.type, metadata.signed_bytes, metadata.signatures)
        return metadata.signed


def channel(archive: Path, custom: Mapping[str, Any] | None = None) -> TargetFile:
    """
    Make the target of a channel whose newest release is this archive.

    :param custom: fields of `custom` to add or to replace.
    """
    version = int(archive.name.removesuffix(".tar.bz2").rsplit("-", 1)[1])
    target = TargetFile.from_file("stable", str(archive), ["sha256"])
    target.unrecognized_fields["custom"] = {"version": version, "file": archive.name}
    target.unrecognized_fields["custom"].update(custom or {})
    return target


def with_one_release(updates: Path, version: int) -> tuple[Signed, Path]:
    """Sign and announce a release in an updates directory; its archive cannot be unpacked."""
    archive = updates / f"opq-box-update-{version}.tar.bz2"
    archive.write_bytes(b"an archive")
    signed = Signed(updates).init()
    signed.announce(1, archive)
    return signed, archive
