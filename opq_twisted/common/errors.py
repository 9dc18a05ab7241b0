"""What can go wrong, in words that a box owner or an operator can read."""

import errno

#: The errors of a machine that has no more descriptors, memory or processes for now (EAGAIN is that
#: of fork(2)). They pass, and say nothing about the file, the disk or the release.
MACHINE_BUSY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class OpqError(Exception):
    """Something that a person can cause or mend: its text is one sentence that says what to do."""


class CannotStart(SystemExit, OpqError):
    """
    A service cannot start; the process ends with the sentence on standard error and status 1.

    A SystemExit, so that no traceback is printed; an Exception, because twistd tells the parent of
    a daemon of nothing else, and the parent would wait for ever.
    """


class InvalidName(OpqError):
    """A name does not follow the template `opq-box-update-VERSION.tar.bz2`."""


class BuildFailed(OpqError):
    """An update could not be built."""


class ArchiveRefused(OpqError):
    """An archive is damaged, hostile, or not the update its name promises."""


class NoRoom(OpqError):
    """The disk has too little room for the next step of an update."""


class ConfigInvalid(OpqError):
    """The box's configuration cannot be used; the text names the key."""


class UpdateInProgress(OpqError):
    """An update is under way already; the text names its stage."""


class ServerFailed(OpqError):
    """The update server cannot be reached, or answers what no update server would."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        #: Seconds that the server asked us to wait, if it did.
        self.retry_after = retry_after


class NoWaiting(ServerFailed):
    """The update server lets no box wait for a change."""


class OlderCopy(ServerFailed):
    """The signed metadata is older than what the box has seen, as on a server that lags behind."""


class DownloadFailed(OpqError):
    """An archive did not arrive, or is not what the server promised."""


class PiecesDiffer(DownloadFailed):
    """What came over several connections, perhaps of several servers, is not one archive."""


class UnsignedRefused(OpqError):
    """The release is not signed, and the box's configuration does not allow that."""


class Untrusted(OpqError):
    """What the update server says is not what the release key signed, or goes back in time."""


class Stale(OpqError):
    """The signed metadata has expired, so that nothing new is installed."""


class ClockBehind(OpqError):
    """The box's clock shows a time that is known to have passed, so that nothing can be judged."""


class KeyUnusable(OpqError):
    """A key file cannot be read, written, or opened with this passphrase."""


class ReleaseFailed(OpqError):
    """The signed metadata was not changed, because that would strand boxes or could not be done."""


class InstallFailed(OpqError):
    """`install_update.sh` failed, or what it installed is not healthy."""


class NotStarted(OpqError):
    """`install_update.sh` did not run, which says nothing of its release."""


class BoxUnfit(OpqError):
    """The box cannot take an installation as it is; none was begun."""

    def __init__(self, sentence: str, room: int = 0) -> None:
        super().__init__(sentence)
        #: Bytes that the installed copy needs, if it is for want of room.
        self.room = room


class BoxAtFault(OpqError):
    """`install_update.sh` failed for a fault of the box, and not of its release."""

    def __init__(self, sentence: str, touched: bool) -> None:
        super().__init__(sentence)
        #: Whether it may have left anything behind.
        self.touched = touched


class RollbackFailed(OpqError):
    """The last good release could not be installed again."""


class NoKnownGoodRelease(OpqError):
    """There is no last good release that could be installed again."""


class AdoptFailed(OpqError):
    """An archive cannot be the one to which the box returns."""


class AgentFailed(OpqError):
    """A box's agent did not do what it was asked, or what answers in its place is no agent."""


class AgentAway(AgentFailed):
    """Nobody answers where a box's agent should be."""


class PasswordUnusable(OpqError):
    """The password of a box was not given, or cannot be one."""


class UpdateFailed(OpqError):
    """An update that was followed to its end did not bring the box to the new release."""


class Interrupted(OpqError):
    """An update was interrupted too often before anything was installed."""


class RebootFailed(OpqError):
    """The box could not be asked to reboot."""
