"""A resource tree, served to a bounded number of connections at once."""

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
from opq_twisted.http.connection_limits import Limits, Shares
from opq_twisted.http.request import BoundedRequest

#: What stands for an answer's status when the client went away before there was one, as in nginx.
CLIENT_GONE = 499

#: Seconds between two looks at the deadlines of all connections.
_GLANCE = 0.5


class BoundedSite(Site):
    """
    Serves a resource tree, and ends what lasts too long.

    It writes no line for each request: a box keeps its log on an SD card. Who wants to know of them
    joins the observers.
    """

    _log = Logger()
    #: The port says that it listens; a second line for that has no use.
    noisy = False

    def __init__(
        self, reactor: IReactorTime, root: IResource, limits: Limits | None = None
    ) -> None:
        super().__init__(
            root,
            requestFactory=BoundedRequest,
            timeout=None,
            reactor=reactor,
            # A body of a form is nothing that any resource here asks for.
            parsePOSTFormSubmission=False,
        )
        self.protocol = BoundedChannel  # type: ignore[assignment,method-assign]
        self._limits = Limits() if limits is None else limits
        self._shares = Shares(self._limits.connections, self._limits.each)
        self._shares_of_addresses = Shares(self._limits.connections, self._limits.each_address)
        self._turned_away = RepeatedLine(reactor, self._warn)
        #: Called at the end of each request, with whether its client got the whole answer.
        self.request_observers: list[Callable[[BoundedRequest, bool], None]] = []
        #: Called with the status of each answer to what is no proper request.
        self.refusal_observers: list[Callable[[int], None]] = []
        self.channels: set[BoundedChannel] = set()
        self._second = -1
        self._date = b""
        self._served = False
        self._sweeping = LoopingCall(self.sweep)
        self._sweeping.clock = reactor

    def startFactory(self) -> None:
        """Look at deadlines from now on, while there are any: who has nothing to do sleeps."""
        super().startFactory()
        self._served = True
        self._sweep_if_needed()

    def stopFactory(self) -> None:
        """Look at them no more."""
        super().stopFactory()
        self._served = False
        self._sweep_if_needed()

    def _sweep_if_needed(self) -> None:
        needed = self._served and bool(self.channels)
        if needed and not self._sweeping.running:
            self._sweeping.start(_GLANCE, now=False)
        elif not needed and self._sweeping.running:
            self._sweeping.stop()

    def _updateLogDateTime(self) -> None:
        """Keep no time, once a second, for lines that are not written."""

    def date(self) -> bytes:
        """Now, as the Date header has it."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._date = datetimeToString(second)
        return self._date

    def acceptableProtocols(self) -> list[bytes]:
        """Offer nothing but what the channel speaks, whatever else is installed."""
        return [b"http/1.1"]

    def log(self, request: object) -> None:
        """Write nothing: `ended` tells of requests that were cut too."""

    def connected(self, channel: BoundedChannel) -> None:
        """
        Count a connection, or reset it at once when there are too many.

        It is not told so: until it had taken that, it would use what there is too little of.
        """
        address = channel.transport.getPeer()
        channel.client = self._limits.client(address)
        channel.address = None if channel.client is None else address.host
        if channel.descriptor() >= self._limits.first_reserved or not (
            self._shares.has_room(channel.client)
            and self._shares_of_addresses.has_room(channel.address)
        ):
            self.refused(SERVICE_UNAVAILABLE)
            self._turned_away.say(
                f"A connection from {getattr(address, 'host', 'this machine')} was reset: there "
                "are too many connections, or too many of one client."
            )
            channel.reset()
            return
        self.channels.add(channel)
        self._shares.take(channel.client)
        self._shares_of_addresses.take(channel.address)
        self._sweep_if_needed()

    def disconnected(self, channel: BoundedChannel) -> None:
        """Count it no more."""
        if channel in self.channels:
            self.channels.discard(channel)
            self._shares.give_back(channel.client)
            self._shares_of_addresses.give_back(channel.address)

    def _warn(self, line: str) -> None:
        self._log.warn("{line}", line=line)

    def ended(self, request: BoundedRequest, *, whole: bool) -> None:
        """Tell the observers of a request."""
        self._tell(self.request_observers, request, whole)

    def refused(self, status: int) -> None:
        """Tell the observers of what was no proper request."""
        self._tell(self.refusal_observers, status)

    def _tell(self, observers: Iterable[Callable[..., None]], *what: object) -> None:
        for observer in observers:
            try:
                observer(*what)
            except Exception:
                self._log.failure("{observer} failed", observer=observer)

    def sweep(self) -> None:
        """End what has lasted too long."""
        now = self.reactor.seconds()
        for channel in [each for each in self.channels if each.deadline <= now]:
            if channel.deadline > now:
                continue  # another one's end has put it off
            channel.deadline = inf
            with self._log.failuresHandled("a deadline of {channel} failed", channel=channel):
                channel.overdue()
        self._sweep_if_needed()
