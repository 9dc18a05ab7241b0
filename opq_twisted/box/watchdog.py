"""Notifies systemd's watchdog, and resets the rescue's counter once the agent runs steadily."""

from pathlib import Path

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from opq_twisted.common.sd_notify import ReadinessService, ServiceManager

#: The rescue counts its attempts in this file of the state directory.
RESCUE_TRIES = "rescue.tries"

#: Seconds that the agent must run before the rescue's counter is reset.
RESCUE_RESET_AFTER = 600.0


class WatchdogService(ReadinessService):
    """
    Sends heartbeats from the reactor, so that they stop when the reactor is blocked.

    The rescue is a shell script that restores the last good release if the agent does not run.
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
        self._reset_call: IDelayedCall | None = None

    def startService(self) -> None:
        """Report READY=1, and start the heartbeats."""
        super().startService()
        if self._service_manager.watchdog_timeout is not None:
            # At a third of the timeout, two heartbeats in a row may be lost.
            self._heartbeat.start(self._service_manager.watchdog_timeout / 3)
        self._reset_call = self._clock.callLater(RESCUE_RESET_AFTER, self._reset_rescue)

    def stopService(self) -> None:
        """Stop the heartbeats, and report STOPPING=1."""
        if self._reset_call is not None and self._reset_call.active():
            self._reset_call.cancel()
        if self._heartbeat.running:
            self._heartbeat.stop()
        super().stopService()

    def _reset_rescue(self) -> None:
        with self._log.failuresHandled("The rescue's counter cannot be removed"):
            self._rescue_tries.unlink(missing_ok=True)
