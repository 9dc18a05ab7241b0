"""Gives signs of life to those who start the agent again: systemd, and the rescue."""

from pathlib import Path

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from opq_twisted.common.sd_notify import Readiness, ServiceManager

#: The rescue counts its attempts in this file of the state directory.
RESCUE_TRIES = "rescue.tries"

#: Seconds after which an agent that runs needs no rescue.
RESCUE_RESET_AFTER = 600.0


class WatchdogService(Readiness):
    """
    Tells the service manager that the agent works, and the rescue that it works for good.

    Add it as the last service: it says that those before it have started. The signs come from the
    reactor, so that they end when the reactor is blocked.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, service_manager: ServiceManager, state_dir: Path
    ) -> None:
        super().__init__(service_manager)
        self._clock = clock
        self._rescue_tries = state_dir / RESCUE_TRIES
        self._heartbeat = LoopingCall(self._notify, "WATCHDOG=1")
        self._heartbeat.clock = clock
        self._proof: IDelayedCall | None = None

    def startService(self) -> None:
        """Say that the agent is ready, and go on to say that it lives."""
        super().startService()
        if self._service_manager.watchdog_timeout is not None:
            # Two may be late or lost.
            self._heartbeat.start(self._service_manager.watchdog_timeout / 3)
        self._proof = self._clock.callLater(RESCUE_RESET_AFTER, self._forget_rescues)

    def stopService(self) -> None:
        """Say that the agent stops."""
        if self._proof is not None and self._proof.active():
            self._proof.cancel()
        if self._heartbeat.running:
            self._heartbeat.stop()
        super().stopService()

    def _forget_rescues(self) -> None:
        with self._log.failuresHandled("The count of rescues cannot be removed"):
            self._rescue_tries.unlink(missing_ok=True)
