"""Decides which releases this box installs, and which of them without a click."""

from collections.abc import Callable

from attrs import frozen

from opq_twisted.box.config.settings import BoxConfig
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.versions import Installed
from opq_twisted.report.codes import Waiting
from opq_twisted.trust.offer import Offer
from opq_twisted.trust.pace import HELD


@frozen
class Refusal:
    """The reason why a box does not install a release now."""

    #: What it waits for; None if it is up to date, or too new for the release.
    code: Waiting | None
    #: For the owner of the box.
    sentence: str


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

        Without a click, a box installs the release before until the release key gives it its turn.
        The pace has no part in that: it must not let a box install another release. A click
        installs the newest one, unless that is held back.

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

    def why_not(self, offer: Offer) -> Refusal | None:
        """Say why this box does not install a release at all; None if it does."""
        # A release that was installed since the agent's start has not proved itself yet.
        installed, image = self._installed.running, self._installed.image
        if offer.version == installed:
            return Refusal(None, "The box is up to date.")
        if offer.allow_downgrade:
            return None
        if installed is not None and offer.version < installed:
            return Refusal(
                None,
                f"The box is up to date: release {offer.version}, which is offered, is older than "
                "the one installed.",
            )
        if image is not None and offer.version < image:
            return Refusal(
                None,
                f"Release {offer.version} is not installed: it is older than {image}, which the "
                "box was made with.",
            )
        return None

    def why_not_by_itself(self, offer: Offer) -> Refusal | None:
        """Say why a release waits for a click; None if it does not."""
        if offer.version == self._installed.version:
            return Refusal(None, f"Release {offer.version} is installed, and waits for a reboot.")
        blocked = self._journal.find_blocked(offer.release)
        if blocked is not None:
            return Refusal(Waiting.REFUSED, f"Release {offer.version} is blocked: {blocked.reason}")
        return self._why_later(offer) or self._why_not_its_turn(offer)

    def is_due(self, offer: Offer) -> bool:
        """Whether this box installs a release that `choose` has chosen without a click."""
        return self.why_not(offer) is None and self.why_not_by_itself(offer) is None

    def refuse(self, offer: Offer) -> Refusal | None:
        """Return the reason why the box does not install a release by itself; None if it does."""
        chosen = self.choose(offer, self._is_automatic)
        return self.why_not(chosen) or self.why_not_by_itself(chosen)

    def describe(self, offer: Offer) -> str:
        """Say what becomes of a release, or of the one before it until this box has its turn."""
        refusal = self.refuse(offer)
        if refusal is not None:
            return refusal.sentence
        chosen, window = self.choose(offer, self._is_automatic), self._config.updater.window
        when = f"; it is installed {window}" if self._is_automatic and window else ""
        return f"Release {chosen.version} is available{when}."

    @property
    def _is_automatic(self) -> bool:
        return self._config.updater.install == "automatic"

    def _why_later(self, offer: Offer) -> Refusal | None:
        """Say why a release is tried again later."""
        release = offer.release
        if not self._journal.is_postponed(release, self._now()):
            return None
        delay = self._journal.find_postponed(release)
        if delay is not None and delay.reason:
            return Refusal(
                Waiting.REFUSED,
                f"Release {offer.version} is not installed: {delay.reason} The box tries "
                "again later; click on Update Box to try now.",
            )
        return Refusal(
            Waiting.SERVER,
            f"The download of release {offer.version} was not the promised archive. The box "
            "downloads it again later; click on Update Box to try now.",
        )

    def _why_not_its_turn(self, offer: Offer) -> Refusal | None:
        """Say why a release is not for this box yet, by what is signed and by its pace."""
        if offer.is_held_back:
            return Refusal(
                Waiting.HELD,
                f"Release {offer.version} comes to this box later: it is held back for now.",
            )
        if offer.is_stopped:
            return Refusal(Waiting.HELD, _describe_stopped(offer))
        box_id = self._config.box_id
        if not offer.is_turn_of(box_id) or offer.is_slowed_for(box_id):
            return Refusal(
                Waiting.TURN,
                f"Release {offer.version} comes to this box later: it reaches the boxes bit by "
                "bit. Click on Update Box to have it now.",
            )
        return None


def _describe_stopped(offer: Offer) -> str:
    if offer.pace is not None and offer.pace.state == HELD:
        return (
            f"Release {offer.version} comes to this box later: the operator has stopped it for "
            "now. Click on Update Box to have it nevertheless."
        )
    return (
        f"Release {offer.version} comes to this box later: this box does not understand the pace "
        "that the server gives it. Click on Update Box to have it nevertheless."
    )
