"""Makes the attempts that small boxes report."""

import secrets
import time

from attrs import evolve

from demo.fates import Fate
from opq_twisted.report.codes import Outcome, Reason
from opq_twisted.report.document import AttemptReport
from opq_twisted.trust.offer import Offer


def begin_attempt(offer: Offer, previous: int) -> AttemptReport:
    """Begin to install a release on a box that runs another one."""
    return AttemptReport(
        id=secrets.token_hex(16),
        release=offer.version,
        previous=previous,
        began=int(time.time()),
        took=0,
        automatic=True,
        stage="installing",
        fetched=offer.size,
        size=offer.size,
    )


def end_attempt(attempt: AttemptReport, fate: Fate) -> AttemptReport:
    """End an attempt: the box runs the release, or has gone back."""
    ended = evolve(attempt, took=int(time.time()) - attempt.began)
    if fate is Fate.UPDATED:
        return evolve(ended, outcome=Outcome.UPDATED.value, stage="confirming")
    reason = Reason.UNHEALTHY_SERVICE.value
    return evolve(ended, outcome=Outcome.RETURNED.value, reason=reason, stage="returning")
