"""Makes a report from the journal and the state of the agent."""

import hashlib
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from opq_twisted import __version__
from opq_twisted.box.config.settings import BoxConfig
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.report.identity import Identity
from opq_twisted.box.report.promise import choose_promise
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.versions import Installed
from opq_twisted.common import files, strict_json
from opq_twisted.report.codes import Waiting
from opq_twisted.report.document import (
    ATTEMPT_ID,
    MAX_ATTEMPTS,
    MAX_REFUSED,
    VERSION,
    WORD,
    AttemptReport,
    Report,
)
from opq_twisted.report.signature import proof_of

#: Hexadecimal digits: enough to tell a start of the machine from the one before.
_BOOT_LENGTH = 8

#: Bytes of a metadata file; the version in a larger one is not reported.
_MAX_METADATA = 64 * 1024

_UNKNOWN = "unknown"


@frozen(kw_only=True)
class Composer:
    """
    Composes reports that the server's `parse` accepts, whatever the journal contains.

    Of what the agent knows, nothing but the fields of a `Report` leaves the box: no names,
    addresses, paths or sentences.
    """

    _identity: Identity
    _config: BoxConfig
    #: The token of the fleet; None if the box needs none.
    _token: str | None
    _installed: Installed
    _archives: ArchiveStore
    _journal: Journal
    #: Whether the box has a trusted root.
    _is_signed: Callable[[], bool]
    #: As the kernel gives it; a part of its hash is reported.
    _boot_id: str
    #: The folder of the signed metadata.
    _metadata: Path
    _waiting: Callable[[], Waiting | None]
    #: The time of day, in seconds since the epoch.
    _now: Callable[[], float]

    def compose(self, seq: int, introduce: bool = False, most: int = MAX_ATTEMPTS) -> Report:
        """
        Make a report of this moment.

        :param introduce: add the public key, and with a token the proof that the box knows it.
        :param most: the number of attempts, at least 1; if there are more, the newest are reported.
        """
        public, settings = self._identity.public, self._config.updater
        waiting = self._waiting()
        return Report(
            key=self._identity.fingerprint,
            seq=_clamped(seq),
            box=_whole(self._config.box_id) or 0,
            agent=__version__ if VERSION.fullmatch(__version__) else _UNKNOWN,
            release=_whole(self._installed.running),
            channel=settings.channel,
            install=settings.install,
            root=self._metadata_version("root.json"),
            snapshot=self._metadata_version("snapshot.json"),
            boot=hashlib.sha256(self._boot_id.encode()).hexdigest()[:_BOOT_LENGTH],
            arch=platform.machine() if VERSION.fullmatch(platform.machine()) else _UNKNOWN,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            waiting=None if waiting is None else waiting.value,
            last_good=self._last_good,
            refused=self._refused,
            attempts=self._attempts(max(1, min(most, MAX_ATTEMPTS))),
            next_in=choose_promise(waiting, self._journal.entry.attempts, self._now()),
            pubkey=public.hex() if introduce else None,
            proof=proof_of(self._token, public) if introduce and self._token else None,
        )

    def _attempts(self, most: int) -> tuple[AttemptReport, ...]:
        """Return the newest attempts that the server does not know with their outcomes."""
        recorded = {each.uuid: each for each in self._journal.entry.attempts}
        found = [_ended(each) for each in recorded.values() if _is_to_be_reported(each)]
        found += [each for each in self._under_way() if each.id not in recorded]
        return tuple(found[-most:])

    def _under_way(self) -> Iterator[AttemptReport]:
        """
        Give the attempt that is under way, if it may have changed the box.

        Earlier it may still end without an outcome, for example because there is no update.
        """
        entry = self._journal.entry
        if not entry.stage.may_be_live or not ATTEMPT_ID.fullmatch(entry.uuid):
            return
        size, fetched = entry.transfer
        yield AttemptReport(
            id=entry.uuid,
            release=None if entry.release is None else _whole(entry.release.version),
            previous=_whole(entry.previous),
            began=_clamped(entry.started),
            took=_clamped(self._now() - entry.started),
            automatic=entry.automatic,
            stage=entry.stage.value,
            tries=_clamped(entry.tries),
            fetched=_whole(fetched),
            size=_whole(size),
        )

    @property
    def _last_good(self) -> int | None:
        try:
            good = self._archives.last_good
        except OSError:
            return None
        return None if good is None else _whole(good.version)

    @property
    def _refused(self) -> tuple[int, ...]:
        versions = (each.version for each in self._journal.entry.refused)
        return tuple(each for each in versions if _whole(each) is not None)[-MAX_REFUSED:]

    def _metadata_version(self, name: str) -> int | None:
        """Read the version of a file of the signed metadata that the box trusts."""
        if not self._is_signed():
            return None
        try:
            content = strict_json.parse(files.read(self._metadata / name, _MAX_METADATA))
            version = content["signed"]["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return _whole(version) if type(version) is int else None


def _is_to_be_reported(attempt: Attempt) -> bool:
    legible = ATTEMPT_ID.fullmatch(attempt.uuid) and WORD.fullmatch(attempt.outcome)
    return not attempt.reported and legible is not None


def _ended(attempt: Attempt) -> AttemptReport:
    return AttemptReport(
        id=attempt.uuid,
        release=_whole(attempt.version),
        previous=_whole(attempt.previous),
        began=_clamped(attempt.started),
        took=_clamped(attempt.ended - attempt.started),
        automatic=attempt.automatic,
        stage=attempt.stage if WORD.fullmatch(attempt.stage) else _UNKNOWN,
        outcome=attempt.outcome,
        reason=attempt.code if WORD.fullmatch(attempt.code) else None,
        tries=_clamped(attempt.tries),
        fetched=_whole(attempt.fetched),
        size=_whole(attempt.size),
    )


def _clamped(number: float) -> int:
    """Return the nearest number that a report can contain; 0 for none at all (NaN)."""
    # In this order: max(0, NaN) is 0.
    return int(min(max(0, number), strict_json.MAX_NUMBER))


def _whole(number: int | None) -> int | None:
    """Return a number that a report can contain; None for any other."""
    return number if number is not None and 0 <= number <= strict_json.MAX_NUMBER else None
