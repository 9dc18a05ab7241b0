"""Notifies systemd of the state of a service (sd_notify(3))."""

import socket
from collections.abc import MutableMapping

from attrs import frozen
from twisted.application.service import Service
from twisted.logger import Logger


@frozen
class ServiceManager:
    """The program that started this process and wants notifications: systemd, or none."""

    #: The address of the notification socket, as the kernel spells it; None if there is none.
    address: str | None = None
    #: systemd restarts a process that sends no WATCHDOG=1 for so many seconds; None is never.
    watchdog_timeout: float | None = None

    def notify(self, state: str) -> None:
        """Send a state, such as `READY=1`; raise `OSError` if that needs to wait, or fails."""
        if self.address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.setblocking(False)
            notifier.connect(self.address)
            notifier.send(state.encode())


def take_service_manager(environment: MutableMapping[str, str], pid: int) -> ServiceManager:
    """
    Remove systemd's variables from the environment, so that child processes do not inherit them.

    :param pid: this process. The watchdog may be meant for another one (sd_watchdog_enabled(3)).
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    microseconds = environment.pop("WATCHDOG_USEC", "")
    watched = environment.pop("WATCHDOG_PID", str(pid))
    if not address:
        return ServiceManager()
    if address.startswith("@"):
        address = "\0" + address[1:]
    is_watched = watched == str(pid) and microseconds.isdecimal() and int(microseconds) > 0
    return ServiceManager(address, int(microseconds) / 1e6 if is_watched else None)


class ReadinessService(Service):
    """
    Notifies the service manager that the program is ready, and that it stops.

    Add it as the last service, so that all others have started when it reports READY=1.
    """

    _log = Logger()

    def __init__(self, service_manager: ServiceManager) -> None:
        self._service_manager = service_manager

    def startService(self) -> None:
        """Report READY=1."""
        super().startService()
        self._notify("READY=1")

    def stopService(self) -> None:
        """Report STOPPING=1."""
        super().stopService()
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        with self._log.failuresHandled("{state} could not be sent to systemd", state=state):
            self._service_manager.notify(state)
