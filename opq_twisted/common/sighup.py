"""Handles SIGHUP, which would otherwise end the process."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.application.service import Service


class SighupHandler(Service):
    """
    Calls a function in the reactor when SIGHUP arrives.

    Jobs that rotate logs or renew certificates send this signal to daemons, and a terminal sends it
    when it is closed. SIG_IGN would be inherited by child processes; a handler is not.
    """

    def __init__(self, reactor: Any, action: Callable[[], object] = lambda: None) -> None:
        self._reactor = reactor
        self._action = action
        self._before: Any = None

    def startService(self) -> None:
        """Handle the signal, unless the parent process ignores it, as nohup(1) does."""
        super().startService()
        self._before = signal.getsignal(signal.SIGHUP)
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._received)

    def stopService(self) -> None:
        """Restore the former handling of the signal."""
        super().stopService()
        if self._before is not None:
            signal.signal(signal.SIGHUP, self._before)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._action)
