"""A small box: it sends the requests of a real box, but only pretends to install releases."""

import platform
import random
import secrets
import time
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from tuf.api.metadata import Timestamp
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger

from demo.fates import Fate, Fates
from demo.small_attempts import begin_attempt, end_attempt
from opq_twisted import __version__
from opq_twisted.box.config.settings import AGENT
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.report_client import ReportClient
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.offers.long_poll import LongPoll
from opq_twisted.box.offers.tuf_lookup import SignedMetadata
from opq_twisted.box.report.answers import Verdict
from opq_twisted.box.report.exchange import Exchange
from opq_twisted.box.report.identity import FILE, Identity, load_identity
from opq_twisted.box.report.record import ReportRecord
from opq_twisted.box.state.journal import Journal
from opq_twisted.common.errors import OpqError
from opq_twisted.report.codes import Waiting
from opq_twisted.report.document import MAX_ATTEMPTS, AttemptReport, Report
from opq_twisted.trust.metadata_files import METADATA
from opq_twisted.trust.offer import STABLE, Offer, read_offer
from opq_twisted.trust.pace import read_pace

#: The box waits for a new release for so many seconds in one request.
_WAIT = 300.0

#: Seconds after a failure until the next request.
_RETRY_DELAY = 1.0


@frozen(kw_only=True)
class Habits:
    """The common settings of all small boxes; times are in seconds."""

    #: The URL of the update server.
    server: str
    #: The trusted root.
    root: bytes
    #: The release that they run at the start.
    release: int
    #: The time between two reports. Each report promises the next one within twice this time.
    report_every: float
    #: The longest delay of a check, which is random.
    spread: float
    #: The longest time of an installation; the shortest one is half of it.
    install: float
    fates: Fates


def make_identity(folder: Path) -> Identity:
    """Read the key in the folder of a box; make the folder and the key if they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = load_identity(folder / FILE)
    assert identity is not None, f"{folder} cannot be used"
    return identity


class SmallBox:
    """
    Follows the signed metadata and the pace, waits for its turn, and sends reports.

    All of that is the code of a real box, and the reports are signed by the box's own key. It
    downloads no archive, and its installation is only a pause, after which it has a result.
    """

    _log = Logger()

    def __init__(self, reactor: Any, habits: Habits, number: int, folder: Path) -> None:
        """:param folder: for its key and its copy of the signed metadata."""
        self._reactor = reactor
        self._habits = habits
        self.number = number
        self._identity = make_identity(folder)
        server = UpdateServerClient(
            reactor, make_http_clients(reactor), habits.server, self._user_agent
        )
        self._metadata = SignedMetadata(reactor, server.read, folder / METADATA)
        self._long_poll = LongPoll(reactor, server, habits.spread, random.random)
        self._boot = secrets.token_hex(4)
        self._exchange = Exchange(
            self,
            self._identity,
            ReportClient(reactor, server),
            Journal(folder / "journal.json", self._boot),
            ReportRecord(),
            time.time,
        )
        self._exchange_lock = DeferredLock()
        self._release = habits.release
        self._timestamp: Timestamp | None = None
        self._waiting: Waiting | None = None
        self._refused: tuple[int, ...] = ()
        #: The attempts whose outcomes the server does not know yet.
        self._attempts: tuple[AttemptReport, ...] = ()
        self._is_installing = False

    def start(self) -> None:
        """Begin to follow the server."""
        for loop in (self._follow(), self._report_regularly()):
            running = Deferred.fromCoroutine(loop)
            running.addErrback(lambda failure: self._log.failure("a small box failed", failure))

    def compose(self, seq: int, introduce: bool = False, most: int = MAX_ATTEMPTS) -> Report:
        """See `ReportComposer`."""
        timestamp, habits = self._timestamp, self._habits
        return Report(
            key=self._identity.fingerprint,
            seq=seq,
            box=self.number,
            agent=__version__,
            release=self._release,
            channel=STABLE,
            install="automatic",
            root=1,
            snapshot=None if timestamp is None else timestamp.snapshot_meta.version,
            boot=self._boot,
            arch=platform.machine(),
            python=".".join(platform.python_version_tuple()[:2]),
            waiting=None if self._waiting is None else self._waiting.value,
            last_good=self._release,
            refused=self._refused,
            attempts=self._attempts[-most:],
            next_in=round(2 * habits.report_every),
            pubkey=self._identity.public.hex() if introduce else None,
        )

    def _user_agent(self) -> str:
        return f"{AGENT}/{__version__} (box {self.number}; release {self._release})"

    async def _report_regularly(self) -> None:
        await self._pause(self._habits.report_every * random.random())
        while True:
            # During an installation, a box sends no report until it knows the outcome.
            if not self._is_installing:
                await self._report()
            await self._pause(self._habits.report_every)

    async def _follow(self) -> None:
        while True:
            try:
                if await self._long_poll.wait(_WAIT):
                    await self._pause(self._habits.spread * random.random())
                    await self._check()
            except OpqError as error:
                self._log.info("box {number}: {error}", number=self.number, error=error)
                await self._pause(_RETRY_DELAY)

    async def _check(self) -> None:
        """Look up the offered release, and install it if it is this box's turn."""
        habits = self._habits
        url = f"{habits.server}/{METADATA}/"
        found = await self._metadata.look_up(url, habits.root, STABLE)
        self._timestamp = found.timestamp
        if found.target is None:
            return
        offer = read_offer(found.target)
        offer = evolve(offer, pace=read_pace(found.timestamp, STABLE, offer.version))
        self._waiting = self._why_not(offer)
        if offer.version > self._release and self._waiting is None:
            await self._install(offer)

    def _why_not(self, offer: Offer) -> Waiting | None:
        """Return the reason to wait with a release; None if it is installed, or can be."""
        if offer.version <= self._release:
            return None
        if offer.version in self._refused:
            return Waiting.REFUSED
        if offer.is_held_back or offer.is_stopped:
            return Waiting.HELD
        is_turn = offer.is_turn_of(self.number) and not offer.is_slowed_for(self.number)
        return None if is_turn else Waiting.TURN

    async def _install(self, offer: Offer) -> None:
        self._is_installing = True
        attempt = begin_attempt(offer, self._release)
        self._attempts += (attempt,)
        await self._report()
        fate = self._habits.fates.deal(offer.version)
        self._log.info(
            "box {n}: {release}: {fate}", n=self.number, release=offer.version, fate=fate
        )
        if fate is Fate.SILENT:
            # The coroutine stops here, as if the box had lost its power.
            await Deferred[None]()
        await self._pause(self._habits.install * random.uniform(0.5, 1))
        self._boot = secrets.token_hex(4)
        if fate is Fate.UPDATED:
            self._release = offer.version
        else:
            self._refused += (offer.version,)
            self._waiting = Waiting.REFUSED
        ended = end_attempt(attempt, fate)
        self._attempts = tuple(ended if each is attempt else each for each in self._attempts)
        self._is_installing = False
        await self._report()

    async def _report(self) -> None:
        """Send a report; if it is not accepted, its content is part of the next one."""
        async with self._exchange_lock:
            result = await self._exchange.send()
        if result.verdict is not Verdict.ACCEPTED:
            self._log.info("box {n}: {why}", n=self.number, why=result.sentence)
        self._attempts = tuple(each for each in self._attempts if each.id not in result.done)

    async def _pause(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds)
