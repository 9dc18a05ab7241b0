"""The body of a request that is written at once."""

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer


@implementer(IBodyProducer)
class SmallBody:
    """The body of a request that is written at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See `IBodyProducer`."""
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        """See `IBodyProducer`; nothing is left to write."""

    def resumeProducing(self) -> None:
        """See `IBodyProducer`; nothing is left to write."""

    def stopProducing(self) -> None:
        """See `IBodyProducer`; nothing is left to write."""
