"""The codes in a report: how an attempt ended, why, and what a box waits for."""

from enum import StrEnum


class Outcome(StrEnum):
    """How an attempt ended. Once an attempt has an outcome, it keeps it."""

    #: The release was confirmed after the reboot.
    UPDATED = "updated"
    #: The box went back to the last good release.
    RETURNED = "returned"
    #: Nothing was installed, or the box could not go back.
    FAILED = "failed"


class Reason(StrEnum):
    """Why an attempt did not succeed; the class of the error that ended it has one of these."""

    # The release is to blame.
    ARCHIVE = "archive"
    INSTALL_STATUS = "install-status"
    INSTALL_TIMEOUT = "install-timeout"
    NOT_INSTALLED = "not-installed"
    UNHEALTHY_SERVICE = "unhealthy-service"
    UNHEALTHY_VERIFY = "unhealthy-verify"
    FELL_OVER = "fell-over"
    AGENT_AGAIN = "agent-again"
    RESCUED = "rescued"
    # The box or the network is to blame.
    SERVER = "server"
    DOWNLOAD = "download"
    CONTENT = "content"
    CLOCK = "clock"
    STALE = "stale"
    UNTRUSTED = "untrusted"
    NO_ROOM = "no-room"
    DISK = "disk"
    BUSY = "busy"
    INTERRUPTED = "interrupted"
    REBOOT = "reboot"
    NO_WAY_BACK = "no-way-back"
    RETURN_FAILED = "return-failed"
    AGENT_ERROR = "agent-error"


#: The reasons that count against a release.
RELEASE_AT_FAULT = frozenset(
    {
        Reason.ARCHIVE,
        Reason.INSTALL_STATUS,
        Reason.INSTALL_TIMEOUT,
        Reason.NOT_INSTALLED,
        Reason.UNHEALTHY_SERVICE,
        Reason.UNHEALTHY_VERIFY,
        Reason.FELL_OVER,
        Reason.AGENT_AGAIN,
        Reason.RESCUED,
    }
)


class Waiting(StrEnum):
    """What a box waits for if it knows a newer release and does not install it now."""

    TURN = "turn"
    HELD = "held"
    CLICK = "click"
    WINDOW = "window"
    MEASUREMENT = "measurement"
    REFUSED = "refused"
    CLOCK = "clock"
    STALE = "stale"
    UNTRUSTED = "untrusted"
    SERVER = "server"
