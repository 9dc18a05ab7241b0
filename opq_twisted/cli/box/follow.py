"""Follows what a box does, also while its agent is away."""

import codecs
import io
from collections.abc import Callable, Iterator
from typing import Protocol

from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.untrusted_json import Document
from opq_twisted.common.errors import AgentAway, AgentFailed

#: Seconds between two questions; and for how long nobody need answer them: an installer may stop
#: the agent for half an hour, and then the box reboots.
_RETRY_DELAY, _MAX_ABSENCE = 1.0, 3600.0

#: Characters of a line; bytes of a log, of which an agent keeps fewer.
_LONGEST_LINE, _LARGEST_LOG = 1 << 16, 1 << 26


class Clock(Protocol):
    """What is needed of the module `time`."""

    def monotonic(self) -> float:
        """Give the time in seconds, from some moment on."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


class RetryTimer:
    """Bears with an agent that is away, for a while."""

    def __init__(self, clock: Clock, notify: Callable[[str], object]) -> None:
        """:param notify: is told once, for each time that the agent goes away, that it did."""
        self._clock = clock
        self._notify = notify
        self._since: float | None = None
        self._is_notified = False

    def reset(self) -> None:
        """Begin anew, because the agent has answered."""
        self._since, self._is_notified = None, False

    def wait(self, failure: AgentFailed | None = None) -> None:
        """
        Wait a moment.

        :param failure: why there was no answer.
        :raises AgentAway: when there has been none for too long.
        """
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since > _MAX_ABSENCE:
            raise AgentAway(
                f"The box has not answered for {_MAX_ABSENCE / 60:.0f} minutes. Look after it; "
                "opq-box status says how it is once it answers."
            )
        if failure is not None and not self._is_notified:
            self._notify("The box does not answer now. This waits for it.")
            self._is_notified = True
        self._clock.sleep(_RETRY_DELAY)


def statuses(agent: AgentClient, timer: RetryTimer) -> Iterator[Document]:
    """
    Give the status and each later one, through reboots, until whoever asks has seen enough.

    :raises AgentAway: when the agent has been away for too long.
    """
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
    Give the lines of what the installer said.

    :param timer: to go on with what it says later; without it the end is the end.
    :raises AgentFailed: when the log cannot be had, or the agent has been away for too long.
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
            if timer is None and start > _LARGEST_LOG:
                raise AgentFailed("The log does not end: no agent keeps that much.")
        elif timer is None:
            yield from text.end()
            return
        else:
            timer.reset()
            timer.wait()


class _Lines:
    """Makes lines of bytes that come in pieces."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._rest = ""

    def add(self, piece: bytes, final: bool = False) -> list[str]:
        """Give the lines that are whole now."""
        *whole, self._rest = (self._rest + self._decoder.decode(piece, final)).split("\n")
        if len(self._rest) > _LONGEST_LINE:
            whole.append(self._rest)
            self._rest = ""
        return whole

    def end(self) -> list[str]:
        """Give what follows the last line's end."""
        whole = self.add(b"", final=True)
        return [*whole, self._rest] if self._rest else whole
