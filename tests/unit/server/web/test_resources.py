"""The update server's endpoints follow the protocol."""

import hashlib
import json
import os
from pathlib import Path

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.limits import Downloads
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from tests.helpers.archives import make_archive, name_of
from tests.helpers.http_exchange import Response, ask

ENDPOINTS = ("/", "/ls", "/version", "/latest", f"/update/{name_of(999999999)}")


class ResourcesTestCase(SynchronousTestCase):
    """The server's tree over a real directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.catalog = Catalog(self.directory)
        self.digests, self.indexes = Digests(maybeDeferred), Indexes(maybeDeferred)
        self.clock = Clock()
        self.version = NewestVersion(self.clock, self.catalog)
        self.root = make_root(self.catalog, self.digests, self.indexes, Downloads(10), self.version)

    def offer(self, *versions: int) -> None:
        for version in versions:
            make_archive(self.directory / name_of(version), version)
        self.catalog.rescan()

    def get(self, path: str, *headers: str, method: str = "GET") -> Response:
        return ask(self.root, method, path, *headers)

    def assertSentence(self, response: Response, status: int) -> None:
        """A refusal is one line of plain text."""
        self.assertEqual(response.status, status)
        self.assertEqual(response.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertRegex(response.text, r"\A[^\n<>]{10,}\.\n\Z")


class HealthTests(ResourcesTestCase):
    """`/`."""

    def test_well(self) -> None:
        """It is 200 and empty, also without any update."""
        response = self.get("/")
        self.assertEqual((response.status, response.body), (200, b""))
        self.assertEqual(response.headers["Content-Length"], "0")

    def test_browser(self) -> None:
        """A browser gets the same, and goes on to the list; programs do not."""
        for accept, refresh in {
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "0; url=ls",
            "*/*": None,
            "text/plain": None,
            "application/json": None,
            "text/html;q=0": None,
        }.items():
            response = self.get("/", f"Accept: {accept}")
            self.assertEqual((response.status, response.body), (200, b""))
            self.assertEqual(response.headers["Refresh"], refresh)
            self.assertEqual(response.headers["Vary"], "Accept")
        self.assertNotIn("Refresh", self.get("/").headers)

    def test_ill(self) -> None:
        """It is 503 with the reason while the directory cannot be read, and then 200 again."""
        self.directory.rename(away := Path(self.mktemp()))
        self.catalog.rescan()
        response = self.get("/")
        self.assertSentence(response, 503)
        self.assertIn(str(self.directory), response.text)
        away.rename(self.directory)
        self.catalog.rescan()
        self.assertEqual(self.get("/").status, 200)


class ListingTests(ResourcesTestCase):
    """`/ls`."""

    def test_empty(self) -> None:
        """Without archives, the list is empty."""
        response = self.get("/ls")
        self.assertEqual((response.status, response.body), (200, b""))
        self.assertEqual(json.loads(self.get("/ls", "Accept: application/json").body), [])

    def test_text(self) -> None:
        """The text has a name per line, in numeric order."""
        self.offer(1000000000, 999999999)
        response = self.get("/ls")
        self.assertEqual(response.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(response.text, f"{name_of(999999999)}\n{name_of(1000000000)}\n")

    def test_json(self) -> None:
        """The JSON has all facts about each archive; the digest as soon as it is known."""
        self.offer(1, 2)
        os.utime(self.directory / name_of(2), (0, 1547860803.9))
        self.catalog.rescan()
        self.digests.want(self.catalog.snapshot.archives[1])
        response = self.get("/ls", "Accept: text/html;q=0.8, application/json;q=0.9")
        self.assertEqual(response.headers["Content-Type"], "application/json")
        first, second = json.loads(response.body)
        self.assertNotIn("sha256", first)
        content = (self.directory / name_of(2)).read_bytes()
        self.assertEqual(
            second,
            {
                "name": name_of(2),
                "version": 2,
                "size": len(content),
                "modified": 1547860803,
                "sha256": hashlib.sha256(content).hexdigest(),
            },
        )

    def test_page(self) -> None:
        """A browser gets a page; curl and wget get text."""
        self.offer(1)
        page = self.get("/ls", "Accept: text/html,application/xhtml+xml,*/*;q=0.8")
        self.assertEqual(page.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(self.get("/ls", "Accept: */*").text, f"{name_of(1)}\n")

    def test_forms_for_caches(self) -> None:
        """Caches must keep the media types apart, and revalidate each."""
        for accept in ("text/plain", "application/json", "text/html"):
            headers = self.get("/ls", f"Accept: {accept}").headers
            self.assertEqual((headers["Vary"], headers["Cache-Control"]), ("Accept", "no-cache"))

    def test_follows(self) -> None:
        """The list is current."""
        self.offer(1)
        self.get("/ls")
        self.offer(2)
        self.assertEqual(self.get("/ls").text, f"{name_of(1)}\n{name_of(2)}\n")


class VersionTests(ResourcesTestCase):
    """`/version`."""

    def test_none(self) -> None:
        """Without a version, it is 404 with a sentence that says what to do."""
        response = self.get("/version")
        self.assertSentence(response, 404)
        self.assertIn("opq-box-update-VERSION.tar.bz2", response.text)
        self.assertEqual(response.headers["ETag"], '"none"')

    def test_newest(self) -> None:
        """It is the highest number, as digits only."""
        self.offer(1000000000, 999999999)
        response = self.get("/version")
        self.assertEqual((response.status, response.body), (200, b"1000000000"))
        self.assertEqual(response.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(response.headers["ETag"], '"1000000000"')
        self.assertEqual(response.headers["Cache-Control"], "no-cache")

    def test_known_already(self) -> None:
        """304 while the client knows the newest version; then the new version."""
        self.offer(1)
        response = self.get("/version", 'If-None-Match: "1"')
        self.assertEqual((response.status, response.body), (304, b""))
        self.assertEqual(response.headers["ETag"], '"1"')
        self.assertIsNone(response.headers["Content-Length"])
        self.offer(2)
        self.assertEqual(self.get("/version", 'If-None-Match: "1"').body, b"2")

    def test_another_version_wanted(self) -> None:
        """412 for a client that requires another version."""
        self.offer(1)
        self.assertEqual(self.get("/version", 'If-Match: "2"').status, 412)


class LatestTests(ResourcesTestCase):
    """`/latest`."""

    def test_none(self) -> None:
        """Without an archive, it is 404 with a sentence."""
        self.assertSentence(self.get("/latest"), 404)

    def test_redirects(self) -> None:
        """It is 303 with a relative URL, to be revalidated."""
        self.offer(999999999, 1000000000)
        response = self.get("/latest")
        self.assertEqual(response.status, 303)
        self.assertEqual(response.headers["Location"], f"update/{name_of(1000000000)}")
        self.assertEqual(response.headers["Cache-Control"], "no-cache")
        self.assertEqual(response.text, f"update/{name_of(1000000000)}\n")


class EverywhereTests(ResourcesTestCase):
    """Rules for all endpoints."""

    def setUp(self) -> None:
        super().setUp()
        self.offer(999999999)

    def test_head(self) -> None:
        """HEAD has the status and headers of GET, the length included, and no body."""
        for path in (*ENDPOINTS[:-1], "/nothing"):
            got, head = self.get(path), self.get(path, method="HEAD")
            for response in (got, head):
                del response.headers["Date"]
            self.assertEqual(head.status, got.status)
            self.assertEqual(head.headers.items(), got.headers.items())
            self.assertEqual(head.body, b"")

    def test_other_methods(self) -> None:
        """Other methods get 405 with `Allow`, as one line of text."""
        for path in ENDPOINTS:
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "BREW", "SUBMIT"):
                response = self.get(path, method=method)
                self.assertSentence(response, 405)
                self.assertEqual(response.headers["Allow"], "GET, HEAD")

    def test_not_found(self) -> None:
        """All other paths get 404 as one line of text, for any method."""
        for path in (
            "/x",
            "/ls/",
            "/tuf",
            "/tuf/",
            "/tuf/x",
            "/version/1",
            "/latest/x",
            "/update",
            "/update/",
            "//version",
        ):
            for method in ("GET", "POST", "BREW"):
                self.assertSentence(self.get(path, method=method), 404)

    def test_no_live_directory(self) -> None:
        """Responses come from the snapshot; only a download reads the directory."""
        self.directory.rename(self.mktemp())
        self.assertEqual(self.get("/version").body, b"999999999")
        self.assertEqual(self.get("/latest").status, 303)
        self.assertEqual(self.get("/ls").text, f"{name_of(999999999)}\n")

    def test_any_bytes(self) -> None:
        """A path that is not text gets 404."""
        self.assertSentence(self.get("/update/%ff%00%c0%ae"), 404)
