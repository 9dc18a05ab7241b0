"""Holders of the release keys with a real repository, a real server, and real clients."""

import atexit
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Timestamp
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.extract import unpack
from opq_twisted.common.errors import ArchiveRefused, KeyUnusable, OpqError, ReleaseFailed
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.signing import publish as publishing
from opq_twisted.signing.key_folder import KeyFolder
from opq_twisted.signing.publish import Terms, publish
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.root_keys import RootSigner
from opq_twisted.trust import pkcs8
from opq_twisted.trust.offer import Offer, read_offer
from opq_twisted.trust.tuf_client import Fetched, Need, look_up
from tests.helpers.archives import make_archive, name_of
from tests.helpers.failing_disk import counting
from tests.helpers.torture import stride

PASSPHRASE = b"open sesame, and quickly"
OLD, NEW, NEWER = 1_547_860_803, 1_547_947_203, 1_548_033_603
_URL = "https://updates.example/tuf/"
_KILLED = 9


class TufClient:
    """The TUF client of a box: it reads a local folder, and remembers the metadata it has seen."""

    def __init__(self, tuf: Path, root: int = 1) -> None:
        self.tuf = tuf
        self._root = (tuf / f"{root}.root.json").read_bytes()
        self._cache = Path(tempfile.mkdtemp(dir=tuf.parent.parent))

    def asks(self, channel: str = "stable") -> Offer | None:
        """Look up the newest release of a channel, and verify everything."""
        fetched = Fetched()
        while True:
            try:
                target = look_up(self._cache, _URL, self._root, fetched, channel)
            except Need as need:
                path = self.tuf / need.url.removeprefix(_URL)
                answer: bytes | DownloadHTTPError = DownloadHTTPError("not there", 404)
                if path.exists():
                    answer = path.read_bytes()
                fetched.keep(need.url, answer)
            else:
                return None if target is None else read_offer(target)

    def version(self, channel: str = "stable") -> int | None:
        """Return the version that the box is offered."""
        offer = self.asks(channel)
        return None if offer is None else offer.version


def save_time(test: SynchronousTestCase) -> None:
    """Make keys that are cheap to open, and validate archives in this process."""
    test.patch(pkcs8, "COST", 1 << 4)
    test.patch(publishing, "validate", _validate_here)


def _validate_here(archive: BinaryIO, version: int) -> None:
    """Validate like the child process, but in this process."""
    try:
        archive.seek(0)
        unpack.validate(archive, version)
    except ArchiveRefused as error:
        raise ReleaseFailed(f"Boxes would refuse this release: {error}") from None


def signer_in(place: Path, passphrase: bytes = PASSPHRASE) -> RootSigner:
    """Make a signer with keys and an updates directory in one folder."""
    (place / "updates").mkdir(parents=True, exist_ok=True)
    key_folder = KeyFolder(place / "keys", lambda: passphrase)
    return RootSigner(Repository(place / "updates"), key_folder, lambda: datetime.now(UTC))


@cache
def made(root_keys: int, root_threshold: int) -> Path:
    """Make keys and metadata once for all tests, because that takes long."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place)
    signer_in(place).init(root_keys, root_threshold, {})
    return place


class HoldersCase(SynchronousTestCase):
    """A release machine and a server; root is 1 of 1 unless a class sets other numbers."""

    root_keys, root_threshold = 1, 1

    def setUp(self) -> None:
        save_time(self)
        self.place = Path(self.mktemp()).absolute()
        # With new times: `status` reports a server that has signed nothing for minutes.
        made_before = made(self.root_keys, self.root_threshold)
        shutil.copytree(made_before, self.place, copy_function=shutil.copy)
        self.updates, self.tuf = self.place / "updates", self.place / "updates" / "tuf"
        self.keys = self.place / "keys"
        self.renew_signer()

    def renew_signer(self) -> None:
        """Make a signer that has read no file and opened no key."""
        self.signer = signer_in(self.place)
        self.repository, self.key_folder = self.signer.repository, self.signer.key_folder

    def archive(self, version: int, content: bytes = b"", where: Path | None = None) -> Path:
        place = where or self.place
        return make_archive(place / name_of(version), version, {"content": content})

    def publish(self, version: int, channel: str = "stable", **terms: Any) -> Offer:
        archive = self.archive(version)
        return publish(self.signer, archive, Terms(channel, **terms), lambda _: None).offer

    def serve(self) -> MetadataState:
        return serve(self.signer)

    def assert_served(self, version: int, box: TufClient | None = None) -> None:
        """The server offers a release without an alert, and a box finds it."""
        self.assertEqual(self.serve().alerts, ())
        self.assertEqual((box or self.box()).version(), version)

    def box(self) -> TufClient:
        return TufClient(self.tuf)

    def files(self) -> set[str]:
        """The files that boxes and mirrors see."""
        return {
            str(path.relative_to(self.updates))
            for path in self.updates.rglob("*")
            if not path.name.startswith(".")
        }

    def newest(self, role: str) -> Any:
        number = self.repository.numbers(role)[-1]
        return Metadata.from_file(str(self.tuf / f"{number}.{role}.json")).signed

    def assert_refused(
        self, work: Callable[[], object], *words: str, kind: type[OpqError] = ReleaseFailed
    ) -> None:
        """Nothing is changed, and a sentence says why."""
        before = {name: (self.updates / name).stat().st_mtime_ns for name in self.files()}
        with self.assertRaises(kind) as caught:
            work()
        sentence = str(caught.exception)
        for word in words:
            self.assertIn(word, sentence)
        self.assertNotIn("\n", sentence)
        self.assertTrue(sentence.endswith("."), sentence)
        after = {name: (self.updates / name).stat().st_mtime_ns for name in self.files()}
        self.assertEqual(after | {"tuf": 0}, before | {"tuf": 0})

    def interruptions(self, work: Callable[[], object]) -> Iterator[str]:
        """
        Interrupt `work` at a sample of its writes: first with an error, then by killing it.

        Each run begins with a fresh copy of the files; the last one is not interrupted.
        """
        saved = self.place.with_name("saved")
        shutil.copytree(self.place, saved)
        for first, interrupt in enumerate((fails_at, dies_at), 1):
            for number in itertools.count(first, stride(9)):
                interrupted = interrupt(number, work)
                self.renew_signer()
                yield f"{interrupt.__name__} {number}"
                shutil.rmtree(self.place)
                shutil.copytree(saved, self.place)
                self.renew_signer()
                if not interrupted:
                    break
            self.assertGreater(number, 4)


def fails_at(number: int, work: Callable[[], object]) -> bool:
    """Run `work` with a disk that is full at the n-th write; return whether it came to that."""
    with counting(number):
        try:
            work()
        except (OSError, KeyUnusable, ReleaseFailed) as error:
            if "No space left" not in str(error):
                raise
            return True
    return False


def dies_at(number: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child process that dies at the n-th write; return whether it died."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with counting(number, lambda: os._exit(_KILLED)):
                work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, _KILLED), status
    return status == _KILLED


def serve(signer: RootSigner) -> MetadataState:
    """Let the real server check the metadata, and sign a timestamp if one is needed."""
    repository = signer.repository
    catalog = Catalog(repository.updates)
    catalog.rescan()
    [key] = signer.key_folder.signers(repository.roots()[-1].signed, Timestamp.type)
    return refresh_timestamp(MetadataFolder(repository.updates), catalog.snapshot, key, time.time())
