"""Tells systemd how a service is (sd_notify(3))."""

import socket
from collections.abc import MutableMapping

from attrs import frozen
from twisted.application.service import Service
from twisted.logger import Logger


@frozen
class Supervisor:
    """What starts this process, and wants to hear of it: systemd or nobody (sd_notify(3))."""

    #: The socket's address as the kernel knows it; None when nobody listens.
    address: str | None = None
    #: Seconds of silence after which the process is ended and started again; None is never.
    patience: float | None = None

    def tell(self, state: str) -> None:
        """
        Send a state.

        :raises OSError: when it cannot be sent at once.
        """
        if self.address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.setblocking(False)
            notifier.connect(self.address)
            notifier.send(state.encode())


def take_supervisor(environment: MutableMapping[str, str], pid: int) -> Supervisor:
    """
    Take out of the environment what systemd says to this process: its children must not heed it.

    :param pid: this process, which need not be the one that is watched (sd_watchdog_enabled(3)).
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    microseconds = environment.pop("WATCHDOG_USEC", "")
    watched = environment.pop("WATCHDOG_PID", str(pid))
    if not address:
        return Supervisor()
    if address.startswith("@"):
        address = "\0" + address[1:]
    is_watched = watched == str(pid) and microseconds.isdecimal() and int(microseconds) > 0
    return Supervisor(address, int(microseconds) / 1e6 if is_watched else None)


class Readiness(Service):
    """
    Tells the supervisor that a program is ready, and that it stops.

    Add it as the last service: it says that those before it have started.
    """

    _log = Logger()

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def startService(self) -> None:
        """Say that the program is ready."""
        super().startService()
        self._tell("READY=1")

    def stopService(self) -> None:
        """Say that the program stops."""
        super().stopService()
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        with self._log.failuresHandled("The supervisor cannot be told {state}", state=state):
            self._supervisor.tell(state)
