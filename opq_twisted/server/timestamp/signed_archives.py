"""Compares archives with the signed metadata: whether they are signed, and which boxes get them."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from tuf.api.metadata import TargetFile, Targets

from opq_twisted.common.errors import Untrusted
from opq_twisted.server.catalog.updates_file import Archive
from opq_twisted.server.timestamp.select import channels, releases_of
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.trust.metadata_files import METADATA
from opq_twisted.trust.offer import STABLE, Offer, is_channel, read_offer


class SignatureStatus(Enum):
    """Whether an archive is the signed one."""

    SIGNED = "signed"
    UNSIGNED = "unsigned"
    #: Other bytes are signed under its name: no box will install it.
    MISMATCH = "other"


class SignedArchives:
    """Knows the archives that one version of the targets names."""

    def __init__(self, targets: Targets) -> None:
        """:param targets: with verified signatures; their content need not make sense."""
        self.targets = targets
        self._channels: dict[str, list[tuple[str, TargetFile]]] = defaultdict(list)
        #: The signed targets of the releases that channels lead to, by the names of the archives.
        self._releases: dict[str, list[TargetFile]] = defaultdict(list)
        #: The channels that boxes can follow by name, `stable` first.
        self.channels = sorted(
            ((name, target) for name, target, _ in channels(targets) if is_channel(name)),
            key=lambda channel: (channel[0] != STABLE, channel[0]),
        )
        for name, target in self.channels:
            for release, file in releases_of(target):
                self._channels[file].append((name, target))
                self._releases[file].append(release)

    def status(self, archive: Archive, digest: bytes | None) -> SignatureStatus:
        """
        Compare an archive with the targets.

        :param digest: its SHA-256; None while it is not known, so that only lengths are compared.
        """
        signed = self._signed(archive)
        if not signed:
            return SignatureStatus.UNSIGNED
        matches = all(_describes(target, archive, digest) for target in signed)
        return SignatureStatus.SIGNED if matches else SignatureStatus.MISMATCH

    def digest(self, archive: Archive) -> str | None:
        """Give the SHA-256 that is signed for an archive; None if there is none."""
        return next((each.hashes.get("sha256") for each in self._signed(archive)), None)

    def _signed(self, archive: Archive) -> list[TargetFile]:
        name = str(archive.name)
        own = self.targets.targets.get(name)
        return [*self._releases.get(name, ()), *(() if own is None else (own,))]

    def offers(self, archive: Archive) -> Sequence[tuple[str, Offer]]:
        """
        Return the channels that lead boxes to an archive, with their newest offers.

        If an offer has another version than the archive, the archive is that of the release before.
        """
        found = []
        for channel, target in self._channels.get(str(archive.name), ()):
            try:
                found.append((channel, read_offer(target)))
            except Untrusted:
                continue  # no box follows this channel
        return found


class CurrentSignedArchives:
    """Compares archives with the signed metadata as it is now."""

    def __init__(self, updates: Path, metadata_state: Callable[[], MetadataState]) -> None:
        """:param metadata_state: returns the state of the signed metadata."""
        self._folder = updates / METADATA
        self._metadata_state = metadata_state
        self._current = SignedArchives(Targets())

    @property
    def current(self) -> SignedArchives:
        """The archives in the targets that boxes accept; none while there are no targets."""
        document = self._metadata_state().documents.get(Targets.type)
        targets = Targets() if document is None else document.signed
        # Cached for each version of the targets: there may be many thousands of archives.
        if targets is not self._current.targets:
            self._current = SignedArchives(targets)
        return self._current

    def may_be_cached(self, archive: Archive, digest: bytes | None) -> bool:
        """
        Whether caches may keep an archive for ever, because its bytes are the signed ones.

        Without signed metadata its name has to be enough.

        :param digest: its SHA-256; None while it is not known.
        """
        if Targets.type not in self._metadata_state().documents:
            return not self._folder.is_dir()
        status = self.current.status(archive, digest)
        return digest is not None and status is SignatureStatus.SIGNED


def _describes(target: TargetFile, archive: Archive, digest: bytes | None) -> bool:
    if target.length != archive.size:
        return False
    return digest is None or target.hashes.get("sha256") == digest.hex()
