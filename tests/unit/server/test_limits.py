"""The limits fit the number of file descriptors."""

import resource

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.connection_limits import RESERVE
from opq_twisted.server.limits import make_room
from tests.helpers.box_fakes import logged


class MakeRoomTests(SynchronousTestCase):
    """`make_room`, with descriptor limits that the test sets instead of the kernel."""

    def limits(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)
        self.patch(resource, "getrlimit", lambda _: self.now)
        self.patch(resource, "setrlimit", self.set)
        self.said = logged(self)

    def set(self, which: int, limits: tuple[int, int]) -> None:
        self.assertEqual(which, resource.RLIMIT_NOFILE)
        self.assertTrue(limits[0] <= self.now[1] or self.now[1] == resource.RLIM_INFINITY)
        self.now = limits

    def room(self, connections: int, downloads: int) -> tuple[int, int]:
        limits, downloads = make_room(connections, downloads)
        return limits.connections, downloads

    def test_enough(self) -> None:
        """With enough descriptors, nothing changes."""
        for soft in (2000, resource.RLIM_INFINITY):
            self.limits(soft, soft)
            self.assertEqual(self.room(1000, 500), (1000, 500))
            self.assertEqual(self.now, (soft, soft))

    def test_raised(self) -> None:
        """The soft limit is raised as far as needed and no further."""
        for hard in (4096, resource.RLIM_INFINITY):
            self.limits(1024, hard)
            self.assertEqual(self.room(1000, 500), (1000, 500))
            self.assertEqual(self.now, (1564, hard))
            self.assertEqual(self.said, [])

    def test_too_few(self) -> None:
        """If the hard limit is too low, there are fewer connections, and a warning."""
        self.limits(512, 1024)
        self.assertEqual(self.room(1000, 500), (640, 320))
        self.assertEqual(self.now, (1024, 1024))
        (sentence,) = self.said
        self.assertIn("room for 640 connections and 320 downloads", sentence)
        self.assertIn("LimitNOFILE", sentence)

    def test_forbidden(self) -> None:
        """If the limit may not be raised, it stays."""
        self.limits(512, 4096)

        def forbid(*_: object) -> None:
            raise PermissionError

        self.patch(resource, "setrlimit", forbid)
        self.assertEqual(self.room(1000, 100), (348, 100))
        self.assertIn("room for 348 connections", self.said[0])

    def test_far_too_few(self) -> None:
        """There is always room for a few connections; with hardly any descriptors, for one."""
        for limit, room in ((100, (24, 12)), (64, (11, 5)), (10, (1, 1))):
            self.limits(limit, limit)
            self.assertEqual(self.room(1000, 500), room)

    def test_reserve(self) -> None:
        """Connections and downloads leave a reserve of descriptors, which no connection gets."""
        for limit in (256, 1024, 4096):
            self.limits(limit, limit)
            limits, downloads = make_room(10_000, 1000)
            self.assertLessEqual(limits.connections + downloads, limit - RESERVE)
            self.assertEqual(limits.first_reserved, limit - RESERVE)
        self.limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        self.assertGreater(make_room(10_000, 1000)[0].first_reserved, 10**9)

    def test_each(self) -> None:
        """One client may have a quarter of the connections."""
        self.limits(20_000, 20_000)
        limits, _ = make_room(15_000, 2000)
        self.assertEqual(limits.each, 3750)
