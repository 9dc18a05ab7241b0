"""The check right before a box installs a release by itself."""

from opq_twisted.box.update.checker import Checker
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.trust.offer import Offer

#: Seconds for the answer.
TIMEOUT = 30.0


async def is_still_due(deps: Dependencies, checker: Checker, offer: Offer) -> bool:
    """
    Whether the box still installs a release by itself that a check has found before.

    The download may have taken long, and the release may have been stopped, withdrawn or replaced
    since. If there is no answer, the box goes on: the release was signed for it.
    """
    if not offer.signed or not await checker.try_to_check(TIMEOUT):
        return True
    if checker.offer is None:
        return False
    chosen = deps.policy.choose(checker.offer, automatic=True)
    return chosen.release == offer.release and deps.policy.is_due(chosen)
