"""Serves the server's list of archives in each of its states."""

import bz2
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tuf.api.metadata import TargetFile
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from opq_twisted.trust.offer import describe_before
from tests.browser.serving import listen, serve_all
from tests.helpers.archives import name_of
from tests.helpers.signed_metadata import Signed, channel

NOTES = (
    "Voltage events are no longer cut at 100 ms.\n"
    "The box finds its time server again after a power failure."
)
LONG_NOTES = "\n".join(
    f"{number}. <b>Line</b> {number} of many, with some words about a change."
    for number in range(1, 60)
)

_DAY = 86400
_NEWEST = int(time.time()) - 2 * _DAY

#: The beginning of a bzip2 file with a block, and a file without any.
_BEGINNING = b"BZh9" + bytes.fromhex("314159265359")
_EMPTY = bz2.compress(b"")

#: Makes the archives of a state in a folder, and returns the channels; None without signatures.
_Make = Callable[[Path], dict[str, TargetFile] | None]


def _releases(updates: Path, count: int) -> list[Path]:
    """Make archives, the oldest first, with two weeks and some hours between them."""
    versions = [_NEWEST - number * (13 * _DAY + 17_000) for number in range(count)]
    return [_archive(updates, each) for each in reversed(versions)]


def _archive(updates: Path, version: int) -> Path:
    """Make a file that the server takes for an archive, and that takes no room on the disk."""
    path = updates / name_of(version)
    with path.open("wb") as file:
        file.write(_BEGINNING)
        file.seek(12_000_000 + version % 1_000_000)
        file.write(_EMPTY)
    return path


def _partly(older: Path, newest: Path, notes: str = NOTES) -> TargetFile:
    """Offer a release to a quarter of the boxes, and the one before to the others."""
    before = describe_before(channel(older))
    custom = {"rollout": {"percent": 25, "salt": "x"}, "notes": notes, "before": before}
    return channel(newest, custom)


def _signed(updates: Path) -> dict[str, TargetFile]:
    *old, older, newest = _releases(updates, 6)
    return {
        **{each.name: channel(each) for each in old},
        "stable": _partly(older, newest),
        "beta": channel(newest, {"critical": True, "notes": NOTES}),
        "lab": channel(old[0], {"allow_downgrade": True}),
    }


def _unsigned(updates: Path) -> None:
    _releases(updates, 3)


def _empty(_updates: Path) -> None:
    pass


def _missing(updates: Path) -> dict[str, TargetFile]:
    *_, older, newest = _releases(updates, 4)
    channels = {"stable": _partly(older, newest), "beta": channel(newest)}
    newest.unlink()
    return channels


def _mismatch(updates: Path) -> dict[str, TargetFile]:
    older, newest = _releases(updates, 2)
    other = TargetFile(newest.stat().st_size, {"sha256": "0f" * 32}, newest.name)
    (updates / name_of(_NEWEST + _DAY)).write_bytes(b"BZh9 only the beginning")
    return {newest.name: other, "stable": channel(older)}


def _hostile(updates: Path) -> dict[str, TargetFile]:
    older, newest = _releases(updates, 2)
    _archive(updates, 999_999_999_999_999)
    channels = {f"{'x' * 28}-{number}": channel(newest) for number in range(100)}
    return {**channels, "stable": _partly(older, newest, LONG_NOTES)}


def _many(updates: Path) -> dict[str, TargetFile]:
    *_, newest = _releases(updates, 250)
    return {"stable": channel(newest)}


STATES: dict[str, _Make] = {
    "signed": _signed,
    "unsigned": _unsigned,
    "empty": _empty,
    "missing": _missing,
    "mismatch": _mismatch,
    "hostile": _hostile,
    "many": _many,
}


def serve(state: str, updates: Path) -> int:
    """Serve one state on a loopback port, and return the port."""
    channels = STATES[state](updates)
    catalog, digests = Catalog(updates), Digests(maybeDeferred)
    catalog.observers.append(digests.catalog_changed)
    catalog.rescan()
    metadata_state = MetadataState(present=False)
    if channels is not None:
        signed = Signed(updates).init()
        signed.targets(1, channels)
        signed.snapshot(1, 1)
        signed.timestamp(1, 1)
        metadata_state = refresh_timestamp(
            MetadataFolder(updates), catalog.snapshot, signed.keys["timestamp"], time.time()
        )
    root = make_root(
        catalog,
        digests,
        Indexes(maybeDeferred),
        Downloads(10),
        NewestVersion(cast(Any, reactor), catalog),
        metadata_state=lambda: metadata_state,
    )
    return listen(root)


if __name__ == "__main__":
    serve_all(STATES, serve)
