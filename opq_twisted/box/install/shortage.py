"""Finds a shortage of the machine (disk, memory, processes) in the output of programs."""

import errno
import os

from opq_twisted.common.errors import MACHINE_BUSY

#: The messages of programs, and the codes of the errors that they mean; dash gives no reason.
_MESSAGES = {
    **dict.fromkeys(map(os.strerror, MACHINE_BUSY), "busy"),
    os.strerror(errno.ENOSPC): "no-room",
    os.strerror(errno.EDQUOT): "no-room",
    "Cannot fork": "busy",
    "MemoryError": "busy",
    "can't start new thread": "busy",
    "Out of memory": "busy",
    # The child process that unpacks says this.
    "too little memory": "busy",
}


def find_shortage(output: str) -> tuple[str, str] | None:
    """Return the message in this output, and its code: `busy` or `no-room`; None without one."""
    return next((item for item in _MESSAGES.items() if item[0] in output), None)


def code_of(output: str) -> str:
    """Return the code of an error whose reason is in this output; `disk` for any other reason."""
    found = find_shortage(output)
    return found[1] if found else "disk"
