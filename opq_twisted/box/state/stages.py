"""The stages of an update: the table of them, and which one may follow which."""

from collections.abc import Mapping
from enum import Enum, StrEnum, auto


class _Is(Enum):
    """Facts about a stage."""

    #: No update is under way.
    AT_REST = auto()
    #: The release that is under way may be the live one.
    LIVE = auto()
    #: An installer may run.
    INSTALLING = auto()
    #: The box may reboot.
    REBOOTING = auto()


class Stage(StrEnum):
    """
    The stages of an update, and everything that updater, page and command line know about each.

    The columns are the value, which is used on disk and on the wire, the label in the page's row of
    steps, the page's headline, the message, and the facts.
    """

    IDLE = ("idle", "", "", "", _Is.AT_REST)
    CHECKING = (
        "checking",
        "Check",
        "Looking for an update",
        "Asking the update server for the newest release.",
    )
    DOWNLOADING = ("downloading", "Download", "", "Downloading the new release.")
    VERIFYING = ("verifying", "Verify", "", "Checking that the download is whole.")
    UNPACKING = ("unpacking", "Unpack", "", "Unpacking the new release.")
    INSTALLING = (
        "installing",
        "Install",
        "",
        "Installing the new release; this can take some minutes.",
        _Is.LIVE,
        _Is.INSTALLING,
    )
    REBOOTING = (
        "rebooting",
        "Reboot",
        "The box is rebooting",
        "Rebooting. This page waits for the box.",
        _Is.LIVE,
        _Is.REBOOTING,
    )
    CONFIRMING = (
        "confirming",
        "Confirm",
        "Trying the new release",
        "Checking whether the new release runs and is healthy.",
        _Is.LIVE,
    )
    # A rollback installs a release, too, and has the same label.
    ROLLING_BACK = (
        "returning",
        "Install",
        "Going back to the last good release",
        "Installing the last good release again.",
        _Is.LIVE,
        _Is.INSTALLING,
        _Is.REBOOTING,
    )
    FAILED = ("failed", "", "", "", _Is.AT_REST)

    label: str
    headline: str
    message: str
    at_rest: bool
    may_be_live: bool
    installs: bool
    may_reboot: bool

    def __new__(
        cls, value: str, label: str = "", headline: str = "", message: str = "", *facts: _Is
    ) -> "Stage":
        """Make a member from a row of the table."""
        stage = str.__new__(cls, value)
        stage._value_ = value
        stage.label, stage.message = label, message
        stage.headline = headline or "Updating the box"
        stage.at_rest = _Is.AT_REST in facts
        stage.may_be_live = _Is.LIVE in facts
        stage.installs = _Is.INSTALLING in facts
        stage.may_reboot = _Is.REBOOTING in facts
        return stage

    @property
    def step(self) -> int | None:
        """The index of its label in `STEPS`; None for a stage without one."""
        return STEPS.index(self.label) if self.label else None


#: The labels in the page's row of steps, in their order.
STEPS = tuple(dict.fromkeys(stage.label for stage in Stage if stage.label))

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
    # IDLE: the window for automatic installations has closed, or the last check, right before the
    # installation, has found that the release is not for this box any more.
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
