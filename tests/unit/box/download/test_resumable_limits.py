"""A download is limited in size, and by the room on the disk."""

import errno
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from opq_twisted.box.download import transfer as module
from opq_twisted.box.download.part_file import MAX_UNSYNCED, SYNC_EVERY
from opq_twisted.box.download.resumable import RETRY_DELAYS, fetch
from opq_twisted.box.download.verify import Content
from opq_twisted.common import files
from opq_twisted.common.errors import NoRoom, ServerFailed
from tests.unit.box.download.test_resumable import DATA, HASHES, LENGTH, LIMIT, TAG, URL, FetchCase


class LimitTests(FetchCase):
    """Files that are too large, and disks that are too full."""

    def test_announced(self) -> None:
        """A file that is announced as too large is not downloaded."""
        fetching = self.fetch(Content(), limit=1000)
        peer = self.network.accept()
        peer.answer("200 OK", LENGTH)
        self.assertIn("has 3000 bytes; at most 1000 are allowed", self.failure(fetching))
        self.assert_nothing_left(peer)

    def test_expected(self) -> None:
        """It is not even requested if its size is known before."""
        self.assertIn("at most 1000", self.failure(self.fetch(limit=1000)))

    def test_sent(self) -> None:
        """Without an announced size, the download fails at the limit, and is removed."""
        fetching = self.fetch(Content(), limit=1000)
        peer = self.network.accept()
        peer.answer("200 OK", body=bytes(1000))
        self.assertEqual(self.path.stat().st_size, 1000)
        peer.send(b"x")
        self.assertIn("more than 1000 bytes", self.failure(fetching))
        self.assert_nothing_left(peer)

    def test_sent_of_signed(self) -> None:
        """A response longer than the signed size is not the file."""
        fetching, peer = self.begin(body=bytes(3000))
        peer.send(b"x")
        self.assertIn("The server sent more than 3000 bytes", self.said[-1])
        self.assert_nothing_left(peer)
        self.cancel(fetching)

    def test_rest_too_long(self) -> None:
        """The limit applies to the rest together with the earlier bytes."""
        self.interrupt(LENGTH, TAG)
        fetching = self.fetch()
        peer = self.ask("Range: bytes=1000-")
        peer.answer("206 Partial Content", "Content-Range: bytes 1000-2999/3000", body=bytes(2001))
        self.assertFalse(peer.open)
        self.assertIn("The server sent more than 3000 bytes", self.said[-1])
        self.assertEqual(self.path.read_bytes(), DATA[:1000])
        self.cancel(fetching)

    def test_another_size(self) -> None:
        """A server that keeps sending a file of another size is given up."""
        fetching, peer = self.begin("Content-Length: 2999")
        for pause in RETRY_DELAYS[1:]:
            self.assertFalse(peer.open)
            self.clock.advance(pause)
            peer = self.ask()
            peer.answer("200 OK", "Content-Length: 2999")
        self.assertIn(
            "The server sent 2999 bytes instead of 3000 bytes",
            self.failure(fetching, ServerFailed),
        )
        self.assert_nothing_left()

    def test_no_room(self) -> None:
        """Without room for the file nothing is requested; the error says how much is needed."""
        self.patch(module, "RESERVE", 10**18)
        fetching = self.fetch(Content(5_000_000, HASHES))
        sentence = self.failure(fetching, NoRoom)
        self.assertIn("needs 1000000000005.0 MB free", sentence)

    def test_no_room_then(self) -> None:
        """The size may come from the server."""
        fetching = self.fetch(Content())
        self.patch(module, "RESERVE", 10**18)
        peer = self.network.accept()
        peer.answer("200 OK", "Content-Length: 5000000")
        self.assertIn("needs 1000000000005.0 MB free", self.failure(fetching, NoRoom))
        self.assert_nothing_left(peer)

    def test_room_for_the_rest(self) -> None:
        """The bytes that are already on the disk need no more room."""
        self.interrupt(LENGTH, TAG)
        free = self.statvfs(2000)
        self.patch(module, "RESERVE", 0)
        fetching = self.fetch()
        self.assertNoResult(fetching)
        self.network.accept()
        self.cancel(fetching)
        free(1999)
        self.failure(self.fetch(), NoRoom)
        self.assert_nothing_left()

    def statvfs(self, free: int) -> Callable[[int], None]:
        """Let the disk have so many bytes left."""
        sizes = [free]

        class Disk:
            f_frsize = 1

            @property
            def f_bavail(self) -> int:
                return sizes[0]

        self.patch(os, "statvfs", lambda path: Disk())

        def change(free: int) -> None:
            sizes[0] = free

        return change

    def test_room_goes(self) -> None:
        """The reserve stays free even if the size is unknown."""
        fetching, peer = self.begin(body=bytes(1000), expected=Content())
        self.patch(module, "RESERVE", 10**18)
        peer.send(bytes(1000))
        self.failure(fetching, NoRoom)
        self.assert_nothing_left(peer)

    def full(self, *args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def test_disk_full(self) -> None:
        """When the disk is full, the received bytes are removed: some disks report it late."""
        for call in ("write", "fdatasync"):
            with self.subTest(call=call):
                fetching, peer = self.begin(LENGTH, TAG)
                patched = self.patch(os, call, self.full)
                peer.send(DATA)
                patched.restore()
                self.assertIn("No space left", self.failure(fetching, OSError))
                self.assert_nothing_left()

    def test_disk_full_at_a_piece(self) -> None:
        """The same holds if joining cannot be recorded; the connection is closed."""
        for headers in (["Content-Length: 2000", "Content-Range: bytes 1000-2999/3000"], []):
            with self.subTest(headers=headers):
                self.interrupt(LENGTH, TAG)
                fetching = self.fetch()
                peer = self.ask("Range: bytes=1000-")
                patched = self.patch(files, "write", self.full)
                peer.answer("206 Partial Content" if headers else "200 OK", *headers)
                patched.restore()
                self.failure(fetching, OSError)
                self.assert_nothing_left(peer)

    def test_disk_full_at_the_end(self) -> None:
        """The same holds if the disk is found full when a download is cancelled."""
        fetching, _ = self.begin(LENGTH, TAG, body=DATA[:1000])
        patched = self.patch(os, "fdatasync", self.full)
        fetching.cancel()
        patched.restore()
        self.failure(fetching, OSError)
        self.assert_nothing_left()

    def test_disk_fails(self) -> None:
        """If the file cannot be created, the connection is closed."""
        fetching = self.fetch()
        self.path.mkdir()
        peer = self.network.accept()
        peer.answer("200 OK", LENGTH)
        self.failure(fetching, OSError)
        self.assertFalse(peer.open)

    def test_paced(self) -> None:
        """The server is paused while the received bytes are synced."""
        threads: list[Deferred[Any]] = []

        def in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
            function(*args)
            threads.append(Deferred())
            return threads[-1]

        fetching = Deferred.fromCoroutine(
            fetch(
                self.clock,
                self.network.server,
                URL,
                Content(MAX_UNSYNCED),
                self.path,
                LIMIT,
                in_thread=in_thread,
            )
        )
        peer = self.network.accept()
        peer.answer("200 OK", body=bytes(SYNC_EVERY - 1))
        self.assertFalse(peer.paused)
        peer.send(b"x")
        self.assertTrue(peer.paused)
        peer.send(b"x")
        threads.pop().callback(None)
        self.assertFalse(peer.paused)
        peer.send(bytes(MAX_UNSYNCED - SYNC_EVERY - 1))
        peer.close()
        self.assertNoResult(fetching)
        threads.pop().callback(None)
        self.assertEqual(self.successResultOf(fetching), (Content(MAX_UNSYNCED), MAX_UNSYNCED))
