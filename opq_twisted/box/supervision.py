"""Gives signs of life to those who start the agent again: systemd, and the rescue."""

import socket
from collections.abc import MutableMapping
from pathlib import Path

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

#: The rescue counts its attempts in this file of the state directory.
RESCUE_TRIES = "rescue.tries"

#: Seconds after which an agent that runs needs no rescue.
PROVEN = 600.0


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


class SignsOfLife(Service):
    """
    Tells the supervisor that the agent works, and the rescue that it works for good.

    Add it as the last service: it says that those before it have started. The signs come from the
    reactor, so that they end when the reactor is blocked.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, supervisor: Supervisor, state_dir: Path) -> None:
        self._clock = clock
        self._supervisor = supervisor
        self._rescue_tries = state_dir / RESCUE_TRIES
        self._heartbeat = LoopingCall(self._tell, "WATCHDOG=1")
        self._heartbeat.clock = clock
        self._proof: IDelayedCall | None = None

    def startService(self) -> None:
        """Say that the agent is ready, and go on to say that it lives."""
        super().startService()
        self._tell("READY=1")
        if self._supervisor.patience is not None:
            # Two may be late or lost.
            self._heartbeat.start(self._supervisor.patience / 3)
        self._proof = self._clock.callLater(PROVEN, self._forget_rescues)

    def stopService(self) -> None:
        """Say that the agent stops."""
        super().stopService()
        if self._proof is not None and self._proof.active():
            self._proof.cancel()
        if self._heartbeat.running:
            self._heartbeat.stop()
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        with self._log.failuresHandled("The supervisor cannot be told {state}", state=state):
            self._supervisor.tell(state)

    def _forget_rescues(self) -> None:
        with self._log.failuresHandled("The count of rescues cannot be removed"):
            self._rescue_tries.unlink(missing_ok=True)
