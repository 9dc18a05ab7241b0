"""The transitions between the stages of an update; `Stage` is the table of the stages."""

from collections.abc import Mapping

from twisted.logger import Logger
from twisted.python.failure import Failure

from opq_twisted.box.state.records import Stage

_log = Logger()

#: The stages that may follow each stage. FAILED may follow every stage, even one at rest: the write
#: that records the next stage may fail.
TRANSITIONS: Mapping[Stage, frozenset[Stage]] = {
    # ROLLING_BACK: the release that runs has not reached the update server for days.
    Stage.IDLE: frozenset({Stage.CHECKING, Stage.ROLLING_BACK, Stage.FAILED}),
    Stage.FAILED: frozenset({Stage.CHECKING, Stage.ROLLING_BACK, Stage.FAILED}),
    Stage.CHECKING: frozenset({Stage.IDLE, Stage.DOWNLOADING, Stage.FAILED}),
    # UNPACKING: the archive is on the disk already.
    Stage.DOWNLOADING: frozenset({Stage.VERIFYING, Stage.UNPACKING, Stage.FAILED}),
    # DOWNLOADING: the pieces of the archive do not fit together.
    Stage.VERIFYING: frozenset({Stage.UNPACKING, Stage.DOWNLOADING, Stage.FAILED}),
    # IDLE: the window for automatic installations has closed, or the box, which looks once more
    # right before it installs, finds that the release is not for it any more.
    Stage.UNPACKING: frozenset({Stage.INSTALLING, Stage.IDLE, Stage.FAILED}),
    Stage.INSTALLING: frozenset({Stage.REBOOTING, Stage.ROLLING_BACK, Stage.FAILED}),
    Stage.REBOOTING: frozenset({Stage.FAILED}),
    Stage.CONFIRMING: frozenset({Stage.IDLE, Stage.ROLLING_BACK, Stage.FAILED}),
    Stage.ROLLING_BACK: frozenset({Stage.IDLE, Stage.FAILED}),
}

#: The stages that may follow besides, when an agent starts and finds in the journal an update that
#: an earlier agent has begun.
RESUMPTIONS: Mapping[Stage, frozenset[Stage]] = {
    # IDLE: another release was installed by hand or by the rescue script, or the journal was lost.
    # REBOOTING, ROLLING_BACK: somebody has rebooted a box that could not reboot by itself.
    Stage.IDLE: frozenset({Stage.IDLE, Stage.REBOOTING, Stage.ROLLING_BACK}),
    Stage.FAILED: frozenset({Stage.IDLE, Stage.REBOOTING, Stage.ROLLING_BACK}),
    Stage.CHECKING: frozenset({Stage.CHECKING, Stage.REBOOTING, Stage.ROLLING_BACK}),
    # Nothing has been installed yet: the update begins again.
    Stage.DOWNLOADING: frozenset({Stage.CHECKING}),
    Stage.VERIFYING: frozenset({Stage.CHECKING}),
    Stage.UNPACKING: frozenset({Stage.CHECKING}),
    # CONFIRMING: the box has rebooted. IDLE: the rescue script has installed the last good release.
    Stage.INSTALLING: frozenset({Stage.INSTALLING, Stage.CONFIRMING, Stage.IDLE}),
    Stage.REBOOTING: frozenset({Stage.REBOOTING, Stage.CONFIRMING, Stage.IDLE}),
    Stage.CONFIRMING: frozenset({Stage.CONFIRMING}),
    Stage.ROLLING_BACK: frozenset(),
}


class TransitionError(Exception):
    """A stage was entered from one that it may not follow."""


def check_transition(before: Stage, after: Stage) -> None:
    """
    Log an error if `after` may not follow `before`.

    On a box the update continues, because a mistake in these tables must not strand it. A test
    fails, because trial counts such a log event as an error.
    """
    if after not in TRANSITIONS[before] | RESUMPTIONS[before]:
        error = TransitionError(f"The stage {after} may not follow {before}.")
        _log.failure("The update goes on, but its stages are wrong", Failure(error))
