"""The objects that the modules of the updater share."""

from collections.abc import Callable
from typing import Protocol

from attrs import Factory, frozen
from twisted.internet.interfaces import IReactorTime

from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.install.health import Health
from opq_twisted.box.install.inhibitor import Inhibitor
from opq_twisted.box.install.installer import Installer
from opq_twisted.box.install.preflight import Preflight
from opq_twisted.box.install.unpacker import Unpacker
from opq_twisted.box.offers.lookup import OfferLookup
from opq_twisted.box.offers.policy import Policy
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.status import StatusBoard
from opq_twisted.box.state.versions import Installed, Rescued


class Reports(Protocol):
    """Sends reports about this box, unless its owner has switched them off."""

    async def before_install(self) -> None:
        """Report that a release is about to be installed, and wait for some seconds."""

    def attempt_ended(self) -> None:
        """Report how an attempt has ended."""

    def checked(self) -> None:
        """Report anything that is new after a check."""


class NoReports:
    """Reports nothing."""

    async def before_install(self) -> None:
        """See `Reports`."""

    def attempt_ended(self) -> None:
        """See `Reports`."""

    def checked(self) -> None:
        """See `Reports`."""


@frozen(kw_only=True)
class Dependencies:
    """Passed to the classes of these modules, instead of more than a dozen arguments."""

    clock: IReactorTime
    #: The time of day, in seconds since the epoch.
    now: Callable[[], float]
    config: UpdaterConfig
    policy: Policy
    offers: OfferLookup
    installed: Installed
    downloader: Downloader
    archives: ArchiveStore
    unpacker: Unpacker
    inhibitor: Inhibitor
    preflight: Preflight
    installer: Installer
    health: Health
    rescued: Rescued
    journal: Journal
    board: StatusBoard
    reports: Reports = Factory(NoReports)
