"""The errors of all programs; each has a sentence for the box owner or the operator."""

import errno

#: The errors of a machine that is out of descriptors, memory or processes (EAGAIN of fork(2)).
#: They are temporary, and no fault of the file, the disk or the release.
MACHINE_BUSY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class OpqError(Exception):
    """An error that a person can cause or fix; its text is a sentence with the remedy."""

    #: The code of an attempt to update that ends with this error: the value of a
    #: `report.codes.Reason`. An error with the default is not expected to end one.
    code: str = "agent-error"


class CannotStart(SystemExit, OpqError):  # type: ignore[misc]
    """
    A service cannot start: the process prints the sentence to standard error and exits with 1.

    It is a SystemExit, so that no traceback is printed. It is an Exception too: twistd reports only
    those to the parent process of a daemon, which would otherwise wait for ever. Its `code` is that
    of the SystemExit.
    """


class InvalidName(OpqError):
    """A name does not follow the template `opq-box-update-VERSION.tar.bz2`."""


class BuildFailed(OpqError):
    """An update could not be built."""


class ArchiveRefused(OpqError):
    """An archive is damaged, hostile, or another update than its name says."""

    code = "archive"


class NoRoom(OpqError):
    """The disk has too little room for the next step of an update."""

    code = "no-room"


class ConfigInvalid(OpqError):
    """The box's configuration is invalid; the text names the key."""


class SetupFailed(OpqError):
    """The box's configuration cannot be written, or the box has no id to make a number from."""


class UpdateInProgress(OpqError):
    """An update is under way already; the text names its stage."""


class ServerFailed(OpqError):
    """The update server cannot be reached, or sends an invalid response."""

    code = "server"

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        #: The server's Retry-After, in seconds; None if it sent none.
        self.retry_after = retry_after


class NoWaiting(ServerFailed):
    """The update server does not support waiting for a change."""


class OlderCopy(ServerFailed):
    """The signed metadata is older than the metadata that the box has, as on a slow mirror."""


class DownloadFailed(OpqError):
    """An archive was not received."""

    code = "download"


class ArchiveLost(DownloadFailed):
    """An archive that was on the disk is missing, or has changed since then."""

    code = "disk"


class WrongContent(DownloadFailed):
    """A file is not the announced archive."""

    code = "content"


class WronglyJoined(WrongContent):
    """Bytes of several sources, such as two responses and a disk, are not the announced archive."""


class UnsignedRefused(OpqError):
    """The release is not signed, and the box's configuration requires a signature."""

    code = "untrusted"


class Untrusted(OpqError):
    """The metadata is not signed by the trusted keys, or is older than known metadata."""

    code = "untrusted"


class Stale(OpqError):
    """The signed metadata has expired, so that no update is installed."""

    code = "stale"


class ClockBehind(OpqError):
    """The box's clock is behind a time that has certainly passed: no expiry can be checked."""

    code = "clock"


class KeyUnusable(OpqError):
    """A key file cannot be read, written, or decrypted with this passphrase."""


class ReleaseFailed(OpqError):
    """The signed metadata was not changed, because boxes would reject it or the change failed."""


class InstallFailed(OpqError):
    """`install_update.sh` failed, or the installed release is to blame for something else."""

    code = "install-status"


class InstallTimedOut(InstallFailed):
    """`install_update.sh` took too long."""

    code = "install-timeout"


class InstallInterrupted(InstallFailed):
    """The installation of a release was interrupted again and again."""

    code = "interrupted"


class NotInstalled(InstallFailed):
    """After the reboot, the box does not run the release that was installed."""

    code = "not-installed"


class ServiceUnhealthy(InstallFailed):
    """A service of the box does not run with the installed release."""

    code = "unhealthy-service"


class VerifyFailed(InstallFailed):
    """`verify_update.sh` of the installed release failed."""

    code = "unhealthy-verify"


class FellOver(InstallFailed):
    """The box restarted again and again while it confirmed the release."""

    code = "fell-over"


class AgentUnfit(InstallFailed):
    """The release's agent was started again and again, or has not reached the update server."""

    code = "agent-again"


class NotStarted(OpqError):
    """`install_update.sh` did not run; this is no fault of the release."""

    code = "busy"


class BoxUnfit(OpqError):
    """The box is not ready for an installation; none was started."""

    code = "disk"

    def __init__(self, sentence: str, room: int = 0, code: str = "disk") -> None:
        """:param code: `disk`, `no-room` or `busy`."""
        super().__init__(sentence)
        self.code = code
        #: The number of bytes that the installed copy needs, if the disk has too little room.
        self.room = room


class BoxAtFault(OpqError):
    """`install_update.sh` failed because of the box, and not because of the release."""

    code = "disk"

    def __init__(self, sentence: str, touched: bool, code: str = "disk") -> None:
        """:param code: as that of `BoxUnfit`."""
        super().__init__(sentence)
        self.code = code
        #: Whether the script may have changed the box.
        self.touched = touched


class RollbackFailed(OpqError):
    """The last good release could not be installed again."""

    code = "return-failed"


class NoKnownGoodRelease(OpqError):
    """There is no last good release that could be installed again."""

    code = "no-way-back"


class AdoptFailed(OpqError):
    """An archive cannot become the last good release."""


class AgentFailed(OpqError):
    """A box's agent refused a request, or another program responds in its place."""


class AgentAway(AgentFailed):
    """A box's agent does not respond."""


class PasswordUnusable(OpqError):
    """No password of a box was given, or it is not a valid password."""


class UpdateFailed(OpqError):
    """A watched update ended, and the box does not run the new release."""


class Interrupted(OpqError):
    """An update was interrupted too often before anything was installed."""

    code = "interrupted"


class RebootFailed(OpqError):
    """The reboot command failed."""

    code = "reboot"
