"""How many descriptors this process may have, and so how many connections."""

import resource

from twisted.logger import Logger

#: Descriptors for all else: the log, the reactor, the kernel's events, a thread that reads.
_RESERVE = 64

_log = Logger()


def make_room(connections: int, downloads: int) -> int:
    """
    Raise this process's limit of descriptors as far as is needed and allowed.

    A connection needs one, and a download one more for its file.

    :returns: how many connections there is room for, at most `connections`.
    """
    needed = connections + downloads + _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    if hard == resource.RLIM_INFINITY or hard >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return connections
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = max(1, hard - downloads - _RESERVE)
    _log.warn(
        "There is room for {room} connections, not {connections}: this process may have only "
        "{hard} descriptors. Raise LimitNOFILE, or lower --max-connections.",
        room=room,
        connections=connections,
        hard=hard,
    )
    return room
