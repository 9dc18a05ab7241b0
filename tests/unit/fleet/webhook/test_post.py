"""A message on its way to a receiver, with real connections."""

import os
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from opq_twisted import __version__
from opq_twisted.fleet.webhook.outbox import Event, Notice, make_body
from opq_twisted.fleet.webhook.post import (
    TIMEOUT,
    NotAccepted,
    Poster,
    Receiver,
    make_agent,
    sign,
)
from opq_twisted.fleet.webhook.schedule import Message
from tests.helpers import webhook_receiver
from tests.helpers.certificates import make_certificate
from tests.helpers.fleet_rows import NOW
from tests.helpers.webhook_receiver import OK, answer

SECRET = "0123456789abcdef"


class PosterTests(TestCase):
    """A receiver on this machine."""

    def setUp(self) -> None:
        self.clock = Clock()
        told = Notice(Event.HELD, "It is held \u2013 look.")
        self.message = Message(1, make_body(NOW, told), 1)

    def receive(self, *answers: bytes, tls: bool = False) -> None:
        context = None
        if tls:
            key, self.certificate = Path(self.mktemp()), Path(self.mktemp())
            make_certificate(key, self.certificate)
            context = DefaultOpenSSLContextFactory(str(key), str(self.certificate))
        self.receiver = webhook_receiver.Receiver(reactor, *answers, tls=context)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.receiver.stop()))

    async def post(self, secret: str | None = SECRET) -> None:
        url = f"{self.receiver.origin}/hooks/s3same?a=b"
        poster = Poster(self.clock, make_agent(reactor), Receiver(url, secret), lambda: NOW)
        self.name = poster.receiver.name
        await poster.post(self.message)

    async def refused(self, posted: Deferred[None] | None = None) -> NotAccepted:
        with self.assertRaises(NotAccepted) as caught:
            await (posted or self.post())
        error: NotAccepted = caught.exception
        self.assertNotIn("s3same", f"{error}{self.name}")
        return error

    async def test_request(self) -> None:
        """The request has the message as it is, the signature, the event and the delivery."""
        self.receive()
        await self.post()
        [request] = self.receiver.requests
        self.assertEqual(request.line, "POST /hooks/s3same?a=b HTTP/1.1")
        self.assertEqual(request.body, self.message.body.encode())
        expected = {
            "Content-Type": "application/json",
            "User-Agent": f"opq-update-server/{__version__}",
            "Opq-Event": "held",
            "Opq-Delivery": self.message.delivery,
            "Opq-Signature": sign(request.body, int(NOW), SECRET),
        }
        self.assertEqual({**request.headers, **expected}, request.headers)
        self.assertEqual(self.name, self.receiver.origin)

    async def test_no_secret(self) -> None:
        """Without a secret there is no signature."""
        self.receive()
        await self.post(secret=None)
        [request] = self.receiver.requests
        self.assertNotIn("Opq-Signature", request.headers)

    async def test_success(self) -> None:
        """Any status of success is one."""
        self.receive(answer("200 OK", body=b"ok"), answer("202 Accepted"), OK)
        for _ in range(3):
            await self.post()

    async def test_refused(self) -> None:
        """Any other status is a failure; redirects are not followed."""
        refusals = {
            "500 x": "it answers with status 500",
            "404 x": "it answers with status 404",
            "301 x": "it answers with status 301, and redirects are not followed",
        }
        self.receive(*(answer(status, "Location: /other") for status in refusals))
        for why in refusals.values():
            self.assertEqual(str(await self.refused()), why)
        self.assertEqual(len(self.receiver.requests), 3)

    async def test_retry_after(self) -> None:
        """The time that a busy receiver names is passed on."""
        self.receive(answer("503 x", "Retry-After: 90"), answer("503 x", "Retry-After: soon"))
        self.assertEqual((await self.refused()).retry_after, 90)
        self.assertEqual((await self.refused()).retry_after, 0)

    async def test_nobody(self) -> None:
        """A port where nobody listens."""
        self.receive()
        await self.receiver.stop()
        error = await self.refused()
        self.assertEqual(str(error), "no server answers there")

    async def test_silence(self) -> None:
        """A receiver that does not answer has failed after ten seconds."""
        self.receive(b"")
        arrived = self.receiver.next_request()
        posted = Deferred.fromCoroutine(self.post())
        await arrived
        self.clock.advance(TIMEOUT)
        self.assertEqual(str(await self.refused(posted)), "it has not answered within 10 seconds")

    async def test_status_is_enough(self) -> None:
        """A receiver that does not end its answer has taken the message."""
        self.receive(answer("200 OK", "Content-Length: 9", body=b"x"))
        await self.post()

    async def test_endless_headers(self) -> None:
        """An answer whose headers do not end is broken off."""
        self.receive(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000)
        await self.refused()

    async def test_no_http(self) -> None:
        """A receiver that does not speak HTTP."""
        self.receive(b"220 mail.example.org ESMTP\r\n")
        self.assertEqual(str(await self.refused()), "its answer is not HTTP")

    async def test_trusted(self) -> None:
        """A certificate that the machine trusts is accepted."""
        self.receive(tls=True)
        os.environ["SSL_CERT_FILE"] = str(self.certificate)
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE")
        await self.post()

    async def test_untrusted(self) -> None:
        """Any other certificate is refused, before the message is sent."""
        self.receive(tls=True)
        error = await self.refused()
        self.assertIn("its certificate is not trusted here", str(error))
        self.assertEqual(self.receiver.requests, [])

    async def test_cancelled(self) -> None:
        """A request that is broken off ends at once."""
        self.receive(b"")
        arrived = self.receiver.next_request()
        posted = Deferred.fromCoroutine(self.post())
        await arrived
        posted.cancel()
        await self.refused(posted)
