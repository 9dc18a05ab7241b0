"""Takes from a process what it does not need to read an archive."""

import ctypes
import os
import resource

from opq_twisted.errors import OpqError

#: The user and the group that root's unpacker becomes. The UIDs 60578 to 61183 are used by nobody
#: (https://systemd.io/UIDS-GIDS): nobody else owns what it makes, or may end it.
UNPRIVILEGED = 61183

_ADDRESS_SPACE = 1 << 30
_CPU_SECONDS = 1800
_OPEN_FILES = 64
#: Processes and threads of that user: lbzip2 has at most ten, and a second unpacker may run.
_PROCESSES = 64

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_SET_NO_NEW_PRIVS = 38


def confine_this_process(folder: int, file_size: int) -> None:
    """
    Bound what a hostile archive could take, were there a hole in the decoding of it.

    Root's process becomes a user who owns nothing but `folder`. That user may not even be allowed
    to read this program: nothing is imported from here on.

    :raises OpqError: when root's process may not become another user.
    """
    _lower(resource.RLIMIT_AS, _ADDRESS_SPACE)
    _lower(resource.RLIMIT_FSIZE, file_size)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    # At the lower limit it is told, at the higher one killed.
    _lower(resource.RLIMIT_CPU, _CPU_SECONDS, _CPU_SECONDS + 60)
    _lower(resource.RLIMIT_CORE, 0)
    if os.geteuid() == 0:
        _lower(resource.RLIMIT_NPROC, _PROCESSES)
        try:
            os.fchown(folder, UNPRIVILEGED, UNPRIVILEGED)
            _become_unprivileged()
        except OSError as error:
            raise OpqError(
                f"The unpacker may not become the user {UNPRIVILEGED} ({error}): run the agent "
                "where root may change its user, or run it as another user than root."
            ) from error
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    _, highest = resource.getrlimit(kind)
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(kind, (soft, hard))


def _become_unprivileged() -> None:
    """Give up root's rights for good, and keep the signal at the end of the starter's process."""
    parent, signal_at_its_end = os.getppid(), ctypes.c_int()
    _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(signal_at_its_end))
    os.setgroups([])
    os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    # The kernel forgets it when the user changes (prctl(2), PR_SET_PDEATHSIG).
    _prctl(_PR_SET_PDEATHSIG, signal_at_its_end.value)
    if signal_at_its_end.value and os.getppid() != parent:
        raise SystemExit("Unpacking was stopped: who started it has ended.")


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
