"""The codes in a report: results of attempts, reasons of failures, and reasons to wait."""

from enum import StrEnum


class Outcome(StrEnum):
    """The result of an attempt. It never changes."""

    #: The release was confirmed after the reboot.
    UPDATED = "updated"
    #: The box went back to the last good release.
    RETURNED = "returned"
    #: Nothing was installed, or the box could not go back.
    FAILED = "failed"


class Reason(StrEnum):
    """The reason why an attempt failed; each class of errors has one of these."""

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
    """The reason why a box does not install a newer release now."""

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
