"""The page of the fleet: who gets in, what is shown, and what can be done."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from twisted.internet.defer import Deferred

from opq_twisted.fleet.store.schema import audit
from opq_twisted.fleet.store.states import RolloutState
from tests.helpers.fleet_page import BROWSER, OPERATOR, VIEWER, Page
from tests.helpers.fleet_rows import NEW, OLD, add_attempt, add_box, add_rollout
from tests.helpers.http_exchange import Response
from tests.helpers.store_case import StoreCase, on_each_database

KEY = "a" * 32

#: Everything that can be read.
PATHS = ("/fleet", "/fleet/boxes", "/fleet/box/7", f"/fleet/release/{NEW}", "/fleet/audit")

ACTIONS = ("hold", "resume", "widen", "admit", "distrust", "forget")


class PageCase(StoreCase):
    """Some boxes, one of which has tried the release on offer."""

    def setUp(self) -> None:
        super().setUp()

        def change(connection: Connection) -> None:
            add_rollout(connection, OLD, state=RolloutState.SUPERSEDED)
            add_rollout(connection, NEW)
            add_attempt(connection, add_box(connection, 7), "returned", "rescued")
            add_box(connection, 8, waiting="turn")

        self.write(change)
        self.page = Page(self.database, Path(self.mktemp()))

    def audit(self) -> list[tuple[Any, ...]]:
        query = select(audit.c.who, audit.c.what, audit.c.because).order_by(audit.c.id)
        return self.read(lambda connection: [tuple(row) for row in connection.execute(query)])

    def hold(self, *headers: str, **more: object) -> Response:
        form = {"release": NEW, "channel": "stable", "because": "boxes fall over", **more}
        return self.page.post("/fleet/hold", *headers, **form)


class GuardTests(PageCase):
    """Who gets in."""

    def test_nobody(self) -> None:
        """Without a password there is nothing but a challenge, for each method."""
        for method, path in (
            *(("GET", path) for path in PATHS),
            ("HEAD", "/fleet"),
            ("GET", "/fleet/events"),
            *(("POST", f"/fleet/{action}") for action in ACTIONS),
        ):
            for headers in ((), BROWSER, ("Authorization: Bearer guess",)):
                with self.subTest(method=method, path=path, headers=headers):
                    answer = self.page.send(method, path, *headers)
                    self.assertEqual(answer.status, 401)
                    self.assertIn("Basic realm=", answer.headers["WWW-Authenticate"])
                    self.assertNotIn("stable", answer.text)
        self.assertEqual(self.audit(), [])

    def test_forms(self) -> None:
        """A browser gets pages, with strict headers, and a program JSON."""
        for path, headers, kind in (
            ("/fleet", (), "application/json"),
            ("/fleet", ("Accept: */*",), "application/json"),
            ("/fleet", ("Accept: application/json",), "application/json"),
            ("/fleet", BROWSER, "text/html; charset=utf-8"),
            ("/fleet/nothing", BROWSER, "text/html; charset=utf-8"),
            ("/fleet/nothing", (), "application/json"),
        ):
            answer = self.page.get(path, VIEWER, *headers)
            self.assertEqual(answer.headers["Content-Type"], kind, (path, headers))
            self.assertEqual(answer.headers["Cache-Control"], "no-store")
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
            if kind.startswith("text/html"):
                policy = answer.headers["Content-Security-Policy"]
                self.assertIn("default-src 'none'; style-src 'self'; script-src 'self'", policy)
                self.assertNotIn("unsafe", policy)
                self.assertEqual(answer.headers["Referrer-Policy"], "same-origin")

    def test_other_name(self) -> None:
        """A page that lets its own name lead here gets nothing, not even the challenge."""
        for path in (*PATHS, "/", "/fleet/events", "/nothing"):
            answer = self.page.get(path, OPERATOR, host="evil.example")
            self.assertEqual(answer.status, 403, path)
            self.assertIn("--fleet-host", answer.text)
            self.assertNotIn("WWW-Authenticate", answer.headers)
        for host in ("127.0.0.1:8152", "localhost", "[::1]:8152", "FLEET.example:443"):
            self.assertEqual(self.page.get("/fleet", VIEWER, host=host).status, 200, host)

    def test_another_page(self) -> None:
        """Another page in the browser of an operator can change nothing."""
        for headers in (
            ("Origin: http://evil.example",),
            ("Origin: null",),
            ("Sec-Fetch-Site: cross-site",),
            ("Sec-Fetch-Site: same-site", "Origin: http://fleet.example"),
            ("User-Agent: Mozilla/5.0",),
            ("Referer: http://evil.example/fleet.example/",),
            ("Sec-Purpose: prefetch", "Sec-Fetch-Site: same-origin"),
        ):
            with self.subTest(headers=headers):
                self.assertEqual(self.hold(OPERATOR, *headers).status, 403)
        self.assertEqual(self.audit(), [])
        self.assertEqual(self.hold(OPERATOR, "Sec-Fetch-Site: same-origin").status, 200)

    def test_viewer(self) -> None:
        """A viewer changes nothing."""
        for action in ACTIONS:
            answer = self.page.post(f"/fleet/{action}", VIEWER, release=NEW, because="x")
            self.assertEqual(answer.status, 403)
            self.assertIn("is a viewer", answer.text)
        self.assertEqual(self.audit(), [])

    def test_methods(self) -> None:
        """Another method gets 405, and HEAD what GET gets, without the body."""
        answer = self.page.send("DELETE", "/fleet", OPERATOR)
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"))
        self.assertEqual(self.page.get("/fleet/hold", OPERATOR).headers["Allow"], "POST")
        answer = self.page.send("HEAD", "/fleet", OPERATOR)
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreater(int(answer.headers["Content-Length"]), 100)

    def test_too_large(self) -> None:
        """A body has 16 KiB at most."""
        self.assertEqual(self.hold(OPERATOR, because="x" * 17_000).status, 413)

    def test_root(self) -> None:
        """The shortest address leads to the page."""
        for path in ("/", "/fleet/"):
            answer = self.page.get(path)
            self.assertEqual((answer.status, answer.headers["Location"]), (303, "/fleet"))

    def test_assets(self) -> None:
        """The style and the script are public, and kept for a year."""
        html = self.page.get("/fleet", VIEWER, *BROWSER).text
        for part in ("/fleet/style.", "/fleet/fleet."):
            start = html.index(part)
            answer = self.page.get(html[start : html.index('"', start)])
            self.assertEqual(answer.status, 200)
            self.assertIn("immutable", answer.headers["Cache-Control"])
            self.assertGreater(len(answer.body), 100)


@on_each_database
class ReadingTests(PageCase):
    """What is shown."""

    def test_overview(self) -> None:
        """The overview has what `opq-fleet status` has, and the history."""
        found = self.page.json("/fleet")
        self.assertEqual((found["boxes"], found["waiting_now"]), (2, 3))
        self.assertEqual([each["release"] for each in found["channels"]], [NEW])
        self.assertIn("history", found)
        self.assertIsNone(found["problem"])

    def test_boxes(self) -> None:
        """Boxes are chosen by fields, of which empty ones do not count, and listed in parts."""
        found = self.page.json("/fleet/boxes?release=&waiting=turn&state=&not_seen_for=")
        self.assertEqual([each["box_id"] for each in found["boxes"]], [8])
        self.assertEqual(found["filter"]["waiting"], "turn")
        self.assertIsNone(found["filter"]["release"])
        first = self.page.json("/fleet/boxes?limit=1")
        self.assertEqual((first["more"], first["boxes"][0]["box_id"]), (True, 7))
        second = self.page.json(f"/fleet/boxes?limit=1&after={first['boxes'][0]['id']}")
        self.assertEqual(second["boxes"][0]["box_id"], 8)
        self.assertEqual(self.page.json("/fleet/boxes?not_seen_for=1")["boxes"], [])

    def test_box_and_release(self) -> None:
        """A box and a release have pages of their own."""
        found = self.page.json("/fleet/box/7")
        self.assertEqual((found["name"], len(found["keys"]), len(found["attempts"])), ("7", 1, 1))
        found = self.page.json(f"/fleet/release/{NEW}")
        self.assertEqual([each["box_id"] for each in found["bad"]], [7])

    def test_audit(self) -> None:
        """The changes are listed, also those of one release alone."""
        self.hold(OPERATOR)
        self.page.post("/fleet/forget", OPERATOR, name=8, because="sold")
        what = [each["what"] for each in self.page.json("/fleet/audit")["changes"]]
        self.assertEqual(what, ["forget", "hold"])
        found = self.page.json(f"/fleet/audit?release={NEW}")
        self.assertEqual([each["what"] for each in found["changes"]], ["hold"])
        self.assertEqual(found["release"], NEW)

    def test_mistakes(self) -> None:
        """What there is not, and what cannot be, is answered with a sentence."""
        for path, status in (
            ("/fleet/box/9", 404),
            ("/fleet/box/", 404),
            ("/fleet/box/7/more", 404),
            ("/fleet/box/%3Cscript%3E", 404),
            ("/fleet/box/%00%ff", 404),
            (f"/fleet/release/{NEW + 1}", 404),
            ("/fleet/release/x", 400),
            ("/fleet/boxes?release=x", 400),
            ("/fleet/boxes?release=1&release=2", 400),
            ("/fleet/boxes?channel=%27", 400),
            ("/fleet/boxes/more", 404),
            ("/fleet/audit?before=-1", 400),
        ):
            with self.subTest(path=path):
                answer = self.page.get(path, VIEWER)
                self.assertEqual(answer.status, status)
                self.assertTrue(json.loads(answer.body)["error"])
                page = self.page.get(path, VIEWER, *BROWSER)
                self.assertEqual(page.status, status)
                self.assertNotIn("<script>", page.text)

    def test_pages(self) -> None:
        """A browser gets each of these as a page."""
        for path in PATHS:
            for who in (OPERATOR, VIEWER):
                answer = self.page.get(path, who, *BROWSER)
                self.assertEqual(answer.status, 200, answer.text)
                self.assertTrue(answer.text.startswith("<!doctype html>"))

    def test_away(self) -> None:
        """While the database cannot be used, the last overview stays, and the rest says why."""
        self.page.get("/fleet", VIEWER)
        self.page.database.is_away = True
        self.assertEqual(self.page.get("/fleet", VIEWER).status, 200)
        for path in PATHS[1:]:
            answer = self.page.get(path, VIEWER)
            self.assertEqual(answer.status, 503)
            self.assertIn("the disk is full", answer.text)


class ActionTests(PageCase):
    """What an operator can do; the tests of `control` make the changes on each database."""

    def test_hold(self) -> None:
        """A held release is in the audit with the person's name, and the next page says so."""
        answer = self.hold(OPERATOR, *BROWSER)
        self.assertEqual(answer.status, 303)
        place, _, word = answer.headers["Location"].partition("?done=")
        self.assertEqual(place, "/fleet")
        word = word.partition("#")[0]
        self.assertEqual(self.audit(), [("anna", "hold", "boxes fall over")])
        self.assertEqual(self.page.changed, 1)
        page = self.page.get(f"/fleet?done={word}", OPERATOR, *BROWSER)
        self.assertIn(f"Release {NEW} in stable is held", page.text)
        self.assertTrue(self.page.json("/fleet")["held"])

    def test_made_up_word(self) -> None:
        """A link cannot let the page say something."""
        for word in ("Release+is+held", "", "%ff"):
            page = self.page.get(f"/fleet?done={word}", OPERATOR, *BROWSER)
            self.assertEqual(page.status, 200)
            self.assertNotIn("is held", page.text)

    def test_program(self) -> None:
        """A program gets what was changed, and may send JSON."""
        found = json.loads(self.hold(OPERATOR).body)
        self.assertEqual((found["state"], found["signs_here"]), ("held", True))
        body = json.dumps({"release": NEW, "because": "fixed", "at_bp": 100})
        answer = self.page.send(
            "POST", "/fleet/resume", OPERATOR, body=body, kind="application/json"
        )
        self.assertEqual(json.loads(answer.body)["bp"], 100)
        self.assertEqual([each[2] for each in self.audit()], ["boxes fall over", "fixed"])

    def test_twice(self) -> None:
        """A form that is sent twice does its action once."""
        form = {"release": NEW, "to_bp": 2000, "because": "all is well"}
        self.assertEqual(self.page.post("/fleet/widen", OPERATOR, **form).status, 200)
        self.assertEqual(self.page.post("/fleet/widen", OPERATOR, **form).status, 409)
        self.assertEqual(self.hold(OPERATOR).status, 200)
        self.assertEqual(self.hold(OPERATOR).status, 409)
        self.assertEqual(len(self.audit()), 2)
        self.assertEqual(self.page.json("/fleet")["channels"][0]["bp"], 2000)

    def test_mistake(self) -> None:
        """A refused form can be mended: all that was typed is in the page again."""
        answer = self.hold(OPERATOR, *BROWSER, release=1, because="it's <b>bad</b>")
        self.assertEqual(answer.status, 404)
        self.assertIn("No channel &#39;stable&#39; has named release 1:", answer.text)
        self.assertIn("it&#39;s &lt;b&gt;bad&lt;/b&gt;", answer.text)
        self.assertIn('action="/fleet/hold"', answer.text)
        self.assertIn('name="channel" value="stable"', answer.text)

    def test_reasons(self) -> None:
        """Each action needs a reason; several lines become one."""
        for because in ("", " \r\n ", "x" * 501, "\x1b[31m", "\u202e"):
            self.assertEqual(self.hold(OPERATOR, because=because).status, 400, because)
        self.assertEqual(self.page.post("/fleet/hold", OPERATOR, release=NEW).status, 400)
        self.assertEqual(self.audit(), [])
        self.hold(OPERATOR, because=" one\r\ntwo ")
        self.assertEqual(self.audit()[0][2], "one two")

    def test_languages(self) -> None:
        """A reason may have the letters of any language."""
        reason = "fällt um: „3 von 5“ 失敗"
        self.assertEqual(self.hold(OPERATOR, because=reason).status, 200)
        self.assertEqual(self.audit()[0][2], reason)
        self.assertIn(reason, self.page.get("/fleet/audit", VIEWER, *BROWSER).text)

    def test_forms(self) -> None:
        """A form with wrong fields, or a body of another kind, is refused with a sentence."""
        for path, body, status in (
            ("hold", "release=x&because=x", 400),
            ("hold", "because=x", 400),
            ("hold", f"release={NEW}&release=1&because=x", 400),
            ("hold", "&".join(f"f{number}=1" for number in range(30)), 400),
            ("widen", f"release={NEW}&because=x", 400),
            ("widen", f"release={NEW}&to_bp=10001&because=x", 400),
            ("admit", f"key_id={KEY}&because=x", 400),
            ("admit", "key_id=1&box_id=1&because=x", 400),
            ("distrust", "key=zz&because=x", 404),
            ("forget", "name=9&because=x", 404),
        ):
            with self.subTest(path=path, body=body):
                answer = self.page.send("POST", f"/fleet/{path}", OPERATOR, body=body)
                self.assertEqual(answer.status, status, answer.text)
                self.assertTrue(json.loads(answer.body)["error"])
        answer = self.page.send("POST", "/fleet/hold", OPERATOR, body="x", kind="text/plain")
        self.assertEqual(answer.status, 415)
        self.assertEqual(self.audit(), [])

    def test_places(self) -> None:
        """An action leads back to the page of its form, and to no other site."""
        for form, place in (
            ({}, "/fleet"),
            ({"back": f"/fleet/release/{NEW}"}, f"/fleet/release/{NEW}"),
            ({"back": "//evil.example"}, "/fleet"),
            ({"back": "/fleet/../x"}, "/fleet"),
            ({"back": "http://evil.example/fleet"}, "/fleet"),
        ):
            location = self.hold(OPERATOR, *BROWSER, **form).headers["Location"]
            self.assertEqual(location.partition("?")[0], place)
            resumed = self.page.post(
                "/fleet/resume", OPERATOR, *BROWSER, release=NEW, because="again"
            )
            self.assertEqual(resumed.status, 303)

    def test_keys(self) -> None:
        """Keys are admitted and distrusted, and boxes forgotten."""
        for action, form, place in (
            ("admit", {"key_id": KEY, "box_id": 7}, f"/fleet/box/{KEY}"),
            ("distrust", {"key": KEY}, f"/fleet/box/{KEY}"),
            ("forget", {"name": 8}, "/fleet/boxes"),
        ):
            answer = self.page.post(
                f"/fleet/{action}", OPERATOR, *BROWSER, because="a new card", **form
            )
            location = answer.headers["Location"]
            self.assertEqual((answer.status, location.partition("?")[0]), (303, place))
            page = self.page.get(location.partition("#")[0], OPERATOR, *BROWSER)
            self.assertIn('role="status"', page.text)
        self.assertEqual([each[1] for each in self.audit()], ["admit", "distrust", "forget"])

    def test_away(self) -> None:
        """While the database cannot be used, nothing is changed, and the reason is kept."""
        self.page.database.is_away = True
        answer = self.hold(OPERATOR, *BROWSER)
        self.assertEqual(answer.status, 503)
        self.assertIn("boxes fall over", answer.text)
        self.assertEqual(self.page.changed, 0)


class EventTests(PageCase):
    """The live numbers."""

    def follow(self, who: str) -> Any:
        connection = self.page.connect()
        connection.send("GET", "/fleet/events", who, "Host: 127.0.0.1")
        return connection

    def events(self, connection: Any) -> list[dict[str, str]]:
        """Return the parts that were sent since the last call."""
        data = connection.transport.value().rpartition(b"\r\n\r\n")[2].decode()
        connection.transport.clear()
        return [
            json.loads(event.partition("data: ")[2])
            for event in data.split("\n\n")
            if event.startswith("event: parts")
        ]

    def test_changes(self) -> None:
        """A stream gets all parts, then those that have changed, as its role may see them."""
        operator, viewer = self.follow(OPERATOR), self.follow(VIEWER)
        (first,), (other,) = self.events(operator), self.events(viewer)
        self.assertEqual(first.keys(), other.keys())
        self.assertGreater(len(first), 1)
        self.hold(OPERATOR)
        (changed,), (seen,) = self.events(operator), self.events(viewer)
        self.assertIn("held", "".join(changed.values()).lower())
        self.assertLess(len(changed), len(first))
        self.assertNotIn("<form", "".join(seen.values()))

    def test_removed_before(self) -> None:
        """Who is removed while the first count lasts gets no stream."""
        read, asked = self.page.database.read, Deferred[None]()

        def read_later(query: Any) -> Any:
            return asked.addCallback(lambda _: read(query))

        self.patch(self.page.database, "read", read_later)
        connection = self.follow(VIEWER)
        self.page.file.write_text("")
        self.assertEqual(self.page.get("/fleet", VIEWER).status, 401)
        asked.callback(None)
        self.assertEqual(connection.response("GET").status, 503)

    def test_removed(self) -> None:
        """The stream of somebody who is no operator any more ends with the next count."""
        self.page.start_counting()
        connection = self.follow(VIEWER)
        self.assertFalse(connection.transport.disconnecting)
        self.page.file.write_text("")
        self.page.clock.advance(60)
        self.assertTrue(connection.transport.disconnecting)
