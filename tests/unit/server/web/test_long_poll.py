"""Boxes wait for something new, and are answered when it comes."""

import shutil
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from opq_twisted.http.site import BoundedSite
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp.state import refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.server.web.long_poll import NewestVersion, preferred_wait
from opq_twisted.server.web.resources import make_root
from opq_twisted.trust.pace import FIELD, HELD, Pace
from tests.helpers.archives import make_archive, name_of
from tests.helpers.fake_paces import FakePaces
from tests.helpers.http_exchange import Connection, ReactorClock, Response, parse_all
from tests.helpers.signed_metadata import DAY, Signed, channel

NOW = 1_700_000_000

ANY = ("Prefer: wait=60",)

WAIT = ('If-None-Match: "1"', *ANY)


class WaitingTests(SynchronousTestCase):
    """`/version` with `Prefer: wait=N` and an entity tag that the client knows."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.catalog = Catalog(self.directory)
        self.clock = ReactorClock()
        self.version = NewestVersion(self.clock, self.catalog)
        self.root = make_root(
            self.catalog,
            Digests(maybeDeferred),
            Indexes(maybeDeferred),
            Downloads(10),
            self.version,
        )
        self.offer(1)

    def offer(self, version: int) -> None:
        make_archive(self.directory / name_of(version), version)
        self.catalog.rescan()

    def wait(self, *headers: str, method: str = "GET") -> Connection:
        connection = Connection(self.root, BoundedSite(self.clock, self.root))
        connection.send(method, "/version", *(headers or WAIT))
        self.assertEqual(connection.transport.value(), b"")
        self.assertEqual(len(self.version.long_pollers), 1)
        return connection

    def fleet(self, number: int) -> list[Connection]:
        """Let so many clients wait."""
        site = BoundedSite(self.clock, self.root)
        fleet = [Connection(self.root, site) for _ in range(number)]
        for connection in fleet:
            connection.send("GET", "/version", *WAIT)
        return fleet

    def over(self, connection: Connection, seconds: float = 0, method: str = "GET") -> Response:
        """Let time pass; then the client must have its response, and no longer wait."""
        self.clock.advance(max(seconds, ReactorClock.TURN))
        connection.site.sweep()
        self.assertEqual(len(self.version.long_pollers), 0)
        return connection.response(method)

    def test_new_version(self) -> None:
        """A new version is sent at once."""
        connection = self.wait()
        self.offer(2)
        response = self.over(connection)
        self.assertEqual((response.status, response.body), (200, b"2"))
        self.assertEqual(response.headers["ETag"], '"2"')
        self.assertEqual(response.headers["Preference-Applied"], "wait=60")
        self.assertEqual(response.headers["Cache-Control"], "no-cache")

    def test_time_is_over(self) -> None:
        """304 after the wait without a change, and not earlier."""
        connection = self.wait()
        self.clock.advance(59)
        connection.site.sweep()
        self.assertEqual(connection.transport.value(), b"")
        response = self.over(connection, 1)
        self.assertEqual((response.status, response.body), (304, b""))
        self.assertEqual(response.headers["ETag"], '"1"')
        self.assertEqual(response.headers["Preference-Applied"], "wait=60")

    def test_at_most_300_seconds(self) -> None:
        """A longer wait is shortened, and the response says so."""
        connection = self.wait('If-None-Match: "1"', "Prefer: wait=86400")
        response = self.over(connection, 300)
        self.assertEqual(response.headers["Preference-Applied"], "wait=300")

    def test_head(self) -> None:
        """HEAD waits like GET."""
        connection = self.wait(method="HEAD")
        self.offer(2)
        response = self.over(connection, method="HEAD")
        self.assertEqual(
            (response.status, response.headers["ETag"], response.body), (200, '"2"', b"")
        )

    def test_not_waiting(self) -> None:
        """A client with another version, or none, or without the wish to wait gets a response."""
        for headers, status in (
            (("Prefer: wait=60",), 200),
            (('If-None-Match: "0"', "Prefer: wait=60"), 200),
            (('If-None-Match: "1"',), 304),
            (('If-None-Match: "1"', "Prefer: wait=0"), 304),
            (('If-None-Match: "1"', "Prefer: return=minimal"), 304),
            (('If-Match: "0"', *WAIT), 412),
        ):
            connection = Connection(self.root)
            connection.send("GET", "/version", *headers)
            self.assertEqual(connection.response().status, status, headers)
            self.assertIsNone(connection.response().headers["Preference-Applied"])

    def test_nothing_on_offer(self) -> None:
        """Without a version to compare with, 404 is sent at once."""
        (self.directory / name_of(1)).unlink()
        self.catalog.rescan()
        connection = Connection(self.root)
        connection.send("GET", "/version", *WAIT)
        self.assertEqual(connection.response().status, 404)

    def test_first_version(self) -> None:
        """Boxes also wait for the first version, with the entity tag "none"."""
        (self.directory / name_of(1)).unlink()
        self.catalog.rescan()
        connection = Connection(self.root)
        connection.send("GET", "/version", *ANY)
        response = connection.response()
        self.assertEqual((response.status, response.headers["ETag"]), (404, '"none"'))
        connection = self.wait('If-None-Match: "none"', *ANY)
        self.assertEqual(self.over(connection, 60).status, 304)
        connection = self.wait('If-None-Match: "none"', *ANY)
        self.offer(2)
        self.assertEqual(self.over(connection).body, b"2")

    def test_older_archive(self) -> None:
        """A change that leaves the newest version as it is wakes nobody."""
        self.offer(5)
        self.wait('If-None-Match: "5"', "Prefer: wait=60")
        self.offer(3)
        self.assertEqual(self.clock.getDelayedCalls(), [], "nobody is even looked at")

    def test_withdrawn(self) -> None:
        """A withdrawal that changes the newest version is sent to waiting boxes."""
        self.offer(2)
        connection = self.wait('If-None-Match: "2"', "Prefer: wait=60")
        (self.directory / name_of(2)).unlink()
        self.catalog.rescan()
        self.assertEqual(self.over(connection).body, b"1")

    def test_last_one_withdrawn(self) -> None:
        """After the withdrawal of the last version, the response is 404."""
        connection = self.wait()
        (self.directory / name_of(1)).unlink()
        self.catalog.rescan()
        self.assertEqual(self.over(connection).status, 404)

    def test_client_gone(self) -> None:
        """A client that has gone no longer waits, and gets no response."""
        connection = self.wait()
        connection.lose()
        self.assertEqual(len(self.version.long_pollers), 0)
        self.offer(2)
        self.clock.advance(60)
        connection.site.sweep()
        self.assertEqual(connection.transport.value(), b"")

    def test_next_request(self) -> None:
        """After the wait, the connection continues with the requests sent meanwhile."""
        connection = self.wait()
        connection.send("GET", "/ls")
        self.offer(2)
        self.clock.turn()
        responses = parse_all(connection.transport.value())
        self.assertEqual([response.status for response in responses], [200, 200])

    def test_many(self) -> None:
        """A fleet is answered in several turns, so that others are answered in between."""
        fleet = self.fleet(250)
        self.offer(2)
        left = []
        while len(self.version.long_pollers):
            self.clock.turn()
            left.append(len(self.version.long_pollers))
        self.assertEqual(left, [150, 50, 0])
        self.assertEqual({connection.response().body for connection in fleet}, {b"2"})

    def test_one_that_breaks(self) -> None:
        """A failure for one request is logged, and the others are answered."""
        fleet = self.fleet(150)

        def fail(*_: object) -> None:
            raise RuntimeError("an error")

        self.patch(fleet[3].channel, "requestDone", fail)
        for version in (2, 3):
            self.offer(version)
            self.clock.pump([ReactorClock.TURN] * 5)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(len(self.version.long_pollers), 0)
        self.assertEqual({connection.response().body for connection in fleet}, {b"2"})

    def test_changed_again_meanwhile(self) -> None:
        """A box that is answered after another change gets the newest state, once."""
        fleet = self.fleet(150)
        self.offer(2)
        self.clock.turn()
        self.offer(3)
        self.clock.pump([ReactorClock.TURN] * 5)
        self.assertEqual(
            [connection.response().body for connection in fleet], [b"2"] * 100 + [b"3"] * 50
        )


class AnnouncedTests(SynchronousTestCase):
    """`/version` of a directory with signed metadata, which the server reads."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.signed = Signed(self.directory, NOW).init()
        self.number = 0
        self.now = NOW
        self.pace = FakePaces()
        self.offer(1)
        self.publish(stable=1)
        self.start()

    def start(self) -> None:
        """Start a server that has not read the metadata yet."""
        self.catalog = Catalog(self.directory)
        self.clock = ReactorClock()
        self.version = NewestVersion(self.clock, self.catalog, await_metadata=True)
        self.root = make_root(
            self.catalog,
            Digests(maybeDeferred),
            Indexes(maybeDeferred),
            Downloads(10),
            self.version,
        )
        self.catalog.rescan()

    def offer(self, version: int) -> None:
        make_archive(self.directory / name_of(version), version)

    def publish(self, custom: dict[str, Any] | None = None, **channels: int) -> None:
        """Sign that each channel has this version."""
        self.number += 1
        targets = {
            name: channel(self.directory / name_of(version), custom)
            for name, version in channels.items()
        }
        self.signed.targets(self.number, targets)
        self.signed.snapshot(self.number, self.number)

    def refresh(self, key: bool = True) -> None:
        """Let the server read the archives and the metadata."""
        self.catalog.rescan()
        signer = self.signed.keys["timestamp"] if key else None
        folder = MetadataFolder(self.directory)
        self.version.metadata_changed(
            refresh_timestamp(folder, self.catalog.snapshot, signer, self.now, self.pace)
        )
        self.clock.pump([ReactorClock.TURN] * 2)

    def ask(self, *headers: str) -> Connection:
        connection = Connection(self.root, BoundedSite(self.clock, self.root))
        connection.send("GET", "/version", *headers)
        return connection

    def tag(self) -> str:
        """The current entity tag."""
        self.refresh()
        response = self.ask("Prefer: wait=60").response()
        self.assertEqual((response.status, response.body.isdigit()), (200, True))
        return response.headers["ETag"] or ""

    def wait(self, tag: str | None = None) -> Connection:
        """Wait for another entity tag."""
        connection = self.ask(f"If-None-Match: {tag or self.tag()}", "Prefer: wait=60")
        self.assert_waits(connection)
        return connection

    def assert_waits(self, connection: Connection) -> None:
        self.assertEqual(connection.transport.value(), b"")
        self.assertEqual(len(self.version.long_pollers), 1)

    def assert_woken(self, connection: Connection, body: bytes) -> None:
        """The box got another entity tag, with which it can wait again."""
        response = connection.response()
        self.assertEqual((response.status, response.body), (200, body))
        self.assertEqual(response.headers["Preference-Applied"], "wait=60")
        self.assertEqual(response.headers["ETag"], self.tag())
        self.wait().lose()

    def test_release(self) -> None:
        """The announcement of a release wakes a box. The arrival of its archive wakes nobody."""
        connection = self.wait()
        self.offer(2)
        self.catalog.rescan()
        self.assertEqual(self.clock.getDelayedCalls(), [], "nobody is even looked at")
        self.refresh()
        self.assert_waits(connection)
        self.publish(stable=2)
        self.assert_waits(connection)
        self.refresh()
        self.assert_woken(connection, b"2")

    def test_pace(self) -> None:
        """A release that is held, slowed or resumed wakes a box; the same pace again does not."""
        signed = self.tag()
        for pace in (Pace(1, 10_000, HELD), Pace(1, 500), Pace(1, 10_000)):
            connection = self.wait()
            self.pace.paces = {"stable": pace}
            self.refresh()
            self.assert_woken(connection, b"1")
            connection = self.wait()
            self.now += 5 * DAY
            self.refresh()
            self.assert_waits(connection)
            connection.lose()
        connection = self.wait()
        self.pace.paces = {}
        self.refresh()
        self.assert_woken(connection, b"1")
        self.assertEqual(self.tag(), signed)

    def test_pace_of_another_server(self) -> None:
        """A pace in a timestamp that another server has signed wakes a box, too."""
        connection = self.wait()
        fields = {FIELD: {"stable": Pace(1, 0, HELD).to_json()}}
        self.signed.timestamp(NOW + 1, 1, fields=fields)
        self.refresh(key=False)
        response = connection.response()
        self.assertEqual((response.status, response.body), (200, b"1"))

    def test_archive_comes_last(self) -> None:
        """Metadata whose archive is missing wakes nobody, until the archive is there."""
        connection = self.wait()
        self.offer(2)
        self.publish(stable=2)
        (self.directory / name_of(2)).rename(self.directory / "on-its-way")
        self.refresh()
        self.assert_waits(connection)
        (self.directory / "on-its-way").rename(self.directory / name_of(2))
        self.refresh()
        self.assert_woken(connection, b"2")

    def test_what_matters(self) -> None:
        """Each change wakes boxes: promotion, rollout, priority, downgrade, withdrawal."""
        self.offer(2)
        self.publish(beta=2, stable=1)
        rollouts = [{"rollout": {"percent": percent, "salt": "x"}} for percent in (0, 1, 50)]
        changes: tuple[tuple[dict[str, Any], dict[str, int]], ...] = (
            *((custom, {"beta": 2, "stable": 2}) for custom in rollouts),
            ({}, {"beta": 2, "stable": 2}),
            ({"critical": True}, {"beta": 2, "stable": 2}),
            ({"allow_downgrade": True}, {"beta": 2, "stable": 1}),
            ({}, {"stable": 1}),
            ({}, {}),
        )
        for custom, channels in changes:
            with self.subTest(custom=custom, channels=channels):
                connection = self.wait()
                self.publish(custom, **channels)
                self.refresh()
                self.assert_woken(connection, b"2")

    def test_signed_again(self) -> None:
        """A new signature of the same content wakes nobody: timestamp, targets, snapshot."""
        connection = self.wait()
        self.now += 5 * DAY
        before = (self.directory / "tuf" / "timestamp.json").read_bytes()
        self.refresh()
        self.assertNotEqual((self.directory / "tuf" / "timestamp.json").read_bytes(), before)
        self.publish(stable=1)
        self.refresh()
        self.signed.rotate("snapshot", 2)
        self.publish(stable=1)
        self.refresh()
        self.assert_waits(connection)

    def test_unannounced_archives(self) -> None:
        """With archives that are not announced, boxes that ask again still wait."""
        tag = self.tag()
        self.offer(2)
        self.refresh()
        connection = self.wait(tag)
        self.clock.advance(60)
        connection.site.sweep()
        self.assertEqual(connection.response().status, 304)
        # A client that does not wait gets the newest archive, with its own entity tag.
        response = self.ask(f"If-None-Match: {tag}").response()
        self.assertEqual((response.status, response.body), (200, b"2"))
        self.assertNotEqual(response.headers["ETag"], tag)

    def test_restart(self) -> None:
        """A restarted server knows the entity tags again, once it has read the metadata."""
        tag = self.tag()
        self.start()
        connection, fresh = self.ask(f"If-None-Match: {tag}", "Prefer: wait=60"), self.ask(*ANY)
        self.assertEqual(len(self.version.long_pollers), 2)
        self.refresh()
        self.assert_waits(connection)
        self.assertEqual(fresh.response().headers["ETag"], tag)
        self.start()
        connection = self.ask('If-None-Match: "1-another"', "Prefer: wait=60")
        self.assert_waits(connection)
        self.refresh()
        self.assert_woken(connection, b"1")

    def test_never_checked(self) -> None:
        """A wait ends in time, even if the metadata cannot be read."""
        connection = self.ask(f"If-None-Match: {self.tag()}", "Prefer: wait=60")
        self.start()
        connection = self.ask('If-None-Match: "1"', "Prefer: wait=60")
        self.clock.advance(60)
        connection.site.sweep()
        self.assertEqual(connection.response().status, 304)
        self.assertEqual(self.ask().response().body, b"1")

    def test_unusable(self) -> None:
        """Metadata that boxes cannot follow for a while wakes nobody, nor does its return."""
        connection = self.wait()
        timestamp = self.directory / "tuf" / "timestamp.json"
        whole = timestamp.read_bytes()
        for content in (b"", b"{}"):
            timestamp.write_bytes(content)
            self.refresh(key=False)
            self.assert_waits(connection)
        timestamp.write_bytes(whole)
        self.refresh(key=False)
        self.assert_waits(connection)

    def test_copies(self) -> None:
        """Servers that follow one signer have the same entity tags."""
        tag = self.tag()
        copy = Path(self.mktemp()).absolute()
        shutil.copytree(self.directory, copy)
        self.directory = copy
        self.start()
        self.refresh(key=False)
        self.assertEqual(self.ask(*ANY).response().headers["ETag"], tag)

    def test_first_metadata(self) -> None:
        """The first metadata of a directory wakes boxes, and so does its removal."""
        folder = self.directory / "tuf"
        folder.rename(self.directory / "away")
        self.start()
        connection = self.wait()
        (self.directory / "away").rename(folder)
        self.refresh()
        self.assert_woken(connection, b"1")
        connection = self.wait()
        folder.rename(self.directory / "away")
        self.refresh()
        self.assertEqual(connection.response().headers["ETag"], '"1"')


class PreferTests(SynchronousTestCase):
    """`preferred_wait` (RFC 7240)."""

    TABLE: tuple[tuple[list[str], int], ...] = (
        ([], 0),
        (["wait=10"], 10),
        (["wait = 10"], 10),
        (['wait="10"'], 10),
        (["WAIT=10"], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=10; foo=bar"], 10),
        (["wait=10, wait=20"], 10),
        (["wait=300"], 300),
        (["wait=301"], 300),
        (["wait=" + "9" * 5000], 300),
        (["wait=0"], 0),
        (["wait"], 0),
        (["wait="], 0),
        (["wait=-1"], 0),
        (["wait=1.5"], 0),
        (["wait=ten"], 0),
        (["await=10"], 0),
        (['"wait=10"'], 0),
        ([""], 0),
    )

    def test_table(self) -> None:
        """Each header gives this wait."""
        for headers, expected in self.TABLE:
            request = Request(DummyChannel(), False)
            for header in headers:
                request.requestHeaders.addRawHeader("Prefer", header)
            self.assertEqual(preferred_wait(request), expected, headers)  # type: ignore[arg-type]
