"""Limits what this process can do: it reads an archive that may be hostile."""

import ctypes
import os
import resource

_ADDRESS_SPACE = 1 << 30
_CPU_SECONDS = 1800
_OPEN_FILES = 64

# linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38


def set_limits(file_size: int) -> None:
    """
    Lower the resource limits and the privileges of this process.

    They bound the damage if a hostile archive exploits an error in the code that decodes it.

    :param file_size: the largest size of a file that the process may write, in bytes.
    :raises OSError: if the kernel does not support `no_new_privs`.
    """
    _lower(resource.RLIMIT_AS, _ADDRESS_SPACE)
    _lower(resource.RLIMIT_FSIZE, file_size)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    # At the soft limit the process gets SIGXCPU and cleans up. At the hard limit the kernel kills
    # it.
    _lower(resource.RLIMIT_CPU, _CPU_SECONDS, _CPU_SECONDS + 60)
    _lower(resource.RLIMIT_CORE, 0)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    _, highest = resource.getrlimit(kind)
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(kind, (soft, hard))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
