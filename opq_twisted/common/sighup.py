"""Takes SIGHUP, which would end the process otherwise."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.application.service import Service


class SighupHandler(Service):
    """
    Does something at SIGHUP, in the reactor.

    Jobs that rotate logs or renew certificates send it to daemons, and so does a terminal that is
    closed. To ignore it would be inherited by the programs that are started.
    """

    def __init__(self, reactor: Any, action: Callable[[], object] = lambda: None) -> None:
        self._reactor = reactor
        self._action = action
        self._before: Any = None

    def startService(self) -> None:
        """Take the signal, unless whoever started this process ignores it, as nohup(1) does."""
        super().startService()
        self._before = signal.getsignal(signal.SIGHUP)
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._received)

    def stopService(self) -> None:
        """Leave the signal as it was."""
        super().stopService()
        if self._before is not None:
            signal.signal(signal.SIGHUP, self._before)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._action)
