"""Listens for HTTP on a port, or explains in a sentence why it cannot."""

import errno
import os

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from opq_twisted.common.errors import CannotStart
from opq_twisted.http.endpoints import RobustEndpoint
from opq_twisted.http.port import make_endpoint, no_such_port, reason, url_of
from opq_twisted.http.site import BoundedSite


class Listener(MultiService):
    """Listens for HTTP on a port; if it cannot, the process ends with a sentence that says why."""

    def __init__(self, port: str, site: BoundedSite, option: str = "--port") -> None:
        """
        :param port: a TCP port number, or any endpoint description that Twisted knows.
        :param option: the option that the port comes from.
        :raises CannotStart: if it is neither.
        """
        super().__init__()
        self._port = port
        self._option = option
        try:
            endpoint = make_endpoint(port)
        except Exception as error:  # the endpoint parsers and OpenSSL raise many types
            raise no_such_port(port, error, option) from None
        self._service = StreamServerEndpointService(RobustEndpoint(site.reactor, endpoint), site)
        self._service._raiseSynchronously = True  # as `twisted.application.strports` does
        self._service.setServiceParent(self)
        #: Where the server listens, once it does.
        self.url = ""

    def privilegedStartService(self) -> None:
        """Bind the port; raise `CannotStart` if it is in use or forbidden."""
        try:
            super().privilegedStartService()
            assert self._service._waitingForPort is not None
            self._service._waitingForPort.addCallback(self._listening)
        except (CannotListenError, OverflowError, OSError, TypeError) as error:
            why, remedy = reason(error), "Stop what listens there"
            if why == os.strerror(errno.EACCES):
                remedy = "Allow this user ports below 1024 (CAP_NET_BIND_SERVICE)"
            raise CannotStart(
                f"Cannot listen on port {self._port}: {why}. {remedy}, or choose "
                f"another {self._option}."
            ) from None

    def _listening(self, port: IListeningPort) -> IListeningPort:
        self.url = url_of(port, self._port)
        return port
