"""Listens for HTTP on a port, or says in a sentence why it cannot."""

from contextlib import suppress

from twisted.application import strports
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError

from opq_twisted.errors import CannotStart
from opq_twisted.http.endpoint import RobustEndpoint
from opq_twisted.http.site import BoundedSite

#: Connections that the kernel keeps until they are accepted; Twisted's 50 is soon full when a fleet
#: comes back after a power cut.
_BACKLOG = 4096


class Listener(MultiService):
    """Listens for HTTP on a port, or ends the process with a sentence that says why it cannot."""

    def __init__(self, port: str, site: BoundedSite) -> None:
        """
        Prepare to listen.

        :param port: a TCP port number, or any endpoint description that Twisted knows.
        :raises CannotStart: when it is neither.
        """
        super().__init__()
        self._port = port
        description = f"tcp:{port}" if port.isdecimal() else port
        try:
            service = _service(description, site)
        except Exception as error:  # whatever the parsers of endpoints, and OpenSSL, may raise
            raise CannotStart(
                f"--port {port}: {error}. Give a TCP port number, or a Twisted endpoint "
                r"description such as tcp6:8151:interface=\:\:."
            ) from None
        service.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """
        Bind the port.

        :raises CannotStart: when the port is busy or may not be used.
        """
        try:
            super().privilegedStartService()
        except (CannotListenError, OverflowError, OSError) as error:
            reason = str(getattr(error, "socketError", error)).rstrip(".")
            raise CannotStart(
                f"Cannot listen on port {self._port}: {reason}. "
                "Stop what listens there, or choose another --port."
            ) from None


def _service(description: str, site: BoundedSite) -> StreamServerEndpointService:
    service = _twisted_service(description, site)
    service.endpoint = RobustEndpoint(site.reactor, service.endpoint)
    return service


def _twisted_service(description: str, site: BoundedSite) -> StreamServerEndpointService:
    if description.startswith(("tcp:", "tcp6:", "ssl:")) and ":backlog=" not in description:
        # The description may say another by its place.
        with suppress(TypeError):
            return strports.service(f"{description}:backlog={_BACKLOG}", site)
    return strports.service(description, site)
