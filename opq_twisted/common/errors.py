"""The errors of all programs; each has a sentence for the box owner or the operator."""

import errno

#: The errors of a machine that is out of descriptors, memory or processes (EAGAIN of fork(2)).
#: They are temporary, and no fault of the file, the disk or the release.
MACHINE_BUSY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class OpqError(Exception):
    """An error that a person can cause or fix; its text is a sentence that says what to do."""


class CannotStart(SystemExit, OpqError):
    """
    A service cannot start: the process prints the sentence to standard error and exits with 1.

    It is a SystemExit, so that no traceback is printed. It is an Exception too: twistd reports only
    those to the parent process of a daemon, which would otherwise wait for ever.
    """


class InvalidName(OpqError):
    """A name does not follow the template `opq-box-update-VERSION.tar.bz2`."""


class BuildFailed(OpqError):
    """An update could not be built."""


class ArchiveRefused(OpqError):
    """An archive is damaged, hostile, or another update than its name says."""


class NoRoom(OpqError):
    """The disk has too little room for the next step of an update."""


class ConfigInvalid(OpqError):
    """The box's configuration is invalid; the text names the key."""


class SetupFailed(OpqError):
    """The box's configuration cannot be written, or the box has no id to make a number from."""


class UpdateInProgress(OpqError):
    """An update is under way already; the text names its stage."""


class ServerFailed(OpqError):
    """The update server cannot be reached, or sends an invalid response."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        #: The server's Retry-After, in seconds; None if it sent none.
        self.retry_after = retry_after


class NoWaiting(ServerFailed):
    """The update server does not support waiting for a change."""


class OlderCopy(ServerFailed):
    """The signed metadata is older than the metadata that the box has, as on a slow mirror."""


class DownloadFailed(OpqError):
    """An archive was not received, or is not the announced one."""


class WronglyJoined(DownloadFailed):
    """Bytes of several sources, such as two responses and a disk, are not the announced archive."""


class UnsignedRefused(OpqError):
    """The release is not signed, and the box's configuration requires a signature."""


class Untrusted(OpqError):
    """The metadata is not signed by the trusted keys, or is older than known metadata."""


class Stale(OpqError):
    """The signed metadata has expired, so that no update is installed."""


class ClockBehind(OpqError):
    """The box's clock is behind a time that has certainly passed: no expiry can be checked."""


class KeyUnusable(OpqError):
    """A key file cannot be read, written, or decrypted with this passphrase."""


class ReleaseFailed(OpqError):
    """The signed metadata was not changed, because boxes would reject it or the change failed."""


class InstallFailed(OpqError):
    """`install_update.sh` failed, or the installed release is not healthy."""


class NotStarted(OpqError):
    """`install_update.sh` did not run; this is no fault of the release."""


class BoxUnfit(OpqError):
    """The box is not ready for an installation; none was started."""

    def __init__(self, sentence: str, room: int = 0) -> None:
        super().__init__(sentence)
        #: The number of bytes that the installed copy needs, if the disk has too little room.
        self.room = room


class BoxAtFault(OpqError):
    """`install_update.sh` failed because of the box, and not because of the release."""

    def __init__(self, sentence: str, touched: bool) -> None:
        super().__init__(sentence)
        #: Whether the script may have changed the box.
        self.touched = touched


class RollbackFailed(OpqError):
    """The last good release could not be installed again."""


class NoKnownGoodRelease(OpqError):
    """There is no last good release that could be installed again."""


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


class RebootFailed(OpqError):
    """The reboot command failed."""
