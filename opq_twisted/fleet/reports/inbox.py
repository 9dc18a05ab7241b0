"""The queue of the reports: stores them in batches, and answers each after its commit."""

import traceback
from collections import deque
from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import INTERNAL_SERVER_ERROR

from opq_twisted.common.log import RepeatedLine
from opq_twisted.fleet.reports.answer import Answer, refuse_for_now
from opq_twisted.fleet.reports.batch_writer import Apply, BatchWriter, Write, is_refused
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.store.errors import StoreUnavailable

#: The limit of reports in one batch. All answers are sent in one turn of the reactor, some 10 ms.
MAX_BATCH = 100

#: The limit of waiting reports, and of the bytes of their bodies. Each needs some 10 kB with its
#: connection. Boxes beyond the limit wait in the kernel, or try again later.
MAX_WAITING = 1000
MAX_BYTES = 8 << 20

#: A batch that takes longer than so many seconds counts as failed.
BATCH_TIMEOUT = 15

#: Seconds between two attempts to use a database that has failed.
RETRY_DELAY = 1


@define(eq=False)
class _Waiting:
    """A report that has no answer yet."""

    incoming: Incoming
    answered: Deferred[Answer] = field(factory=Deferred)

    def answer(self, answer: Answer) -> None:
        """Answer, unless the sender was told before to try again later."""
        if not self.answered.called:
            self.answered.callback(answer)


class Inbox(Service):
    """
    Stores reports in batches, one batch at a time.

    A batch begins as soon as the previous one has ended, with the reports that have arrived
    meanwhile. While the database cannot be used, no report waits: one batch at a time is tried, and
    all other reports are refused at once.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, write: Write, apply: Apply) -> None:
        """:param apply: stores a batch; it runs in the thread that writes."""
        self._clock = clock
        self._writer = BatchWriter(clock, write, apply)
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._batch: Sequence[_Waiting] = ()
        self._next_try = 0.0
        self._idle: list[Deferred[None]] = []
        self._error_line = RepeatedLine(clock, lambda line: self._log.error("{line}", line=line))
        #: Whether the database could not be used for the last batch.
        self.is_away = False
        #: Called with the number of reports and the seconds of each batch that was stored.
        self.observers: list[Callable[[int, float], None]] = []

    def __len__(self) -> int:
        """How many reports wait, or are in the batch that is under way."""
        return len(self._queue) + len(self._batch)

    def put(self, incoming: Incoming) -> Deferred[Answer]:
        """Store a report; the Deferred returns the answer, and never fails."""
        waiting = _Waiting(incoming)
        result = self._reason_against(len(incoming.body))
        if result is not None:
            waiting.answer(refuse_for_now(result))
            return waiting.answered
        self._queue.append(waiting)
        self._bytes += len(incoming.body)
        if not self._batch:
            Deferred.fromCoroutine(self._work())
        return waiting.answered

    def stopService(self) -> Deferred[None] | None:
        """Refuse the reports that wait, and let the batch under way end."""
        super().stopService()
        self._turn_away("stopping")
        if not self._batch:
            return None
        self._idle.append(Deferred())
        return self._idle[-1]

    def _reason_against(self, size: int) -> str | None:
        """Return the reason why a report cannot be taken now; None if it can."""
        if not self.running:
            return "stopping"
        if self.is_away and (self._batch or self._clock.seconds() < self._next_try):
            return "store-away"
        if len(self) >= MAX_WAITING or self._bytes + size > MAX_BYTES:
            return "queue-full"
        return None

    async def _work(self) -> None:
        """Store batches until none waits."""
        while self._queue:
            self._batch = self._next_batch()
            overdue = self._clock.callLater(BATCH_TIMEOUT, self._time_out)
            begun = self._clock.seconds()
            try:
                await self._store(self._batch)
            finally:
                if overdue.active():
                    overdue.cancel()
                for each in self._batch:
                    # Only an error of this program leaves a report without an answer. The next
                    # report may come while this one is answered, and must wait for a new batch.
                    each.answer(_failed())
                count, self._batch = len(self._batch), ()
            if not self.is_away:
                self._notify(count, self._clock.seconds() - begun)
        idle, self._idle = self._idle, []
        for waiting in idle:
            waiting.callback(None)

    def _next_batch(self) -> Sequence[_Waiting]:
        count = min(MAX_BATCH, len(self._queue))
        batch = [self._queue.popleft() for _ in range(count)]
        self._bytes -= sum(len(each.incoming.body) for each in batch)
        return batch

    async def _store(self, batch: Sequence[_Waiting]) -> None:
        """Store a batch and answer it; if it cannot be stored as a whole, report by report."""
        try:
            answers = await self._writer.write([each.incoming for each in batch])
            self._mark_available()
            for each, answer in zip(batch, answers, strict=True):
                each.answer(answer)
        except StoreUnavailable as error:
            if len(batch) == 1 and is_refused(error):
                self._report_error(error)
            elif is_refused(error):
                await self._store_each(batch)
            else:
                self._mark_unavailable(error)
        except Exception as error:
            self._report_error(error)
            if len(batch) > 1:
                await self._store_each(batch)

    async def _store_each(self, batch: Sequence[_Waiting]) -> None:
        """Store a batch report by report, so that only the report at fault fails."""
        for each in batch:
            await self._store([each])
            if self.is_away:
                return

    def _time_out(self) -> None:
        self._mark_unavailable(
            StoreUnavailable(f"The database needs more than {BATCH_TIMEOUT} s for a batch.")
        )

    def _mark_unavailable(self, error: StoreUnavailable) -> None:
        """Refuse all reports from now on, because the database cannot be used."""
        if not self.is_away:
            self._log.error("Reports get 503 for now. {error}", error=error)
        self.is_away = True
        self._next_try = self._clock.seconds() + RETRY_DELAY
        self._turn_away("store-away")
        for each in self._batch:
            each.answer(refuse_for_now("store-away"))

    def _mark_available(self) -> None:
        if self.is_away:
            self._log.info("The database of the fleet can be used again.")
        self.is_away = False

    def _turn_away(self, result: str) -> None:
        queue, self._queue, self._bytes = self._queue, deque(), 0
        for each in queue:
            each.answer(refuse_for_now(result))

    def _report_error(self, error: Exception) -> None:
        # The message of an error may quote the report.
        frames = "".join(traceback.format_tb(error.__traceback__))
        self._error_line.say(f"A report cannot be stored: {type(error).__name__}.\n{frames}")

    def _notify(self, reports: int, seconds: float) -> None:
        for observer in self.observers:
            with self._log.failuresHandled("{observer} failed", observer=observer):
                observer(reports, seconds)


def _failed() -> Answer:
    return Answer(INTERNAL_SERVER_ERROR, "error")
