"""A download that copies what the last good archive has, and requests the rest."""

import base64
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.delta import Copy
from opq_twisted.archive.pieces import MAX_INDEX, MAX_PIECES, Index, read_index
from opq_twisted.archive.release import Release
from opq_twisted.box.download import part_file, transfer
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.state.status import Progress
from opq_twisted.common.errors import DownloadFailed, ServerFailed, WronglyJoined
from tests.helpers.archives import make_pieces_archive, random_parts
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.memory_network import Network, Peer

NAME = f"opq-box-update-{NEW}.tar.bz2"
NOT_FOUND: "Response" = ("404 Not Found", [], b"There is no such update.\n")

#: A response: its status, headers and body.
Response = tuple[str, list[str], bytes]


@cache
def archive(version: int, *seeds: int, size: int = 260_000) -> bytes:
    """Make an archive with a piece for each seed."""
    with tempfile.TemporaryDirectory() as place:
        parts = random_parts(*seeds, size=size)
        return make_pieces_archive(Path(place) / "archive", version, parts).read_bytes()


@cache
def index_of(data: bytes) -> Index:
    """Index these bytes, as those of an archive."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_index(file.fileno(), len(data))


OLD_ARCHIVE = archive(OLD, 1, 2, 3, 4)


class Site:
    """An update server that answers each request, unless the test has another answer."""

    def __init__(self, network: Network, data: bytes) -> None:
        self._network = network
        self.data = data
        self.index: bytes | None = index_of(data).to_json()
        #: The paths that were requested, with the ranges.
        self.requests: list[str] = []
        #: Gives the answers to requests of the archive; None for the usual one.
        self.answer: Callable[[str | None], Response | None] = lambda range_: None
        #: Whether the server promises its digest.
        self.promises = True

    @property
    def ranges(self) -> list[str]:
        """The ranges of the archive that were requested; empty for the whole."""
        return [each.partition(" ")[2] for each in self.requests if ".pieces" not in each]

    @property
    def sent(self) -> int:
        """Bytes of the archive that the requested ranges have."""
        return sum(len(self._range(each)[1]) for each in self.ranges)

    def serve(self) -> None:
        """Answer all requests, until there are none."""
        while self._network.is_asked:
            self._serve(self._network.accept())

    def _serve(self, peer: Peer) -> None:
        path = peer.request.split()[1]
        found = re.search(r"\r\nRange: (\S+)\r\n", peer.request)
        range_ = found and found[1]
        self.requests.append(f"{path} {range_ or ''}".strip())
        if path.endswith(".pieces"):
            response = self._index()
        else:
            response = self.answer(range_) or self.usual(range_)
        status, headers, body = response
        peer.answer(status, *headers, f"Content-Length: {len(body)}", body=body)

    def _index(self) -> Response:
        return NOT_FOUND if self.index is None else ("200 OK", [], self.index)

    def usual(self, range_: str | None) -> Response:
        """Answer as the server does."""
        start, body = self._range(range_)
        headers = ['ETag: "one"']
        if self.promises:
            digest = base64.b64encode(hashlib.sha256(self.data).digest()).decode()
            headers.append(f"Repr-Digest: sha-256=:{digest}:")
        if not range_:
            return "200 OK", headers, body
        end = start + len(body) - 1
        headers.append(f"Content-Range: bytes {start}-{end}/{len(self.data)}")
        return "206 Partial Content", headers, body

    def _range(self, range_: str | None) -> tuple[int, bytes]:
        if not range_:
            return 0, self.data
        start, end = range_.removeprefix("bytes=").split("-")
        return int(start), self.data[int(start) : int(end) + 1 if end else None]


class AssemblyCase(SynchronousTestCase):
    """A box with a last good archive, most of whose pieces a new one has too."""

    def setUp(self) -> None:
        self.network = Network()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.old = self.folder / f"opq-box-update-{OLD}.tar.bz2"
        self.old.write_bytes(OLD_ARCHIVE)
        digest = hashlib.sha256(OLD_ARCHIVE).hexdigest()
        self.store().keep_as_last_good(Release(OLD, None, {"sha256": digest}))
        self.offer(archive(NEW, 1, 2, 5, 4))
        self.reports: list[Progress] = []
        self.while_copying: Callable[[], object] = lambda: None

    def offer(self, data: bytes) -> None:
        """Let the server have this archive, and no other."""
        self.site = Site(self.network, data)
        self.size = len(data)
        self.pieces = index_of(data).pieces
        self.signed = Release(NEW, self.size, {"sha256": hashlib.sha256(data).hexdigest()})

    def store(self) -> ArchiveStore:
        return ArchiveStore(self.folder, self.in_thread)

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Call a function at once; while a piece is read, the test does what it likes."""
        if isinstance(arguments[-1], Copy):
            self.while_copying()
        return execute(function, *arguments)

    def begin(
        self, release: Release | None = None, whole: bool = False
    ) -> Deferred[tuple[Release, int]]:
        """Begin a download, with the downloader of another run of the agent."""
        self.downloader = Downloader(self.network.clock, self.network.server, self.store())
        return Deferred.fromCoroutine(
            self.downloader.fetch(
                release or self.signed, self.reports.append, lambda sentence: None, whole
            )
        )

    def fetch(self, release: Release | None = None, whole: bool = False) -> int:
        """Download; returns how many bytes travelled."""
        fetching = self.begin(release, whole)
        self.site.serve()
        promised, fetched = self.successResultOf(fetching)
        self.promised = promised
        return fetched

    def verify(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.downloader.verify(self.promised))

    def assert_verified(self) -> None:
        release, file = self.successResultOf(self.verify())
        with file:
            self.assertEqual(file.read(), self.site.data)
        self.assertEqual(release, self.signed)
        self.assertNotIn(f"{NAME}.part", os.listdir(self.folder))

    def assert_whole(self) -> None:
        """The archive comes, and was requested as a whole."""
        self.assertEqual(self.fetch(), self.size)
        self.assertEqual(self.site.ranges, [""])
        self.assert_verified()


class DeltaTests(AssemblyCase):
    """An assembly that nothing disturbs."""

    def test_cancelled_while_indexing(self) -> None:
        """A stopping agent does not wait until the last good archive is read for its index."""
        before = os.listdir("/proc/self/fd")
        threads: list[tuple[Any, ...]] = []

        def in_thread(*work: Any) -> Deferred[Any]:
            threads.append(work)
            return Deferred()

        self.patch(self, "in_thread", in_thread)
        fetching = self.begin()
        self.site.serve()
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        [(function, *args)] = threads
        self.assertRaises(CancelledError, function, *args)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_only_what_changed(self) -> None:
        """Only the pieces that changed are requested, each range by one request."""
        changed = [self.pieces[0], self.pieces[3]]
        fetched = self.fetch()
        self.assertEqual(fetched, sum(each.length for each in changed))
        self.assertEqual(
            self.site.requests,
            [
                f"/update/{NAME}.pieces",
                *(f"/update/{NAME} bytes={each.start}-{each.end - 1}" for each in changed),
            ],
        )
        self.assert_verified()

    def test_progress(self) -> None:
        """The progress counts what travels, and says how much is here."""
        fetched = self.fetch()
        here = self.size - fetched
        self.assertEqual({(each.total, each.here) for each in self.reports}, {(fetched, here)})
        self.assertEqual(self.reports[0].received, self.pieces[0].length)
        self.assertEqual(self.reports[-1].received, fetched)
        received = [each.received for each in self.reports]
        self.assertEqual(received, sorted(received))

    def test_asked_ahead(self) -> None:
        """The next range is requested while the pieces before it are copied, and used then."""
        seeds = range(20, 34)
        self.old.write_bytes(archive(OLD, *seeds, size=90_000))
        self.offer(archive(NEW, *seeds, 40, size=90_000))
        asked: list[int] = []
        self.patch(transfer, "_REQUESTED_AHEAD", 8)
        self.while_copying = lambda: asked.append(len(self.network.clock.tcpClients))
        self.fetch()
        self.assertEqual(asked, [0] * 6 + [1] * 8 + [0])
        self.assertEqual(len(self.site.ranges), 2)
        self.assert_verified()

    def test_ended_while_copying(self) -> None:
        """If the download ends while the next range is on its way, its connection is closed."""
        for answered in (False, True):
            with self.subTest(answered=answered):
                fetching = self.begin()
                peers: list[Peer] = []

                def end(answered: bool = answered, peers: list[Peer] = peers) -> None:
                    peers.append(self.network.accept())
                    if answered:
                        status, headers, body = self.site.usual("bytes=600000-700000")
                        length = f"Content-Length: {len(body)}"
                        peers[0].answer(status, *headers, length, body=body[:1000])
                    raise ZeroDivisionError

                self.while_copying = end
                self.site.serve()
                self.failureResultOf(fetching, ZeroDivisionError)
                self.assertFalse(peers[0].open)

    def test_slow_card(self) -> None:
        """The time of copying does not count for the rate, nor as that of a slow network."""

        def wait() -> None:
            # The network does not stand still meanwhile.
            self.site.serve()
            self.network.clock.advance(700)

        self.while_copying = wait
        fetched = self.fetch()
        self.assertEqual(self.reports[-1].received, fetched)
        self.assertGreater(self.reports[-1].rate, 1000)
        self.assert_verified()

    def test_unsigned(self) -> None:
        """Without a signature, the index gives the size and the hash."""
        fetched = self.fetch(Release(NEW))
        self.assertEqual(self.promised, self.signed)
        self.assertLess(fetched, self.size / 2)
        self.assert_verified()

    def test_end_changed(self) -> None:
        """A changed piece at the end is requested, too."""
        self.offer(archive(NEW, 1, 2, 3, 9))
        self.assertLess(self.fetch(), self.size / 2)
        self.assert_verified()

    def test_index_kept(self) -> None:
        """The index of a verified archive is kept, so that the next update need not read it."""
        self.fetch()
        self.successResultOf(self.verify())[1].close()
        kept = self.folder / f"{NAME}.pieces"
        self.assertEqual(kept.read_bytes(), self.site.index)
        self.store().keep_as_last_good(self.signed)
        self.store().prune(NEW)
        opened = self.store().open_last_good()
        assert opened is not None
        opened[0].close()
        self.assertEqual(opened[1], index_of(self.site.data))
        # The whole archive is not read: nothing of it fits, and nothing is missed.
        (self.folder / NAME).write_bytes(bytes(self.size))
        self.offer(archive(NEW + 1, 1, 2, 5, 4))
        self.assertEqual(self.fetch(Release(NEW + 1, self.size, self.signed.hashes)), self.size)

    def test_kept_index_useless(self) -> None:
        """An index that is damaged, missing, or of another archive is not used."""
        kept = self.folder / f"{self.old.name}.pieces"
        expected = self.fetch()
        for make in (
            lambda: kept.write_bytes(b"rotten"),
            lambda: kept.write_bytes(index_of(archive(OLD, 7, 8)).to_json()),
            lambda: kept.write_bytes(bytes(MAX_INDEX + 1)),
            lambda: os.mkfifo(kept),
        ):
            with self.subTest(make):
                kept.unlink(missing_ok=True)
                make()
                (self.folder / f"{NAME}.part").unlink()
                self.assertEqual(self.fetch(), expected)

    def test_no_room_for_index(self) -> None:
        """An index that cannot be kept does not make an update fail."""
        self.fetch()
        (self.folder / f".{NAME}.pieces.new").mkdir()
        self.assert_verified()

    def test_whole_asked(self) -> None:
        """A download of the whole asks for no index."""
        self.fetch(whole=True)
        self.assertEqual(self.site.requests, [f"/update/{NAME}"])


class ResumeTests(AssemblyCase):
    """An assembly that is interrupted, at any byte."""

    def interrupt(self, size: int, *, orderly: bool = True) -> None:
        """Let an earlier run leave the first `size` bytes of the archive."""
        self.fetch()
        os.truncate(self.part, size)
        record = part_file.record_path(self.part)
        synced = b'"synced": %d' % (size if orderly else 0)
        record.write_bytes(re.sub(rb'"synced": \d+', synced, record.read_bytes()))
        self.site.requests.clear()

    @property
    def part(self) -> Path:
        return self.folder / f"{NAME}.part"

    def test_anywhere(self) -> None:
        """The next run goes on at the same byte, in a copied piece or in a fetched one."""
        piece = self.pieces[1]
        for size in (
            *(1, self.pieces[0].end - 1, self.pieces[0].end, piece.start + 1),
            *(piece.end - 1, piece.end, self.pieces[3].start + 1, self.pieces[3].end),
            *(self.size - 1, self.size),
        ):
            with self.subTest(size=size):
                self.interrupt(size)
                fetched = self.fetch()
                self.assertEqual(fetched, self.pieces[0].length + self.pieces[3].length)
                missing = [
                    each.end - max(each.start, size)
                    for each in (self.pieces[0], self.pieces[3])
                    if each.end > size
                ]
                self.assertEqual(self.site.sent if self.site.ranges else 0, sum(missing))
                self.assert_verified()
                (self.folder / NAME).unlink()

    def test_rotten_rest(self) -> None:
        """If a piece changes after its beginning was copied, its rest is requested."""
        piece, index = self.pieces[1], index_of(OLD_ARCHIVE)
        self.interrupt(piece.start + 1000)
        self.reports.clear()
        self.store().write_index(OLD, index)
        with self.old.open("r+b") as file:
            file.seek(index.pieces[1].start)
            file.write(b"rotten")
        fetched = self.fetch()
        self.assertEqual(self.site.sent, piece.length - 1000 + self.pieces[3].length)
        last = self.reports[-1]
        self.assertEqual((last.received, last.total), (fetched, fetched))
        self.assertEqual(last.here, self.size - fetched)
        self.assert_verified()

    def test_killed(self) -> None:
        """After a kill, the last bytes are not trusted to be on the disk."""
        self.interrupt(self.pieces[2].end, orderly=False)
        self.fetch()
        self.assert_verified()

    def test_index_lost(self) -> None:
        """Without the index, the next run downloads what is missing of the whole."""
        size = self.pieces[1].start + 1000
        self.interrupt(size)
        self.site.index = None
        self.fetch()
        self.assertEqual(self.site.ranges, [f"bytes={size}-"])
        self.assert_verified()

    def test_last_good_lost(self) -> None:
        """So it does without the last good archive."""
        size = self.pieces[1].start + 1000
        self.interrupt(size)
        self.old.unlink()
        self.fetch()
        self.assertEqual(self.site.ranges, [f"bytes={size}-"])
        self.assert_verified()

    def test_whole_begun(self) -> None:
        """A download of the whole that was interrupted goes on with what is here."""
        fetching = self.begin(whole=True)
        peer = self.network.accept()
        start = self.site.data[: self.pieces[1].start + 5]
        peer.answer("200 OK", 'ETag: "one"', f"Content-Length: {self.size}", body=start)
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        self.fetch()
        piece = self.pieces[3]
        self.assertEqual(self.site.ranges, [f"bytes={piece.start}-{piece.end - 1}"])
        self.assert_verified()

    def test_broken_connection(self) -> None:
        """A range that breaks off is continued after a pause."""
        piece = self.pieces[3]
        fetching = self.begin()
        cut = self.site.data[piece.start : piece.start + 1000]
        range_ = f"bytes={piece.start}-{piece.end - 1}"
        while not self.site.requests or range_ not in self.site.requests[-1]:
            peer = self.network.accept()
            if f"Range: {range_}" in peer.request:
                peer.answer(
                    "206 Partial Content",
                    f"Content-Range: bytes {piece.start}-{piece.end - 1}/{self.size}",
                    f"Content-Length: {piece.length}",
                    body=cut,
                )
                peer.reset()
                break
            self.site._serve(peer)
        self.network.clock.advance(1)
        self.site.serve()
        self.successResultOf(fetching)
        self.assertEqual(self.site.ranges[-1], f"bytes={piece.start + 1000}-{piece.end - 1}")


class OddTests(AssemblyCase):
    """If anything is odd, the whole is downloaded, or what is missing of it."""

    def test_no_index(self) -> None:
        """A server that has no index sends the whole."""
        self.site.index = None
        self.assert_whole()

    def test_bad_index(self) -> None:
        """An index that cannot be one of this archive is not used."""
        good = self.site.index
        assert good is not None
        for bad in (
            *(b"", b"<html>", good[:-1], b"[" * MAX_INDEX, b" " * (MAX_INDEX + 1)),
            index_of(archive(NEW, 1, 2, 3, 4)).to_json(),
            good.replace(b'"size":', b'"size":1'),
            b'{"size":0,"sha256":"%s","pieces":[]}' % (b"0" * 64),
            b'{"size":1,"sha256":"%s","pieces":%s}'
            % (b"0" * 64, b"[" + b",".join([b'[1,"A"]'] * (MAX_PIECES + 1)) + b"]"),
        ):
            with self.subTest(bad[:40]):
                self.site.requests.clear()
                self.site.index = bad
                self.assert_whole()
                (self.folder / NAME).unlink()

    def test_small(self) -> None:
        """The index of a small archive is not requested."""
        self.offer(archive(NEW, 1, size=10_000))
        self.fetch()
        self.assertEqual(self.site.requests, [f"/update/{NAME}"])

    def test_no_last_good(self) -> None:
        """Without a last good archive, or one that can be read, no index is requested."""
        for make in (
            lambda: None,
            lambda: os.mkfifo(self.old),
            lambda: self.old.mkdir(),
        ):
            with self.subTest(make):
                self.site.requests.clear()
                if self.old.exists():
                    self.old.unlink()
                make()
                self.fetch()
                self.assertEqual(self.site.requests, [f"/update/{NAME}"])
                self.successResultOf(self.verify())[1].close()

    def test_nothing_in_common(self) -> None:
        """A delta that saves little is not used."""
        self.old.write_bytes(archive(OLD, 7, 8))
        self.assert_whole()

    def test_index_not_ready(self) -> None:
        """A box waits for an index that the server still computes, but not for long."""
        busy = ("503 Service Unavailable", ["Retry-After: 2"], b"")
        fetching = self.begin()
        for _ in range(3):
            peer = self.network.accept()
            self.assertIn(".pieces", peer.request)
            peer.answer(busy[0], *busy[1], "Content-Length: 0")
            self.assertFalse(self.network.clock.tcpClients)
            self.network.clock.advance(2)
        self.site.serve()
        self.assertLess(self.successResultOf(fetching)[1], self.size)

    def test_index_never_ready(self) -> None:
        """After a minute the whole is downloaded."""
        fetching = self.begin()
        for _ in range(30):
            peer = self.network.accept()
            self.assertIn(".pieces", peer.request)
            peer.answer("503 Service Unavailable", "Retry-After: 2", "Content-Length: 0")
            self.network.clock.advance(2)
        self.site.serve()
        self.assertEqual(self.successResultOf(fetching)[1], self.size)

    def test_index_much_later(self) -> None:
        """So it is at once if the server names a later time."""
        fetching = self.begin()
        peer = self.network.accept()
        peer.answer("503 Service Unavailable", "Retry-After: 60", "Content-Length: 0")
        self.site.serve()
        self.assertEqual(self.successResultOf(fetching)[1], self.size)

    def test_silent_server(self) -> None:
        """So it is if the server does not answer, or not to the end."""
        for answer in ((), ("200 OK", "Content-Length: 1000")):
            with self.subTest(answer=answer):
                fetching = self.begin()
                peer = self.network.accept()
                if answer:
                    peer.answer(*answer, body=b"[")
                self.network.clock.advance(60)
                self.site.serve()
                self.assertEqual(self.successResultOf(fetching)[1], self.size)
                (self.folder / f"{NAME}.part").unlink()

    def test_200_for_range(self) -> None:
        """The whole in answer to a range is taken, without what is here already."""
        self.site.answer = lambda range_: self.site.usual(None)
        self.assertEqual(self.fetch(), self.size)
        self.assert_verified()

    def test_200_for_later_range(self) -> None:
        """So it is after pieces were copied; these do not travel again into the file."""
        first = f"bytes=0-{self.pieces[0].end - 1}"
        self.site.answer = lambda range_: None if range_ == first else self.site.usual(None)
        fetched = self.fetch()
        self.assertEqual(fetched, self.size - self.pieces[1].length - self.pieces[2].length)
        self.assertEqual(len(self.site.ranges), 2)
        self.assert_verified()

    def test_end_ignored(self) -> None:
        """A server that sends everything from the beginning of a range is asked no more."""
        self.site.answer = lambda range_: self.site.usual(range_ and re.sub("-.*", "-", range_))
        self.fetch()
        self.assertEqual(len(self.site.ranges), 1)
        self.assert_verified()

    def test_416(self) -> None:
        """A server that has no such range sends the whole."""
        self.site.answer = lambda range_: (
            ("416 Range Not Satisfiable", [f"Content-Range: bytes */{self.size}"], b"")
            if range_
            else None
        )
        self.fetch()
        self.assertEqual(self.site.ranges[-1], "")
        self.assert_verified()

    def test_ranges_not_allowed(self) -> None:
        """A server that refuses ranges with an end is asked for the rest."""
        self.site.answer = lambda range_: (
            ("400 Bad Request", [], b"") if range_ and not range_.endswith("-") else None
        )
        fetching = self.begin()
        self.site.serve()
        self.network.clock.advance(2)
        self.site.serve()
        self.assertEqual(self.successResultOf(fetching)[1], self.size)

    def test_archive_gone(self) -> None:
        """An archive that the server has withdrawn is not asked for again."""
        self.site.answer = lambda range_: NOT_FOUND
        fetching = self.begin()
        self.site.serve()
        self.failureResultOf(fetching, ServerFailed)

    def test_range_of_other_file(self) -> None:
        """Bytes of another file of the same size are found in the end; the file is removed."""
        self.site.data = os.urandom(self.size)
        self.fetch()
        self.failureResultOf(self.verify(), WronglyJoined)
        self.assertEqual([each for each in os.listdir(self.folder) if ".part" in each], [])

    def test_range_of_file_of_other_size(self) -> None:
        """Bytes of a file of another size are not taken at all."""
        self.site.data += b"more"
        fetching = self.begin()
        for _ in range(200):
            self.site.serve()
            self.network.clock.advance(10)
        self.failureResultOf(fetching, DownloadFailed, ServerFailed)

    def test_lying_index(self) -> None:
        """An index that names a wrong piece leads to another archive, which is not accepted."""
        index = index_of(self.site.data)
        lie = list(index.pieces)
        theirs = index_of(OLD_ARCHIVE).pieces
        lie[3] = type(lie[3])(lie[3].start, theirs[3].length, theirs[3].digest)
        rest = lie[4]
        shift = lie[3].end - index.pieces[3].end
        lie[4] = type(rest)(lie[3].end, rest.length - shift, rest.digest)
        lying = Index(index.size, index.sha256, tuple(lie))
        self.site.index = lying.to_json()
        self.fetch()
        self.failureResultOf(self.verify(), WronglyJoined)

    def test_rotten_piece(self) -> None:
        """A piece that has changed on the disk is requested."""
        piece = index_of(OLD_ARCHIVE).pieces[1]
        fetching = self.begin()
        self.site._serve(self.network.accept())  # The index of the old archive is known now.
        with self.old.open("r+b") as file:
            file.seek(piece.start + 100)
            file.write(b"rotten")
        self.site.serve()
        promised, fetched = self.successResultOf(fetching)
        self.promised = promised
        whole = [self.pieces[number].length for number in (0, 1, 3)]
        self.assertEqual(fetched, sum(whole))
        self.assertEqual(self.reports[-1].received, fetched)
        self.assert_verified()

    def test_unreadable(self) -> None:
        """Where the disk fails, pieces are requested."""
        fetching = self.begin()
        self.site._serve(self.network.accept())
        with mock.patch("os.pread", side_effect=OSError(errno.EIO, "Input/output error")):
            self.site.serve()
        self.promised, fetched = self.successResultOf(fetching)
        self.assertEqual(fetched, self.size)
        self.assert_verified()

    def test_all_rotten(self) -> None:
        """When many pieces have changed, the rest is one request."""
        seeds = range(20, 35)
        self.old.write_bytes(archive(OLD, *seeds, size=90_000))
        self.offer(archive(NEW, *seeds, size=90_000))
        fetching = self.begin()
        self.site._serve(self.network.accept())
        os.truncate(self.old, 10)
        self.site.serve()
        self.promised, fetched = self.successResultOf(fetching)
        self.assertEqual(fetched, self.size)
        self.assertLess(len(self.site.ranges), 8)
        self.assert_verified()

    def test_last_good_replaced(self) -> None:
        """The last good archive that was opened stays open, whatever its name becomes."""
        fetching = self.begin()
        self.site._serve(self.network.accept())
        self.old.unlink()
        self.old.write_bytes(b"another")
        self.site.serve()
        self.assertLess(self.successResultOf(fetching)[1], self.size / 2)

    def test_closed(self) -> None:
        """No file stays open, however the download ends."""
        before = set(os.listdir("/proc/self/fd"))
        self.fetch()
        (self.folder / f"{NAME}.part").unlink()
        fetching = self.begin()
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        self.network.clock.tcpClients.clear()
        self.site.index = None
        self.fetch()
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)
