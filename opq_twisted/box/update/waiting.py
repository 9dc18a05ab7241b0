"""What a box waits for, as one of the codes of its report."""

from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.reporting import code_of
from opq_twisted.report.codes import Waiting
from opq_twisted.trust.offer import Offer


def waiting_after(error: Exception) -> Waiting | None:
    """Say what a box waits for after a failed check; None if the report has no code for it."""
    code = code_of(error)
    return next((waiting for waiting in Waiting if waiting == code), None)


def waiting_with(deps: Dependencies, offer: Offer, remembers: bool) -> Waiting | None:
    """
    Say what a box at rest waits for after it was offered a release.

    :param remembers: whether the box is known to keep what it writes over a restart; otherwise it
        installs nothing by itself in the first hours.
    :returns: None if the box is up to date, or installs the release at the next check.
    """
    refusal = deps.policy.refuse(offer)
    if refusal is not None:
        return refusal.code
    if deps.config.install != "automatic":
        return Waiting.CLICK
    window = deps.config.window
    is_time = window is None or window.is_open(deps.now())
    return None if is_time and remembers else Waiting.WINDOW
