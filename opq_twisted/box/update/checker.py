"""Checks for the newest release, and finds out whether the box may install it now."""

from typing import Unpack

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import StatusChanges
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.probation import Probation
from opq_twisted.box.update.reporting import Reporter
from opq_twisted.box.update.waiting import waiting_after, waiting_with
from opq_twisted.common.errors import OpqError, ServerFailed, UnsignedRefused
from opq_twisted.report.codes import Waiting
from opq_twisted.trust.offer import Offer

#: Seconds after each failed check of an update that began without a click; the update fails if one
#: more check fails. Boxes begin at different moments, so that these need no jitter.
_RETRY_DELAYS = (60.0, 120.0)

#: Seconds: a longer `Retry-After` is shortened to this.
_MAX_RETRY_AFTER = 600.0

#: Seconds that a check may take whose result does not matter.
_TIMEOUT = 60.0

#: Seconds that the check right before an installation may take.
_LAST_TIMEOUT = 30.0

#: Seconds after which a successful check is written to the journal again.
_RECORD_INTERVAL = 6 * 3600.0

#: Seconds for which the record of a check shows that the box remembers what it writes.
_REMEMBERED = 24 * 3600.0

#: How long a box without such a record runs before it installs a release without a click: this
#: many times `check_every`, and at most so many seconds.
_FORGETFUL_CHECKS = 3
_FORGETFUL_WAIT = 3 * 3600.0


class Checker:
    """Asks the update server; all who ask during a request get its result."""

    _log = Logger()

    def __init__(self, deps: Dependencies, reporter: Reporter, probation: Probation) -> None:
        self._deps = deps
        self._reporter = reporter
        self._probation = probation
        #: The answer to the last successful check.
        self.offer: Offer | None = None
        #: What the last check found; None if it failed.
        self._found: str | None = None
        #: What the box waits for since its last check failed; None if that succeeded.
        self._failed: Waiting | None = None
        self._checking: Deferred[None] | None = None
        self._waiters: list[Deferred[int | None]] = []
        #: When, before this start, the box last kept something that it wrote.
        self._remembered = max(deps.journal.entry.looked, deps.installed.changed)
        self._started = deps.clock.seconds()

    def check(self) -> Deferred[int | None]:
        """
        Ask for the newest release, and publish the answer.

        A caller that comes while the answer is awaited gets the same one: a hundred open pages ask
        once.

        :returns: its version; None if there is none. Fails with OpqError if there is no answer, or
            none that this box can believe; with OSError if the disk fails, or is full.
        """
        waiter: Deferred[int | None] = Deferred()
        self._waiters.append(waiter)
        if self._checking is None:
            checking = Deferred.fromCoroutine(self._check()).addBoth(self._notify)
            self._checking = None if checking.called else checking
        return waiter

    def stop(self) -> None:
        """Cancel the check that is under way."""
        if self._checking is not None:
            self._checking.cancel()

    async def try_to_check(self, longest: float = _TIMEOUT) -> bool:
        """Check for at most `longest` seconds; returns whether that has succeeded."""
        try:
            await self.check().addTimeout(longest, self._deps.clock)
        except Exception as error:
            # A broken client may fail in any way.
            if not self._reporter.is_running():
                raise
            self._log.warn("The check failed: {error!r}", error=error)
            return False
        return True

    async def check_with_retries(self) -> None:
        """
        Check again if the server is busy, or has an older copy of the metadata.

        For updates that began without a click. Otherwise they would wait until the next scheduled
        check, which may find a good copy first and then begin with an older one again.
        """
        for delay in _RETRY_DELAYS:
            try:
                await self.check()
            except ServerFailed as error:
                self._log.warn("{error}", error=error)
                retry_after = min(error.retry_after or 0.0, _MAX_RETRY_AFTER)
                await deferLater(self._deps.clock, max(delay, retry_after))
            else:
                return
        await self.check()

    async def is_still_due(self, offer: Offer) -> bool:
        """
        Check right before an installation whether the box still installs a release by itself.

        The download may have taken long, and the release may have been stopped, withdrawn or
        replaced since. If there is no answer, the box goes on: the release was signed for it.
        """
        if not offer.signed or not await self.try_to_check(_LAST_TIMEOUT):
            return True
        if self.offer is None:
            return False
        policy = self._deps.policy
        chosen = policy.choose(self.offer, automatic=True)
        return chosen.release == offer.release and policy.is_due(chosen)

    @property
    def is_due(self) -> bool:
        """Whether the release that was offered last is to be installed without a click."""
        return self._is_wanted and self._remembers

    @property
    def waiting(self) -> Waiting | None:
        """What the box waits for; None if it is up to date, or installs a release."""
        if not self._reporter.stage.at_rest:
            return Waiting.MEASUREMENT if self._deps.inhibitor.is_waiting else None
        if self._failed is not None:
            return self._failed
        if self.offer is None:
            return None
        return waiting_with(self._deps, self.offer, self._remembers)

    def describe(self) -> str:
        """Say what becomes of the release that was offered last."""
        deps = self._deps
        if self.offer is not None:
            if deps.config.install == "automatic" and self._is_wanted and not self._remembers:
                return (
                    f"Release {self.offer.version} is available. The box has no record of the last "
                    "day, and installs it by itself when it has run for some hours."
                )
            return deps.policy.describe(self.offer)
        channel = f" in the channel {deps.config.channel}" if deps.offers.signed else ""
        return f"The update server has no update{channel}."

    async def _check(self) -> int | None:
        deps = self._deps
        try:
            self.offer = offer = await deps.offers.newest()
        except (OpqError, OSError) as error:
            trouble, self._found = self._reporter.explain(error), None
            self._failed = waiting_after(error)
            self._record(error)
            self._publish(trouble, trouble=trouble)
            raise
        if deps.offers.signed or deps.offers.unsigned:
            # An agent that has lost the trusted root hears of releases, and can install none.
            self._record(None)
            with self._reporter.tolerate("The release cannot be made the last good one"):
                await self._probation.prove()
        shown = None if offer is None else deps.policy.advertise(offer)
        is_newer = shown is not None and deps.policy.why_not(shown) is None
        forbidden = deps.offers.why_forbidden(shown) if shown and is_newer else None
        self._failed = None if forbidden is None else Waiting.UNTRUSTED
        if forbidden is not None:
            self.offer = None
        found = forbidden or self.describe()
        self._log_found(found)
        self._publish(
            found,
            available=None if shown is None else shown.version,
            update_available=is_newer and forbidden is None,
            held=shown is not None and is_newer and shown.is_stopped,
            size=None if shown is None else shown.size,
            notes=None if shown is None else shown.notes,
            trouble=forbidden,
            unsigned=deps.offers.unsigned,
        )
        if forbidden is not None:
            raise UnsignedRefused(forbidden)
        return None if shown is None else shown.version

    def _log_found(self, sentence: str) -> None:
        """Log the result of a check, but not the same one again."""
        if sentence != self._found:
            self._log.info("Checked for an update. {sentence}", sentence=sentence)
        self._found = sentence

    def _notify(self, answer: int | Failure | None) -> None:
        waiters, self._waiters, self._checking = self._waiters, [], None
        self._deps.reports.checked()
        for waiter in waiters:
            waiter.callback(answer)

    def _record(self, error: Exception | None) -> None:
        """Write to the journal what a check says of releases, and that the box remembers."""
        journal, now, stage = self._deps.journal, self._deps.now(), self._reporter.stage
        with self._reporter.tolerate("The result of the check cannot be recorded"):
            if not stage.may_be_live:
                self._probation.judge(self._deps.installed.running, error)
            is_recorded = 0 <= now - journal.entry.looked < _RECORD_INTERVAL
            if error is None and stage.at_rest and not is_recorded:
                journal.write(looked=now)

    def _publish(self, message: str, /, **changes: Unpack[StatusChanges]) -> None:
        stage = self._reporter.stage
        if stage.at_rest or stage is Stage.CHECKING:
            # Later in an update its own message is of more use.
            changes["message"] = message
        changes["last_check"] = self._deps.now()
        self._deps.board.publish(**changes)

    @property
    def _is_wanted(self) -> bool:
        if self.offer is None:
            return False
        policy = self._deps.policy
        return policy.is_due(policy.choose(self.offer, automatic=True))

    @property
    def _remembers(self) -> bool:
        """
        Whether the box is known to remember what it writes, or has run for some hours.

        A box that forgets everything at each restart would otherwise install the same release for
        ever: nothing else would stop it.
        """
        wait = min(_FORGETFUL_CHECKS * self._deps.config.check_every, _FORGETFUL_WAIT)
        return (
            self._deps.now() - self._remembered < _REMEMBERED
            or self._deps.clock.seconds() - self._started >= wait
        )
