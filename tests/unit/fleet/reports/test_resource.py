"""`POST /report` checks a report, and answers when it is stored."""

import json
from ipaddress import ip_network

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.inbox import Inbox
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.reports.rate_limit import BURST
from opq_twisted.fleet.reports.resource import ReportResource
from opq_twisted.http.client_network import UNKNOWN
from opq_twisted.http.connection_limits import ConnectionLimits
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite
from opq_twisted.report.document import MAX_SIZE
from opq_twisted.report.signature import sign
from tests.helpers.box_fakes import logged
from tests.helpers.http_exchange import Connection, ReactorClock, Response, parse_all
from tests.helpers.reporting_box import NOW, OLD, ReportingBox

_HERE = IPv4Address("TCP", "127.0.0.1", 40000)
_HOME = IPv4Address("TCP", "192.0.2.7", 40000)
_PROXY = IPv6Address("TCP", "2001:db8:ffff::1", 40000)

_TRUSTED = (ip_network("127.0.0.0/8"), ip_network("2001:db8:ffff::/64"))


class FakeInbox(Inbox):
    """Takes reports, and answers when the test says so."""

    def __init__(self) -> None:
        self.taken: list[tuple[Incoming, Deferred[Answer]]] = []

    def put(self, incoming: Incoming) -> Deferred[Answer]:
        self.taken.append((incoming, Deferred()))
        return self.taken[-1][1]

    def answer(self, answer: Answer) -> None:
        """Answer the first report that waits."""
        self.taken.pop(0)[1].callback(answer)


class ResourceTests(SynchronousTestCase):
    """A site that takes reports."""

    def setUp(self) -> None:
        self.said = logged(self)
        self.clock = ReactorClock()
        self.inbox = FakeInbox()
        self.now = NOW
        self.resource = ReportResource(self.clock, self.inbox, lambda: self.now, _TRUSTED)
        root = PlainResource()
        root.putChild(b"report", self.resource)
        self.site = BoundedSite(self.clock, root, ConnectionLimits(trusted=_TRUSTED))
        self.box = ReportingBox()

    def report(self, **fields: object) -> bytes:
        """Write the next report of the box."""
        return self.box.send(**fields).body  # type: ignore[arg-type]

    def connect(self, address: IAddress = _HOME) -> Connection:
        return Connection(self.resource, self.site, address)

    def post(
        self, body: bytes, *headers: str, address: IAddress = _HOME, signed: bool = True
    ) -> Connection:
        """Send a report on a connection of its own."""
        connection = self.connect(address)
        connection.channel.dataReceived(self.request(body, *headers, signed=signed))
        return connection

    def request(self, body: bytes, *headers: str, signed: bool = True) -> bytes:
        lines = ["POST /report HTTP/1.1", "Host: updates.example", f"Content-Length: {len(body)}"]
        lines += [f"Opq-Signature: {sign(self.box.private, body)}"] if signed else []
        return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body

    def assert_refused(self, connection: Connection, status: int, sentence: str) -> Response:
        response = connection.response("POST")
        self.assertEqual((response.status, response.text), (status, sentence + "\n"))
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertEqual(self.inbox.taken, [])
        return response

    def test_taken(self) -> None:
        """A report goes into the inbox with all that is needed to verify it."""
        body = self.report()
        self.post(body)
        [(incoming, _)] = self.inbox.taken
        self.assertEqual(incoming.report.release, OLD)
        self.assertEqual(incoming.body, body)
        self.assertEqual(incoming.signature, sign(self.box.private, body))
        self.assertEqual((incoming.network, incoming.received), ("192.0.2.7", NOW))

    def test_answered(self) -> None:
        """The answer is sent when the inbox has it, as JSON that no cache may keep."""
        connection = self.post(self.report())
        self.assertEqual(connection.transport.value(), b"")
        self.inbox.answer(Answer(200, "stored", {"seq": 1, "done": []}))
        response = connection.response("POST")
        self.assertEqual(response.status, 200)
        self.assertEqual(json.loads(response.body), {"seq": 1, "done": []})
        self.assertEqual(response.headers["Content-Type"], "application/json")
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertNotIn("Retry-After", response.headers)

    def test_no_time_yet(self) -> None:
        """A server that has not got the time yet lets boxes come again, and stores nothing."""
        self.now = 90.0
        sentence = "The report cannot be stored now. Try again in a little while."
        response = self.assert_refused(self.post(self.report()), 503, sentence)
        self.assertIn("Retry-After", response.headers)
        self.assertEqual(self.resource.results, {"clock": 1})

    def test_older_number(self) -> None:
        """A box whose number is too small is told the last one."""
        connection = self.post(self.report())
        self.inbox.answer(Answer(409, "sequence", {"seq": 57}))
        response = connection.response("POST")
        self.assertEqual((response.status, json.loads(response.body)), (409, {"seq": 57}))

    def test_refusals(self) -> None:
        """A refusal has a sentence, and no content."""
        for status, sentence in (
            (401, "The key is not known, or has not signed this: send it as pubkey."),
            (403, "The key is not accepted."),
            (500, "Something went wrong here; the log says what."),
        ):
            connection = self.post(self.report())
            self.inbox.answer(Answer(status, "refused"))
            self.assert_refused(connection, status, sentence)

    def test_later(self) -> None:
        """A box that is to come again is told when."""
        connection = self.post(self.report())
        self.inbox.answer(Answer(503, "queue-full", retry_after=33.3))
        response = connection.response("POST")
        self.assertEqual((response.status, response.headers["Retry-After"]), (503, "33"))
        self.assertIn("Try again", response.text)

    def test_results(self) -> None:
        """Every answer is counted by its result."""
        for answer in (Answer(200, "stored"), Answer(200, "stored"), Answer(503, "queue-full")):
            self.post(self.report())
            self.inbox.answer(answer)
        self.post(b"{}")
        self.assertEqual(self.resource.results, {"stored": 2, "queue-full": 1, "malformed": 1})

    def test_other_methods(self) -> None:
        """Nothing can be read here."""
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            connection = self.connect()
            connection.send(method, "/report")
            response = connection.response(method)
            self.assertEqual((response.status, response.headers["Allow"]), (405, "POST"))

    def test_nothing_below(self) -> None:
        """There is nothing below the path."""
        connection = self.connect()
        connection.send("GET", "/report/7")
        self.assertEqual(connection.response().status, 405)

    def test_malformed(self) -> None:
        """A report that cannot be read is refused with the name of the field, not its value."""
        script = "<script>alert(1)</script>"
        for body, sentence in (
            (b"", "The report is not JSON."),
            (b"\xff\xfe\x00", "The report is not JSON."),
            (b"[" * 16000, "The report is not JSON."),
            (b'{"format": NaN}', "The report is not JSON."),
            (b'{"format": ' + b"9" * 16000 + b"}", "The report is not JSON."),
            (b"[]", "The report is not an object."),
            (b'{"format": 2}', "The report is not of format 1."),
            (self.report(channel=script), "channel has a value that is not allowed."),
            (self.report(seq=-1), "seq has a value that is not allowed."),
            (self.report(seq=2**63), "seq has a value that is not allowed."),
        ):
            self.assert_refused(self.post(body), 400, sentence)
        self.assertEqual(self.resource.results, {"malformed": 10})
        self.assertNotIn(script, "".join(self.said))

    def test_no_signature(self) -> None:
        """A report needs one signature, of the right length and form."""
        body = self.report()
        valid = sign(self.box.private, body)
        sentence = "The header Opq-Signature is missing, or has no signature."
        for headers in (
            [],
            ["Opq-Signature: "],
            ["Opq-Signature: " + valid[:-1]],
            ["Opq-Signature: " + "A" * 4000],
            ["Opq-Signature: " + "\xe4" * 88],
            ["Opq-Signature: " + valid, "Opq-Signature: " + valid],
            [f"Opq-Signature: {valid}, {valid}"],
        ):
            self.assert_refused(self.post(body, *headers, signed=False), 400, sentence)
        self.post(body, "Opq-Signature: " + valid, signed=False)
        self.assertEqual(len(self.inbox.taken), 1)

    def test_any_type(self) -> None:
        """The type of the body may be any or none: its bytes are signed."""
        for headers in ([], ["Content-Type: application/json"], ["Content-Type: text/html"]):
            self.post(self.report(), *headers)
        self.assertEqual(len(self.inbox.taken), 3)

    def test_largest(self) -> None:
        """A report may have 16 KiB, and not one byte more; announced or in chunks."""
        body = self.report()
        self.post(body + b" " * (MAX_SIZE - len(body)))
        self.assertEqual(len(self.inbox.taken), 1)
        large = body + b" " * (MAX_SIZE - len(body) + 1)
        self.assertEqual(self.post(large).response("POST").status, 413)
        connection = self.connect()
        connection.channel.dataReceived(
            b"POST /report HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
        )
        self.assertEqual(connection.response("POST").status, 413)
        self.assertEqual(len(self.inbox.taken), 1)

    def test_shorter_than_announced(self) -> None:
        """A report that ends early is not taken; the connection is closed in time."""
        connection = self.connect()
        connection.channel.dataReceived(self.request(self.report())[:-1])
        self.clock.advance(61)
        self.site.sweep()
        self.assertTrue(connection.transport.disconnecting)
        self.assertEqual(self.inbox.taken, [])

    def test_byte_by_byte(self) -> None:
        """A client that sends a byte a second does not keep its connection."""
        connection = self.connect()
        for byte in self.request(self.report()):
            if connection.transport.disconnecting:
                break
            connection.channel.dataReceived(bytes([byte]))
            self.clock.advance(1)
            self.site.sweep()
        self.assertTrue(connection.transport.disconnecting)
        self.assertLess(self.clock.seconds(), 62)
        self.assertEqual(self.inbox.taken, [])

    def test_pipelined(self) -> None:
        """Of the reports on one connection, one is taken at a time."""
        connection = self.connect()
        connection.channel.dataReceived(b"".join(self.request(self.report()) for _ in "123"))
        for seq in (1, 2, 3):
            [(incoming, _)] = self.inbox.taken
            self.assertEqual(incoming.report.seq, seq)
            self.inbox.answer(Answer(200, "stored", {"seq": seq}))
        answers = parse_all(connection.transport.value(), "POST")
        self.assertEqual([json.loads(each.body)["seq"] for each in answers], [1, 2, 3])

    def test_gone(self) -> None:
        """A report is stored, and counted, even if its sender goes away before the answer."""
        connection = self.post(self.report())
        connection.lose()
        self.inbox.answer(Answer(200, "stored"))
        self.assertEqual(connection.transport.value(), b"")
        self.assertEqual(self.resource.results, {"stored": 1})

    def test_no_answer(self) -> None:
        """No connection waits for ever."""
        connection = self.post(self.report())
        self.clock.advance(61)
        self.site.sweep()
        self.assertTrue(connection.transport.disconnected)

    def test_many_from_a_network(self) -> None:
        """A network that sends too many is told to come later; another is not affected."""
        for _ in range(BURST):
            self.post(self.report())
        self.assertEqual(len(self.inbox.taken), BURST)
        response = self.post(self.report()).response("POST")
        self.assertEqual(response.status, 429)
        self.assertTrue(10 <= int(response.headers["Retry-After"]) <= 60)
        self.post(self.report(), address=IPv4Address("TCP", "192.0.2.8", 1))
        self.assertEqual(len(self.inbox.taken), BURST + 1)
        self.assertEqual(self.resource.results, {"too-many": 1})

    def networks(self, address: IAddress, *headers: str) -> str:
        self.post(self.report(), *headers, address=address)
        return self.inbox.taken.pop()[0].network

    def test_network(self) -> None:
        """The network of a client that connects itself is that of its address."""
        self.assertEqual(self.networks(_HOME), "192.0.2.7")
        ipv6 = IPv6Address("TCP", "2001:db8:7:7:1:2:3:4", 1)
        self.assertEqual(self.networks(ipv6), "2001:db8:7:7::/64")
        mapped = IPv6Address("TCP", "::ffff:192.0.2.9", 1)
        self.assertEqual(self.networks(mapped), "192.0.2.9")

    def test_forged_network(self) -> None:
        """Only a trusted proxy is believed when it names another."""
        self.assertEqual(self.networks(_HOME, "X-Forwarded-For: 198.51.100.1"), "192.0.2.7")

    def test_network_behind_proxies(self) -> None:
        """Behind trusted proxies, it is the address that the first of them has seen."""
        for proxy in (_HERE, _PROXY):
            for forwarded, network in (
                ("198.51.100.1", "198.51.100.1"),
                ("192.0.2.1, 198.51.100.1", "198.51.100.1"),
                ("192.0.2.1, 198.51.100.1, 2001:db8:ffff::2", "198.51.100.1"),
                ("2001:db8:7:7::9", "2001:db8:7:7::/64"),
                ("198.51.100.1:49152", "198.51.100.1"),
                ("[2001:db8:7:7::9]:49152", "2001:db8:7:7::/64"),
                ("[2001:db8:7:7::9]", "2001:db8:7:7::/64"),
                ("127.0.0.1", ""),
                ("127.0.0.1:80, :80, []", ""),
                ("", ""),
                (", ,", ""),
                ("x" * 5000, UNKNOWN),
                ("198.51.100.1, \x1b[31m", UNKNOWN),
                ("198.51.100.1%\x1b[31m", "198.51.100.1"),
            ):
                found = self.networks(proxy, f"X-Forwarded-For: {forwarded}")
                self.assertEqual(found, network)

    def test_this_machine(self) -> None:
        """A program on this machine, and a proxy that names nobody, have no limit of their own."""
        for _ in range(2 * BURST):
            self.assertEqual(self.networks(_HERE), "")
