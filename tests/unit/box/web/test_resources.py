"""The responses of the box's server for its page, for programs, and for attackers."""

import errno
import gc
import json
import re
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource

from opq_twisted.archive.release import Release
from opq_twisted.box.report.record import ReportRecord, SentReport
from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Progress
from opq_twisted.box.web.auth import BasicAuth
from opq_twisted.box.web.branding import read_branding
from opq_twisted.box.web.csrf import CsrfCheck
from opq_twisted.box.web.resources import make_root
from opq_twisted.common import files
from opq_twisted.common.errors import ServerFailed
from tests.helpers.box_fakes import NEW, OLD, Bench
from tests.helpers.http_exchange import Connection, Response

CURL = "User-Agent: curl/8.5.0"
#: The requests that change the state of the box.
ACTIONS = ("GET /box_update", "POST /box_update", "POST /check", "POST /forgive")
FORM = "Accept: text/html,application/xhtml+xml"


class WebCase(SynchronousTestCase):
    """The box's server, with connections in memory."""

    def setUp(self) -> None:
        self.bench = Bench(Path(self.mktemp())).start()
        self.reports = ReportRecord()
        # The host of the connection's requests.
        self.root = self.make_root("box.example")

    def make_root(self, *hosts: str, basic_auth: BasicAuth | None = None) -> IResource:
        bench = self.bench
        return make_root(
            bench.clock,
            bench.updater,
            bench.board,
            hosts,
            CsrfCheck(),
            basic_auth,
            bench.config.log,
            bench.clock.seconds,
            read_branding(bench.config.page, bench.folder / "current"),
            self.reports,
        )

    def send(self, method: str, path: str, *headers: str, body: str = "") -> Connection:
        connection = Connection(self.root)
        connection.send(method, path, *headers)
        connection.channel.dataReceived(body.encode())
        return connection

    def ask(self, method: str, path: str, *headers: str, body: str = "") -> Response:
        return self.send(method, path, *headers, body=body).response(method)

    def refuse(self) -> None:
        """Record an update that failed because of its release."""
        release = Release(NEW, 10, {"sha256": "ab" * 32})
        self.bench.journal.block(release, "It ended with 1.")
        attempt = Attempt(NEW, 1.0, 2.0, "failed", "It ended with 1.", 1)
        self.bench.journal.end(Stage.FAILED, attempt)

    def said(self, answer: Response) -> Any:
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        return json.loads(answer.body)


class PageTests(WebCase):
    """The page."""

    def test_page(self) -> None:
        """The page shows the box and has the button, also without its script."""
        self.bench.board.publish(available=NEW, last_check=1.0, update_available=True)
        answer = self.ask("GET", "/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(self.forms(), {"update", "checks"})
        for shown in (f'title="Release {OLD}">14 November', f'title="Release {NEW}">14 November'):
            self.assertIn(shown, answer.text)
        self.assertIn(">An update is available<", answer.text)

    def forms(self) -> set[str]:
        """The forms that the page shows; each has a button."""
        text = self.ask("GET", "/").text
        return set(
            re.findall(r'<form method="post" action="\w+"(?: data-question="")? id="(\w+)" >', text)
        )

    def test_busy(self) -> None:
        """During an update there is no button."""
        self.bench.updater.begin()
        self.assertEqual(self.forms(), set())
        text = self.ask("GET", "/").text
        self.assertIn('<li aria-current="step"><span>Check</span></li><li><span>Down', text)

    def test_actions(self) -> None:
        """The page has the button that makes sense; an up-to-date box may be asked to check."""
        self.bench.board.publish(available=None, message="", last_check=None)
        self.assertEqual(self.forms(), {"check"})
        self.bench.board.publish(available=OLD, last_check=NEW)
        self.assertEqual(self.forms(), {"checks"})

    def test_box(self) -> None:
        """The header and the title name the box."""
        self.bench.board.publish(name="<Kitchen>", box_id=7)
        text = self.ask("GET", "/").text
        self.assertIn("<strong>&lt;Kitchen&gt;</strong>", text)
        self.assertRegex(text, "<title>[^<]+ · &lt;Kitchen&gt; 7 · OPQ Box</title>")
        self.assertIn("hidden>This box has no number.", text)
        self.bench.board.publish(box_id=0)
        self.assertIn(">This box has no number.", self.ask("GET", "/").text)

    def test_without_script(self) -> None:
        """During an update a browser without JavaScript reloads the page."""
        again = '<noscript><meta http-equiv="refresh"'
        self.assertNotIn(again, self.ask("GET", "/").text)
        self.bench.updater.begin()
        self.assertIn(again, self.ask("GET", "/").text)

    def test_history(self) -> None:
        """The last attempts are listed, newest first, with their reasons escaped."""
        self.assertIn('data-past="0" hidden>', self.ask("GET", "/").text)
        reasons = ("Nobody is there.", "<b>Nobody</b>", "Two.", "Three.", "Four.")
        for reason in reasons:
            self.bench.updater.begin()
            self.bench.steps.fail(ServerFailed(reason))
        text = self.ask("GET", "/").text
        # The headline is about the last one.
        self.assertEqual(text.count("Four."), 1)
        recent, earlier = text[text.index('id="history"') :].split("<details >")
        self.assertEqual(re.findall("<p>([^<]*)</p>", recent), ["Three.", "Two."])
        self.assertEqual(
            re.findall("<p>([^<]*)</p></li>", earlier),
            ["&lt;b&gt;Nobody&lt;/b&gt;", "Nobody is there."],
        )

    def test_unknown(self) -> None:
        """Unknown values are shown as unknown."""
        self.bench.board.publish(installed=None)
        self.assertIn('<dd id="installed">unknown</dd>', self.ask("GET", "/").text)

    def test_unsigned(self) -> None:
        """Only a box that installs unsigned releases says so."""
        self.assertIn('id="unsigned" >This box installs', self.ask("GET", "/").text)
        self.bench.board.publish(unsigned=False)
        self.assertIn('id="unsigned" hidden>This box installs', self.ask("GET", "/").text)

    def test_markup(self) -> None:
        """Text from a server or an archive is escaped."""
        self.bench.board.publish(message="<script>alert('&$stage')</script>")
        text = self.ask("GET", "/").text
        self.assertNotIn("<script>alert", text)
        self.assertIn("&lt;script&gt;alert(&#x27;&amp;$stage&#x27;)&lt;/script&gt;", text)

    def test_security_headers(self) -> None:
        """The page loads only its own files, and cannot be framed."""
        headers = self.ask("GET", "/").headers
        policy = headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"):
            self.assertIn(rule, policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(headers["Referrer-Policy"], "same-origin")
        self.assertEqual(headers["Cache-Control"], "no-store")

    def test_logo(self) -> None:
        """A logo that is opened by itself runs no script, and loads nothing."""
        headers = self.ask("GET", "/icon.svg").headers
        self.assertEqual(headers["Content-Type"], "image/svg+xml")
        for rule in ("default-src 'none'", "sandbox"):
            self.assertIn(rule, headers["Content-Security-Policy"])

    def test_files(self) -> None:
        """The page's files are served, and no other file of the folder."""
        for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript")):
            with self.subTest(path=path):
                answer = self.ask("GET", path)
                self.assertEqual(answer.status, 200)
                self.assertEqual(answer.headers["Content-Type"], f"{kind}; charset=utf-8")
                self.assertTrue(answer.body)
        for path in ("/index.html", "/page/", "/../web.py", "/%2e%2e/web.py", "/version/x"):
            with self.subTest(path=path):
                self.assertEqual(self.ask("GET", path).status, 404)


class StatusTests(WebCase):
    """The resources for programs."""

    def test_version(self) -> None:
        """The installed version is sent in the older daemon's format."""
        answer = self.ask("GET", "/version")
        self.assertEqual((answer.status, self.said(answer)), (200, {"version": OLD}))

    def test_version_unknown(self) -> None:
        """The version is null if it is unknown."""
        self.bench.board.publish(installed=None)
        self.assertEqual(self.said(self.ask("GET", "/version")), {"version": None})

    def test_status(self) -> None:
        """The status has all fields."""
        self.bench.updater.begin()
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.bench.board.publish(
            progress=Progress(5, 10, 2.5), available=NEW, update_available=True, next_check=1.5
        )
        said = self.said(self.ask("GET", "/status"))
        self.assertEqual(said.pop("page")["headline"], "The last update failed")
        self.assertEqual(
            said,
            {
                "name": "",
                "box_id": 0,
                "installed": OLD,
                "available": NEW,
                "update_available": True,
                "held": False,
                "size": None,
                "notes": None,
                "stage": "failed",
                "stage_since": NEW,
                "stage_took": {},
                "progress": {"received": 5, "total": 10, "rate": 2.5, "here": 0},
                "message": "Nobody is there.",
                "trouble": "Nobody is there.",
                "unsigned": True,
                "last_check": NEW,
                "next_check": 1.5,
                "last_attempt": {
                    "version": None,
                    "started": NEW,
                    "ended": NEW,
                    "outcome": "failed",
                    "reason": "Nobody is there.",
                    "id": 1,
                    "size": None,
                    "fetched": None,
                    "uuid": self.bench.journal.entry.uuid,
                    "previous": OLD,
                    "automatic": False,
                    "stage": "checking",
                    "tries": 1,
                    "code": "server",
                    "reported": False,
                },
                "last_took": None,
                "fingerprint": None,
                "last_report": None,
                "report_answer": "",
            },
        )

    def test_history(self) -> None:
        """Programs get the last attempts, oldest first, and the blocked releases."""
        self.assertEqual(self.said(self.ask("GET", "/history")), {"attempts": [], "refused": []})
        self.refuse()
        said = self.said(self.ask("GET", "/history"))
        self.assertEqual([each["outcome"] for each in said["attempts"]], ["failed"])
        self.assertEqual(
            said["refused"],
            [{"version": NEW, "sha256": "ab" * 32, "reason": "It ended with 1."}],
        )

    def test_report(self) -> None:
        """The last report is shown word for word, to programs and on the page."""
        nothing = {"fingerprint": None, "last": None}
        self.assertEqual(self.said(self.ask("GET", "/report")), nothing)
        self.assertIn("<p >This box sends no reports", self.ask("GET", "/").text)
        last = SentReport('{"a":"<b>"}', 5.0, "It is <accepted>.")
        self.reports.fingerprint, self.reports.last = "ab" * 16, last
        said = self.said(self.ask("GET", "/report"))
        shown = {"body": '{"a":"<b>"}', "sent": 5.0, "answer": "It is <accepted>."}
        self.assertEqual(said, {"fingerprint": "ab" * 16, "last": shown})
        text = self.ask("GET", "/").text
        self.assertIn("<p hidden>This box sends no reports", text)
        self.assertIn("{\n  &quot;a&quot;: &quot;&lt;b&gt;&quot;\n}</pre>", text)
        self.assertIn("It is &lt;accepted&gt;.", text)
        self.assertEqual(self.ask("POST", "/report", CURL, "Content-Length: 0").status, 405)

    def test_head(self) -> None:
        """HEAD has the headers of GET, and no body."""
        for path in ("/", "/version", "/status", "/page.css"):
            with self.subTest(path=path):
                got, head = self.ask("GET", path), self.ask("HEAD", path)
                self.assertEqual((head.status, head.body), (200, b""))
                self.assertEqual(head.headers["Content-Length"], got.headers["Content-Length"])

    def test_other_methods(self) -> None:
        """Unknown resources get 404 and other methods 405."""
        for method, path, allowed in (
            ("POST", "/status", "GET, HEAD"),
            ("DELETE", "/", "GET, HEAD"),
            ("GET", "/check", "POST"),
            ("HEAD", "/check", "POST"),
            ("PUT", "/box_update", "GET, HEAD, POST"),
        ):
            with self.subTest(method=method, path=path):
                answer = self.ask(method, path)
                self.assertEqual((answer.status, answer.headers["Allow"]), (405, allowed))
        self.assertEqual(self.bench.steps.begun, [])


class UnblockTests(WebCase):
    """`/forgive`."""

    def forgive(self, body: str) -> Response:
        return self.ask("POST", "/forgive", f"Content-Length: {len(body)}", body=body)

    def test_forgiven(self) -> None:
        """A blocked release is unblocked, and not a second time."""
        self.refuse()
        said = self.said(self.forgive(f"release={NEW}"))
        self.assertEqual(said, {"status": f"Release {NEW} may be tried again."})
        self.assertEqual(self.bench.journal.entry.refused, ())
        answer = self.forgive(f"release={NEW}")
        self.assertEqual(answer.status, 404)
        self.assertEqual(self.said(answer), {"status": f"Release {NEW} is not blocked."})

    def test_no_release(self) -> None:
        """A malformed version gets 400."""
        for body in ("", "release=", "release=x", "release=-1", "release=%ff", "&" * 100, "r=1"):
            with self.subTest(body=body):
                answer = self.forgive(body)
                self.assertEqual(answer.status, 400)
                self.assertIn("release=VERSION", self.said(answer)["status"])


class UpdateBoxTests(WebCase):
    """`/box_update`."""

    def test_begins(self) -> None:
        """GET and POST start an update, and report when there is something to install."""
        for method in ("GET", "POST"):
            with self.subTest(method=method):
                self.bench.restart()
                self.setUp()
                connection = self.send(method, "/box_update", CURL)
                self.assertEqual(self.bench.status.stage, Stage.CHECKING)
                self.bench.steps.succeed(NEW)
                self.bench.clock.advance(0)
                answer = connection.response(method)
                self.assertEqual(answer.status, 202)
                self.assertEqual(
                    self.said(answer),
                    {"status": f"The update to {NEW} has begun.", "stage": "downloading"},
                )

    def test_under_way(self) -> None:
        """A second click gets 409 with the stage."""
        self.send("POST", "/box_update")
        for method in ("GET", "POST"):
            with self.subTest(method=method):
                answer = self.ask(method, "/box_update", CURL)
                self.assertEqual(answer.status, 409)
                self.assertEqual(
                    self.said(answer),
                    {"status": "An update is under way already: checking.", "stage": "checking"},
                )
        self.assertEqual(self.bench.steps.names, ["newest"])

    def test_up_to_date(self) -> None:
        """A box that is up to date says so."""
        for newest, sentence in (
            (OLD, "The box is up to date."),
            (None, "The update server has no update."),
        ):
            with self.subTest(newest=newest):
                connection = self.send("POST", "/box_update")
                self.bench.steps.succeed(newest)
                answer = connection.response()
                self.assertEqual(answer.status, 200)
                self.assertEqual(self.said(answer), {"status": sentence, "stage": "idle"})

    def test_slow_server(self) -> None:
        """A click does not wait long for the update server; the update goes on without it."""
        connection = self.send("POST", "/box_update")
        self.bench.clock.advance(1.999)
        self.assertEqual(connection.transport.value(), b"")
        self.bench.clock.advance(0.001)
        answer = connection.response()
        self.assertEqual(answer.status, 202)
        self.assertEqual(self.said(answer)["status"], "The update server is being asked.")
        self.bench.steps.succeed(NEW)
        self.bench.clock.advance(0)
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])

    def test_fails(self) -> None:
        """The response of an update that fails at once has the reason."""
        connection = self.send("POST", "/box_update")
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        answer = connection.response()
        self.assertEqual(self.said(answer)["stage"], "failed")
        self.assertEqual(self.said(answer)["status"], "The update failed: Nobody is there.")

    def test_disk_full(self) -> None:
        """An update that cannot even begin answers with the reason, too."""

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(files, "write", fail)
        answer = self.ask("POST", "/box_update")
        self.assertEqual(
            self.said(answer)["status"],
            "The update failed: The box's disk is full. Make room, and try again.",
        )

    def test_form(self) -> None:
        """Without JavaScript the button leads back to the page, whatever the result is."""
        connection = self.send("POST", "/box_update", FORM)
        second = self.ask("POST", "/box_update", FORM)
        self.bench.steps.succeed(OLD)
        for answer in (second, connection.response()):
            self.assertEqual((answer.status, answer.headers["Location"]), (303, "./"))

    def test_browser_by_get(self) -> None:
        """GET, as in the older interface, gets JSON."""
        connection = self.send("GET", "/box_update", FORM, CURL)
        self.bench.steps.succeed(OLD)
        self.assertEqual(self.said(connection.response())["status"], "The box is up to date.")

    def test_head(self) -> None:
        """HEAD starts nothing."""
        answer = self.ask("HEAD", "/box_update")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(self.bench.steps.begun, [])

    def test_client_gone(self) -> None:
        """A client that disconnects before the response changes nothing."""
        connection = self.send("POST", "/box_update")
        connection.channel.connectionLost(Failure(ConnectionDone()))
        self.bench.steps.succeed(NEW)
        self.bench.clock.advance(0)
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])
        self.assertEqual(connection.transport.value(), b"")
        # A failure that nobody handled would be logged now, and fail the test.
        gc.collect()


class CheckTests(WebCase):
    """`/check`."""

    def test_available(self) -> None:
        """A check returns the available release, and installs nothing."""
        connection = self.send("POST", "/check")
        self.bench.steps.succeed(NEW)
        answer = connection.response()
        self.assertEqual(answer.status, 200)
        self.assertEqual(
            self.said(answer),
            {"installed": OLD, "available": NEW, "status": f"Release {NEW} is available."},
        )
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_server_fails(self) -> None:
        """If the update server does not answer, the response has the reason."""
        connection = self.send("POST", "/check")
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        answer = connection.response()
        self.assertEqual((answer.status, self.said(answer)), (502, {"status": "Nobody is there."}))

    def test_disk_fails(self) -> None:
        """If the box's disk fails, the response says so."""
        connection = self.send("POST", "/check")
        self.bench.steps.fail(OSError(28, "No space left on device"))
        answer = connection.response()
        said = {"status": "The box's disk is full. Make room, and try again."}
        self.assertEqual((answer.status, self.said(answer)), (502, said))

    def test_unforeseen(self) -> None:
        """An unexpected error is logged, and the client gets a response."""
        connection = self.send("POST", "/check")
        self.bench.steps.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        answer = connection.response()
        self.assertEqual((answer.status, answer.text), (500, "The agent failed; see its log.\n"))

    def test_during_update(self) -> None:
        """A check during an update shares the result of the update's own check."""
        self.bench.updater.begin()
        connection = self.send("POST", "/check")
        self.bench.steps.succeed(OLD)
        self.assertEqual(self.said(connection.response())["available"], OLD)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_many(self) -> None:
        """A hundred checks at once send one request; a click ignores disconnected clients."""
        connections = [self.send("POST", "/check") for _ in range(100)]
        for connection in connections[:99]:
            connection.lose()
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.bench.clock.advance(0)
        self.assertEqual(self.said(connections[99].response())["available"], NEW)
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])


class RejectedTests(WebCase):
    """Requests that another page caused, or that are for another host."""

    def test_another_page(self) -> None:
        """Another page can do no action, with any method."""
        self.refuse()
        body = f"release={NEW}"
        for action in ACTIONS:
            for header in (
                "Sec-Fetch-Site: cross-site",
                "Sec-Purpose: prefetch",
                "Origin: http://evil.example",
            ):
                with self.subTest(action=action, header=header):
                    length = f"Content-Length: {len(body)}"
                    answer = self.ask(*action.split(), header, length, body=body)
                    self.assertEqual(answer.status, 403)
                    self.assertTrue(answer.text.endswith(".\n"))
        self.assertEqual(self.bench.steps.begun, [])
        self.assertEqual(len(self.bench.journal.entry.refused), 1)

    def test_another_host(self) -> None:
        """Every resource rejects another host, and no action is done."""
        self.root = self.make_root()
        pages = (
            "/",
            "/version",
            "/status",
            "/page.js",
            "/events",
            "/log",
            "/history",
            "/report",
            "/x",
        )
        for action in (*ACTIONS, *(f"GET {page}" for page in pages)):
            with self.subTest(action=action):
                answer = self.ask(*action.split())
                self.assertEqual(answer.status, 403)
                self.assertIn("does not answer to the name 'box.example'", answer.text)
        self.assertEqual(self.bench.steps.begun, [])
