"""Assembles the box's agent from its services."""

import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.logger import Logger

from opq_twisted import __version__
from opq_twisted.box.config.mistakes import find_warnings
from opq_twisted.box.config.reader import read_config
from opq_twisted.box.config.settings import AGENT, MAX_NAME, BoxConfig
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.install.health import Health
from opq_twisted.box.install.inhibitor import Inhibitor
from opq_twisted.box.install.installer import Installer
from opq_twisted.box.install.preflight import Preflight
from opq_twisted.box.install.processes import ProcessRunner
from opq_twisted.box.install.units import SYSTEMD, TransientUnits, own_unit
from opq_twisted.box.install.unpacker import Unpacker
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.proxies import Proxies
from opq_twisted.box.network.report_client import ReportClient
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.offers.clock_floor import ClockFloor, kernel_is_synchronised
from opq_twisted.box.offers.long_poll import LongPoll
from opq_twisted.box.offers.lookup import OfferLookup
from opq_twisted.box.offers.policy import Policy
from opq_twisted.box.offers.tuf_lookup import SignedMetadata
from opq_twisted.box.report.compose import Composer
from opq_twisted.box.report.exchange import Exchange
from opq_twisted.box.report.identity import FILE, load_identity
from opq_twisted.box.report.record import ReportRecord
from opq_twisted.box.report.scheduler import ReportScheduler
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.status import Status, StatusBoard
from opq_twisted.box.state.versions import Installed, Rescued
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.scheduler import MAX_SPREAD, Scheduler
from opq_twisted.box.update.updater import Updater
from opq_twisted.box.watchdog import WatchdogService
from opq_twisted.box.web.auth import BasicAuth, read_password_hash
from opq_twisted.box.web.branding import read_branding
from opq_twisted.box.web.csrf import CsrfCheck
from opq_twisted.box.web.page_port import PagePort, inherited_sockets
from opq_twisted.box.web.resources import make_root
from opq_twisted.common import files
from opq_twisted.common.daemon_options import DaemonOptions
from opq_twisted.common.errors import CannotStart, ConfigInvalid
from opq_twisted.common.monotonic import use_monotonic_time
from opq_twisted.common.sd_notify import take_service_manager
from opq_twisted.common.sighup import SighupHandler
from opq_twisted.http.connection_limits import (
    RESERVE,
    ConnectionLimits,
    first_reserved,
    raise_descriptor_limit,
)
from opq_twisted.http.site import BoundedSite
from opq_twisted.report.codes import Waiting
from opq_twisted.trust.metadata_files import METADATA

#: Limits on simultaneous connections to the page: in total, per network (a /64 in IPv6, which may
#: be the whole home), and per address. A browser opens up to 6.
_CONNECTIONS = 256
_CONNECTIONS_OF_NETWORK = 192
_CONNECTIONS_OF_ADDRESS = 64

_log = Logger()

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENVIRONMENT = Path("/proc/self/environ")


class Options(DaemonOptions):
    """The command line of `opq-box-agent`."""

    program = "opq-box-agent"
    longdesc = "Keep an OPQ box up to date, and show its page with the Update Box button."
    optParameters = (
        ["config", "c", "/etc/opq/opqbox_config.json", "The box's configuration (JSON)"],
        ["port", "p", "8080", "TCP port of the page, or a Twisted endpoint description"],
        ["state-dir", "s", "/var/lib/opq/updater", "Directory for downloads and the journal"],
    )


def makeService(options: Options) -> IService:
    """
    Make the agent's service.

    :raises CannotStart: if the configuration or the state directory cannot be used.
    """
    use_monotonic_time(reactor)
    config, basic_auth = _read_settings(Path(options["config"]).absolute())
    for sentence in find_warnings(config):
        _log.warn("{sentence}", sentence=sentence)
    settings = config.updater
    state_dir = Path(options["state-dir"]).absolute()
    archives = ArchiveStore(state_dir / "archives")
    _prepare(state_dir, archives.folder)

    runner = ProcessRunner(reactor, reactor)
    has_systemd = SYSTEMD.is_dir() and os.geteuid() == 0
    units = TransientUnits(runner, settings.prefix, state_dir, has_systemd, own_unit())
    http = make_http_clients(reactor, Proxies(settings.proxy, os.environ))
    server = UpdateServerClient(
        reactor,
        http,
        config.updates_ep,
        lambda: _user_agent(config, installed),
    )
    installed = Installed(settings.version_file, settings.prefix / "IMAGE_VERSION")
    offers = OfferLookup(
        settings,
        server,
        SignedMetadata(reactor, server.read, state_dir / METADATA),
        ClockFloor(state_dir / "last-good-time", time.time, kernel_is_synchronised),
        installed,
    )
    journal = Journal(state_dir / "journal.json", _read_boot_id())
    deps = Dependencies(
        clock=reactor,
        config=settings,
        policy=Policy(config, installed, journal, time.time),
        offers=offers,
        installed=installed,
        downloader=Downloader(reactor, server, archives),
        archives=archives,
        unpacker=Unpacker(runner, state_dir / "unpacked"),
        inhibitor=Inhibitor(reactor, settings.inhibit_file, time.time),
        preflight=Preflight(units, settings),
        installer=Installer(runner, units, settings),
        health=Health(reactor, units, settings.services, settings.settle),
        rescued=Rescued(state_dir / "rescued"),
        journal=journal,
        board=StatusBoard(Status(name=_name(config), box_id=config.box_id)),
        now=time.time,
    )
    record = ReportRecord()
    sender = _make_sender(config, deps, server, state_dir, record, lambda: updater.waiting)
    updater = Updater(deps if sender is None else evolve(deps, reports=sender))
    agent = MultiService()
    for service in (
        PagePort(
            reactor,
            options["port"],
            BoundedSite(
                reactor,
                make_root(
                    reactor,
                    updater,
                    deps.board,
                    settings.hosts,
                    CsrfCheck(settings.programs),
                    basic_auth,
                    settings.log,
                    time.time,
                    read_branding(settings.page, settings.prefix / "current"),
                    record,
                ),
                _limits(),
            ),
            inherited_sockets(_ENVIRONMENT.read_bytes(), os.getpid()),
        ),
        http.idle,
        *([] if sender is None else [sender]),
        updater,
        Scheduler(
            deps,
            updater,
            LongPoll(reactor, server, min(settings.spread, MAX_SPREAD), random.random),
            random.random,
            lambda: server.retry_after_left,
        ),
        SighupHandler(reactor),
        # Must be the last: it reports that all others have started.
        WatchdogService(reactor, take_service_manager(os.environ, os.getpid()), state_dir),
    ):
        service.setServiceParent(agent)
    return agent


def _make_sender(
    config: BoxConfig,
    deps: Dependencies,
    server: UpdateServerClient,
    state_dir: Path,
    record: ReportRecord,
    waiting: Callable[[], Waiting | None],
) -> ReportScheduler | None:
    """
    Make the service that reports to the update server; None if the box does not report.

    :param record: gets the fingerprint of the box's key, and the reports.
    :param waiting: what a known release waits for.
    """
    settings, clock, board = config.updater, deps.clock, deps.board
    identity = load_identity(state_dir / FILE) if settings.report else None
    if identity is None:
        return None
    record.fingerprint = identity.fingerprint
    board.publish(fingerprint=identity.fingerprint)
    composer = Composer(
        identity=identity,
        config=config,
        token=None if settings.enrol_token is None else settings.enrol_token.value,
        installed=deps.installed,
        archives=deps.archives,
        journal=deps.journal,
        is_signed=lambda: deps.offers.signed,
        boot_id=_read_boot_id(),
        metadata=state_dir / METADATA,
        waiting=waiting,
        now=deps.now,
    )
    client = ReportClient(clock, server)
    exchange = Exchange(composer, identity, client, deps.journal, record, deps.now)

    def publish() -> None:
        if record.last is not None:
            board.publish(last_report=record.last.sent, report_answer=record.last.answer)

    return ReportScheduler(
        clock, exchange, composer, deps.journal, settings.spread, random.random, publish
    )


def _read_boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _read_settings(path: Path) -> tuple[BoxConfig, BasicAuth | None]:
    try:
        config = read_config(path)
        file = config.updater.web_password_file
        return config, None if file is None else BasicAuth(reactor, read_password_hash(file))
    except ConfigInvalid as error:
        raise CannotStart(str(error)) from None


def _name(config: BoxConfig) -> str:
    return config.updater.name or socket.gethostname()[:MAX_NAME]


def _limits() -> ConnectionLimits:
    """Raise the descriptor limit if needed, and derive the connection limits from it."""
    limit = raise_descriptor_limit(_CONNECTIONS + RESERVE)
    return ConnectionLimits(
        _CONNECTIONS, _CONNECTIONS_OF_NETWORK, _CONNECTIONS_OF_ADDRESS, first_reserved(limit)
    )


def _prepare(state_dir: Path, archive_dir: Path) -> None:
    """Create the state directory, and lock it for the life of the process."""
    try:
        archive_dir.mkdir(parents=True, exist_ok=True)
        files.lock(state_dir / "agent.lock")
    except BlockingIOError:
        raise CannotStart(
            f"Another agent uses {state_dir}. Stop it, or choose another --state-dir."
        ) from None
    except OSError as error:
        raise CannotStart(
            f"Cannot write in the state directory {state_dir}: {error.strerror}. "
            "Choose another --state-dir, or run the agent as root."
        ) from None


def _user_agent(config: BoxConfig, installed: Installed) -> str:
    release = installed.running or "unknown"
    return f"{AGENT}/{__version__} (box {config.box_id}; release {release})"
