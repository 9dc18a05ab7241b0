"""Decides which releases this box installs, and which of them without a click."""

from collections.abc import Callable

from attrs import frozen

from opq_twisted.box.config import BoxConfig
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.versions import Installed
from opq_twisted.trust.offer import Offer


@frozen
class Policy:
    """Gives the reasons against a release that is offered, from the journal and the disk."""

    _config: BoxConfig
    _installed: Installed
    _journal: Journal
    #: The time of day, in seconds since the epoch.
    _now: Callable[[], float]

    def choose(self, offer: Offer, automatic: bool) -> Offer:
        """
        Choose between a release and the one before it.

        Without a click, a box installs the release before until its turn has come. A click installs
        the newest one, unless that is held back.

        :param automatic: whether nobody has clicked.
        """
        before = offer.before
        waits = offer.is_held_back or (automatic and not offer.is_turn_of(self._config.box_id))
        if not waits or before is None or self.why_not(offer) or self.why_not(before):
            return offer
        return before

    def advertise(self, offer: Offer) -> Offer | None:
        """Choose the release that is shown to people; None if it is held back."""
        chosen = self.choose(offer, automatic=False)
        return None if chosen.is_held_back and self.why_not(chosen) is None else chosen

    def why_not(self, offer: Offer) -> str | None:
        """Say why this box does not install a release at all; None if it does."""
        # A release that was installed since the agent's start has not proved itself yet.
        installed, image = self._installed.running, self._installed.image
        if offer.version == installed:
            return "The box is up to date."
        if offer.allow_downgrade:
            return None
        if installed is not None and offer.version < installed:
            return (
                f"The box is up to date: release {offer.version}, which is offered, is older than "
                "the one installed."
            )
        if image is not None and offer.version < image:
            return (
                f"Release {offer.version} is not installed: it is older than {image}, which the "
                "box was made with."
            )
        return None

    def why_not_by_itself(self, offer: Offer) -> str | None:
        """Say why a release waits for a click; None if it does not."""
        if offer.version == self._installed.version:
            return f"Release {offer.version} is installed, and waits for a reboot."
        release = offer.release
        blocked = self._journal.find_blocked(release)
        if blocked is not None:
            return f"Release {offer.version} is blocked: {blocked.reason}"
        if self._journal.is_postponed(release, self._now()):
            delay = self._journal.find_postponed(release)
            if delay is not None and delay.reason:
                return (
                    f"Release {offer.version} is not installed: {delay.reason} The box tries "
                    "again later; click on Update Box to try now."
                )
            return (
                f"The download of release {offer.version} was not the promised archive. The box "
                "downloads it again later; click on Update Box to try now."
            )
        if offer.is_held_back:
            return f"Release {offer.version} comes to this box later: it is held back for now."
        if not offer.is_turn_of(self._config.box_id):
            return (
                f"Release {offer.version} comes to this box later: it reaches the boxes bit by "
                "bit. Click on Update Box to have it now."
            )
        return None

    def describe(self, offer: Offer) -> str:
        """Say what becomes of a release, or of the one before it until this box has its turn."""
        config = self._config.updater
        automatic = config.install == "automatic"
        offer = self.choose(offer, automatic)
        reason = self.why_not(offer) or self.why_not_by_itself(offer)
        window = f"; it is installed {config.window}" if automatic and config.window else ""
        return reason or f"Release {offer.version} is available{window}."
