"""What the signed metadata says of each archive: whether it is signed, and which boxes get it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from tuf.api.metadata import TargetFile, Targets

from opq_twisted.common.errors import Untrusted
from opq_twisted.server.catalog.snapshot import Archive
from opq_twisted.server.timestamp.select import channels, releases_of
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.server.timestamp.store import folder_of
from opq_twisted.trust.offer import Offer, is_channel, read_offer


class SignatureStatus(Enum):
    """What became of comparing an archive with what is signed."""

    SIGNED = "signed"
    UNSIGNED = "unsigned"
    #: Other bytes are signed under its name: no box will install it.
    MISMATCH = "other"


class SignedArchives:
    """Knows what one state of the targets says of any archive."""

    def __init__(self, targets: Targets) -> None:
        """:param targets: whose signatures were verified; what is in them need not make sense."""
        self.targets = targets
        self._channels: dict[str, list[tuple[str, TargetFile]]] = defaultdict(list)
        #: What is signed of the releases to which channels lead, by the names of their archives.
        self._signed: dict[str, list[TargetFile]] = defaultdict(list)
        for name, target, _ in channels(targets):
            if is_channel(name):
                for release, file in releases_of(target):
                    self._channels[file].append((name, target))
                    self._signed[file].append(release)

    def status(self, archive: Archive, digest: bytes | None) -> SignatureStatus:
        """
        Compare an archive with what is signed of it.

        :param digest: its sha-256; None while nobody knows it, and the length alone is compared.
        """
        name = str(archive.name)
        signed = list(self._signed.get(name, ()))
        if name in self.targets.targets:
            signed.append(self.targets.targets[name])
        if not signed:
            return SignatureStatus.UNSIGNED
        whole = all(_describes(target, archive, digest) for target in signed)
        return SignatureStatus.SIGNED if whole else SignatureStatus.MISMATCH

    def offers(self, archive: Archive) -> Sequence[tuple[str, Offer]]:
        """
        Give the channels that lead boxes to an archive, with what they read there.

        The offer is the newest one of the channel. When its version is another one, the archive is
        that of the release before.
        """
        found = []
        for channel, target in self._channels.get(str(archive.name), ()):
            try:
                found.append((channel, read_offer(target)))
            except Untrusted:
                continue  # no box follows it
        return found


class CurrentSignedArchives:
    """Compares archives with the signed metadata as it is now."""

    def __init__(self, updates: Path, metadata_state: Callable[[], MetadataState]) -> None:
        """:param metadata_state: tells how the signed metadata is."""
        self._folder = folder_of(updates)
        self._metadata_state = metadata_state
        self._current = SignedArchives(Targets())

    @property
    def current(self) -> SignedArchives:
        """What the targets say that boxes are told of; nothing while there are none."""
        document = self._metadata_state().documents.get(Targets.type)
        targets = Targets() if document is None else document.signed
        # Read once for each state of them: there may be many thousands.
        if targets is not self._current.targets:
            self._current = SignedArchives(targets)
        return self._current

    def may_be_cached(self, archive: Archive, digest: bytes | None) -> bool:
        """
        Whether caches may keep an archive for ever: its bytes are the signed ones.

        Without signed metadata nobody can tell, and the archive's name stands for its bytes.

        :param digest: its sha-256; None while nobody knows it.
        """
        if Targets.type not in self._metadata_state().documents:
            return not self._folder.is_dir()
        verdict = self.current.status(archive, digest)
        return digest is not None and verdict is SignatureStatus.SIGNED


def _describes(target: TargetFile, archive: Archive, digest: bytes | None) -> bool:
    if target.length != archive.size:
        return False
    return digest is None or target.hashes.get("sha256") == digest.hex()
