"""Names the user at the other end of a Unix socket."""

import pwd
import socket
import struct
from typing import Any

#: The fields of `struct ucred` (unix(7)): process, user, group.
_CREDENTIALS = struct.Struct("3i")


def uid_of(transport: Any) -> int:
    """Return the number of the user who has connected, as the kernel knows it."""
    connected: socket.socket = transport.getHandle()
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)


def user_name(uid: int) -> str:
    """Return the name of a user, or `uid 1234` without one; it may ask a directory server."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return name if name.isprintable() and name.strip() else f"uid {uid}"
