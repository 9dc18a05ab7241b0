"""Finds out which release the update server offers, and whether the box may install it."""

import os

from attrs import define, evolve

from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.offers.clock_floor import ClockFloor
from opq_twisted.box.offers.tuf_lookup import SignedMetadata
from opq_twisted.box.state.versions import Installed
from opq_twisted.common import files
from opq_twisted.common.errors import UnsignedRefused, Untrusted
from opq_twisted.trust.metadata_files import METADATA, max_size
from opq_twisted.trust.offer import Offer, read_offer
from opq_twisted.trust.pace import read_pace

#: Bytes; the limit for a root from the server is the same.
_MAX_ROOT = max_size("root.json")


@define
class OfferLookup:
    """
    Asks the update server for the newest release.

    A box with a trusted root accepts only releases signed by its keys. A box without one installs
    what the server offers, if its configuration allows that.
    """

    _config: UpdaterConfig
    _server: UpdateServerClient
    _metadata: SignedMetadata
    _floor: ClockFloor
    _installed: Installed

    @property
    def signed(self) -> bool:
        """Whether the box has a trusted root, even an unusable one."""
        try:
            os.lstat(self._config.trusted_root)
        except OSError as error:
            # There may be a root in a folder that the agent cannot read.
            return not isinstance(error, FileNotFoundError)
        return True

    @property
    def unsigned(self) -> bool:
        """Whether the box installs releases without signatures."""
        return self._config.allow_unsigned and not self.signed

    async def newest(self) -> Offer | None:
        """
        Ask for the newest release; None if there is none. Other errors: see `SignedMetadata.find`.

        :raises Untrusted: if its signatures are not valid, or the trusted root cannot be used.
        :raises ClockBehind: if the box's clock is behind, so that the expiry cannot be checked.
        """
        if not self.signed:
            version = await self._server.newest()
            return None if version is None else Offer(version)
        root = self._read_root()
        self._floor.require_passed(self._installed.newest_known)
        channel = self._config.channel
        found = await self._metadata.look_up(f"{self._server.endpoint}/{METADATA}/", root, channel)
        self._floor.record()
        if found.target is None:
            return None
        offer = read_offer(found.target)
        return evolve(offer, pace=read_pace(found.timestamp, channel, offer.version))

    def why_forbidden(self, offer: Offer) -> str | None:
        """
        Return the reason why an offer of `newest` may not be installed now; None if it may.

        This is checked again before the installation, because a trusted root may have been added.
        """
        if offer.signed or self.unsigned:
            return None
        if self.signed:
            return (
                "The box has got a trusted root since its last check, and the offered release is "
                "not signed. Check again."
            )
        return (
            "The release is not signed for this box, which has no trusted root and does not "
            f"install unsigned releases. Give it a root.json as {self._config.trusted_root}, "
            'or set "allow_unsigned": true under "updater" in its configuration.'
        )

    def require_permission(self, offer: Offer) -> None:
        """Raise UnsignedRefused unless an offer of `newest` may be installed now."""
        reason = self.why_forbidden(offer)
        if reason is not None:
            raise UnsignedRefused(reason)

    def _read_root(self) -> bytes:
        path = self._config.trusted_root
        try:
            with files.open_regular(path) as file:
                root = file.read(_MAX_ROOT + 1)
        except OSError as error:
            raise Untrusted(
                f"The trusted root {path} cannot be read: {error.strerror}. Nothing is installed."
            ) from None
        if len(root) > _MAX_ROOT:
            raise Untrusted(f"The trusted root {path} is too large.")
        return root
