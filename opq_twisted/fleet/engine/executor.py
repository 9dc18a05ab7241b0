"""Carries out the decision about a rollout, and tells the audit and the webhook about it."""

from attrs import frozen
from sqlalchemy import Connection

from opq_twisted.common.wording import percent
from opq_twisted.fleet.audit import MAX_BECAUSE, AuditNote, is_recorded, record
from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.decision import Action, describe
from opq_twisted.fleet.rollouts import orders
from opq_twisted.fleet.rollouts.orders import Order
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.fleet.webhook.outbox import Event, Notice, Notify

#: The name of the engine in the audit.
WHO = "engine"

#: A hold brings no box back to an older release, and only the release key can offer another one.
_ADVICE = (
    " If it is bad, publish a better one, or offer the one before again: opq-release withdraw. If "
    "the boxes are bad for another reason: opq-fleet resume {release}."
)

#: The operator has to see the boxes for this decision.
_LOOK = " To see which boxes: opq-fleet release {release}."


class Executor:
    """Does what `--rollouts` allows; otherwise it says once what a person should do."""

    def __init__(self, mode: Rollouts, notify: Notify) -> None:
        self._mode = mode
        self._notify = notify

    def carry_out(self, connection: Connection, assessment: Assessment, now: float) -> bool:
        """
        Carry out a decision, in the transaction of the connection.

        Nothing is done if somebody has changed the rollout since it was assessed: the next run
        judges it anew.

        :param now: seconds since the epoch.
        :returns: whether the pace of the rollout has changed.
        """
        decision = assessment.decision
        if decision is None or not _is_current(connection, assessment.rollout):
            return False
        step = _Step(connection, assessment, _shortened(decision.sentence), now, self._notify)
        if decision.action is Action.HOLD:
            return self._hold(step)
        step.tell_first_bad()
        is_ready = decision.action is Action.WIDEN and assessment.next_bp is not None
        if decision.action is Action.ASK:
            step.ask(Event.INCONCLUSIVE)
        elif is_ready and self._mode == "ask":
            step.ask(Event.READY)
        elif is_ready and self._mode == "auto":
            step.widen()
            return True
        return False

    def _hold(self, step: "_Step") -> bool:
        if self._mode == "observe":
            step.say_would_hold()
            return False
        step.hold()
        return True


@frozen
class _Step:
    """The actions on one rollout in one transaction."""

    _connection: Connection
    _assessment: Assessment
    _because: str
    _now: float
    _notify: Notify

    @property
    def _rollout(self) -> Rollout:
        return self._assessment.rollout

    def hold(self) -> None:
        """Let no more boxes install the release."""
        orders.hold(self._connection, self._order())
        self._tell(Event.HELD, f"was held at {percent(self._rollout.bp)}.", advice=_ADVICE)

    def widen(self) -> None:
        """Let more boxes install the release."""
        widened = orders.widen(self._connection, self._order())
        share = percent(widened.bp)
        if widened.state == RolloutState.DONE:
            self._tell(Event.DONE, f"is out to all boxes for which it was signed ({share}).")
        else:
            self._tell(Event.WIDENED, f"was widened from {percent(self._rollout.bp)} to {share}.")

    def say_would_hold(self) -> None:
        """Tell that the release would be held if the mode allowed it."""
        if self._note_once("would-hold", "Nothing: --rollouts observe holds no release."):
            self._tell(Event.HELD, "would be held, were it not for --rollouts observe.")

    def ask(self, event: Event) -> None:
        """Ask a person to decide."""
        share = percent(self._rollout.bp)
        choice = (
            "hold it, or leave it" if self._assessment.next_bp is None else "hold it, or widen it"
        )
        if self._note_once("ask", f"Nothing: it stays at {share} until somebody decides."):
            clause = f"is at {share}, and somebody has to decide: {choice}."
            self._tell(event, clause, advice=_LOOK)

    def tell_first_bad(self) -> None:
        """Tell that the release is bad on a box."""
        evidence, known = self._assessment.evidence, self._rollout
        if not evidence.bad:
            return
        since = known.announced_at if known.acknowledged_at is None else known.acknowledged_at
        because = _shortened(describe(evidence))
        if self._note_once(
            "first-bad", "Nothing: one box is no reason to hold it.", since, because
        ):
            clause = "is bad on a box for the first time."
            self._tell(Event.FIRST_BAD, clause, because, advice=_LOOK)

    def _order(self) -> Order:
        note, known = AuditNote(who=WHO, because=self._because), self._rollout
        return Order(note=note, release=known.release, channel=known.channel, now=self._now)

    def _note_once(
        self, what: str, change: str, since: float | None = None, because: str | None = None
    ) -> bool:
        """Add a row to the audit unless this step has one already; return whether it was added."""
        known, connection = self._rollout, self._connection
        since = known.since if since is None else since
        if is_recorded(connection, WHO, what, known.channel, known.release, since):
            return False
        record(
            connection,
            AuditNote(who=WHO, because=because or self._because),
            self._now,
            what=what,
            change=change,
            channel=known.channel,
            release=known.release,
        )
        return True

    def _tell(
        self, event: Event, clause: str, because: str | None = None, advice: str = ""
    ) -> None:
        known = self._rollout
        text = (
            f"Release {known.release} in the channel {known.channel} {clause} "
            f"{because or self._because}{advice.format(release=known.release)}"
        )
        numbers = self._assessment.to_json()
        notice = Notice(event, text, known.channel, known.release, numbers)
        self._notify(self._connection, self._now, notice)


def _is_current(connection: Connection, assessed: Rollout) -> bool:
    """
    Whether a rollout is still as it was judged.

    If so, nobody can change it until the end of the transaction.
    """
    which = rollout.c.channel == assessed.channel, rollout.c.release == assessed.release
    return find(connection, *which, to_change=True) == [assessed]


def _shortened(sentence: str) -> str:
    """Return as much of a text as the audit can keep: a long one must not prevent a hold."""
    return sentence if len(sentence) <= MAX_BECAUSE else f"{sentence[: MAX_BECAUSE - 1]}…"
