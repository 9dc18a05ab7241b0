"""Follows an update, also across restarts of the agent and reboots of the box."""

import codecs
import io
from collections.abc import Callable, Iterator
from typing import Protocol

from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common.errors import AgentAway, AgentFailed

#: Seconds between two requests, and seconds without a response after which the command gives up.
#: An installer may stop the agent for half an hour, and then the box reboots.
_RETRY_DELAY, _MAX_ABSENCE = 1.0, 3600.0

#: Characters of a line; bytes of a log (an agent keeps fewer).
_MAX_LINE, _MAX_LOG = 1 << 16, 1 << 26


class _Clock(Protocol):
    """The part of the module `time` that is used here; times are in seconds."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class RetryTimer:
    """Delays the next request, and limits the time without a response."""

    def __init__(self, clock: _Clock, notify: Callable[[str], object]) -> None:
        """:param notify: is called with a sentence once for each absence of the agent."""
        self._clock = clock
        self._notify = notify
        self._since: float | None = None
        self._is_notified = False

    def reset(self) -> None:
        """Start again: the agent has answered."""
        self._since, self._is_notified = None, False

    def wait(self, failure: AgentFailed | None = None) -> None:
        """
        Wait before the next request.

        :param failure: the reason if there was no response.
        :raises AgentAway: if there has been no response for too long.
        """
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since > _MAX_ABSENCE:
            raise AgentAway(
                f"The box has not answered for {_MAX_ABSENCE / 60:.0f} minutes. Check its power "
                "and its network; opq-box status shows its state once it answers."
            )
        if failure is not None and not self._is_notified:
            self._notify("The box does not answer now. This command waits for it.")
            self._is_notified = True
        self._clock.sleep(_RETRY_DELAY)


def statuses(agent: AgentClient, timer: RetryTimer) -> Iterator[Document]:
    """Yield the status and each change of it, without an end; raises as `RetryTimer.wait`."""
    while True:
        failure = None
        try:
            for status in agent.events():
                timer.reset()
                yield status
        except AgentFailed as error:
            failure = error
        timer.wait(failure)


def log_lines(agent: AgentClient, timer: RetryTimer | None = None) -> Iterator[str]:
    """
    Yield the lines of the installer's output.

    :param timer: if given, the log is followed without an end.
    :raises AgentFailed: if the log cannot be read, or the agent has been away for too long.
    """
    start, text = 0, _Lines()
    while True:
        try:
            piece = agent.log(start)
        except AgentFailed as error:
            if timer is None:
                raise
            timer.wait(error)
            continue
        if piece is None:
            yield from text.end()
            start, text = 0, _Lines()
        elif piece:
            start += len(piece)
            yield from text.add(piece)
            if timer is None and start > _MAX_LOG:
                raise AgentFailed("The log does not end: this is not a box's agent.")
        elif timer is None:
            yield from text.end()
            return
        else:
            timer.reset()
            timer.wait()


class _Lines:
    """Splits bytes that come in pieces into lines."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._rest = ""

    def add(self, piece: bytes, final: bool = False) -> list[str]:
        """Return the lines that are complete now."""
        *whole, self._rest = (self._rest + self._decoder.decode(piece, final)).split("\n")
        if len(self._rest) > _MAX_LINE:
            whole.append(self._rest)
            self._rest = ""
        return whole

    def end(self) -> list[str]:
        """Return the rest as the last line."""
        whole = self.add(b"", final=True)
        return [*whole, self._rest] if self._rest else whole
