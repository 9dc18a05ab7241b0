"""Serves a resource tree to a limited number of connections."""

from collections.abc import Callable, Iterable
from math import inf
from time import time

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.http import SERVICE_UNAVAILABLE, datetimeToString
from twisted.web.resource import IResource
from twisted.web.server import Site

from opq_twisted.common.log import RepeatedLine
from opq_twisted.http.channel import BoundedChannel
from opq_twisted.http.connection_limits import ConnectionLimits, Shares
from opq_twisted.http.request import BoundedRequest

#: The status, as in nginx, of a request whose client went away before it was answered.
CLIENT_GONE = 499

#: Seconds between two checks of all connections' deadlines.
_SWEEP_INTERVAL = 0.5


class BoundedSite(Site):
    """
    Serves a resource tree, and limits the number and the duration of its connections.

    It logs no requests: the log of a box is on an SD card. An access log or a counter is an
    observer.
    """

    _log = Logger()
    #: The port already logs that it listens.
    noisy = False

    def __init__(
        self, reactor: IReactorTime, root: IResource, limits: ConnectionLimits | None = None
    ) -> None:
        super().__init__(
            root,
            requestFactory=BoundedRequest,
            timeout=None,
            reactor=reactor,
            # No resource here expects a form.
            parsePOSTFormSubmission=False,
        )
        self.protocol = BoundedChannel  # type: ignore[assignment,method-assign]
        self._limits = ConnectionLimits() if limits is None else limits
        self._shares = Shares(self._limits.connections, self._limits.each)
        self._shares_of_addresses = Shares(self._limits.connections, self._limits.each_address)
        self._reset_warning = RepeatedLine(
            reactor, lambda line: self._log.warn("{line}", line=line)
        )
        #: Called at the end of each request; the argument says whether the whole response was sent.
        self.request_observers: list[Callable[[BoundedRequest, bool], None]] = []
        #: Called with the status of each response to a malformed request.
        self.refusal_observers: list[Callable[[int], None]] = []
        self.channels: set[BoundedChannel] = set()
        self._second = -1
        self._date = b""
        self._served = False
        self._sweeping = LoopingCall(self.sweep)
        self._sweeping.clock = reactor

    def startFactory(self) -> None:
        """Check deadlines from now on, while there are connections."""
        super().startFactory()
        self._served = True
        self._sweep_if_needed()

    def stopFactory(self) -> None:
        """Stop checking deadlines."""
        super().stopFactory()
        self._served = False
        self._sweep_if_needed()

    def _sweep_if_needed(self) -> None:
        needed = self._served and bool(self.channels)
        if needed and not self._sweeping.running:
            self._sweeping.start(_SWEEP_INTERVAL, now=False)
        elif not needed and self._sweeping.running:
            self._sweeping.stop()

    def _updateLogDateTime(self) -> None:
        """Do nothing: the time is not needed, because no requests are logged."""

    def date(self) -> bytes:
        """Give the current time in the format of the Date header."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._date = datetimeToString(second)
        return self._date

    def acceptableProtocols(self) -> list[bytes]:
        """Offer only HTTP/1.1, even if the packages for HTTP/2 are installed."""
        return [b"http/1.1"]

    def log(self, request: object) -> None:
        """Log nothing: `ended` also reports requests that were cut."""

    def connected(self, channel: BoundedChannel) -> None:
        """
        Count a connection, or reset it at once if there are too many.

        It gets no response: until the client had read it, the connection would use a descriptor.
        """
        address = channel.transport.getPeer()
        channel.client = self._limits.client(address)
        channel.address = None if channel.client is None else address.host
        if channel.descriptor() >= self._limits.first_reserved or not (
            self._shares.has_room(channel.client)
            and self._shares_of_addresses.has_room(channel.address)
        ):
            self.refused(SERVICE_UNAVAILABLE)
            self._reset_warning.say(
                f"A connection from {getattr(address, 'host', 'this machine')} was reset: there "
                "are too many connections, or too many of one client."
            )
            channel.reset()
            return
        self.channels.add(channel)
        self._shares.acquire(channel.client)
        self._shares_of_addresses.acquire(channel.address)
        self._sweep_if_needed()

    def disconnected(self, channel: BoundedChannel) -> None:
        """Stop counting a connection."""
        if channel in self.channels:
            self.channels.discard(channel)
            self._shares.release(channel.client)
            self._shares_of_addresses.release(channel.address)

    def ended(self, request: BoundedRequest, *, whole: bool) -> None:
        """Report the end of a request to the observers."""
        self._notify(self.request_observers, request, whole)

    def refused(self, status: int) -> None:
        """Report a malformed request to the observers."""
        self._notify(self.refusal_observers, status)

    def _notify(self, observers: Iterable[Callable[..., None]], *arguments: object) -> None:
        for observer in observers:
            try:
                observer(*arguments)
            except Exception:
                self._log.failure("{observer} failed", observer=observer)

    def sweep(self) -> None:
        """Call the `overdue` of each channel whose deadline has passed."""
        now = self.reactor.seconds()
        for channel in [each for each in self.channels if each.deadline <= now]:
            if channel.deadline > now:
                continue  # the call for another channel has moved this deadline
            channel.deadline = inf
            with self._log.failuresHandled("a deadline of {channel} failed", channel=channel):
                channel.overdue()
        self._sweep_if_needed()
