"""Find the release that a box may install, by its trusted root and what the release key signed."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen
from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Timestamp
from tuf.ngclient import FetcherInterface, TargetFile, Updater, UpdaterConfig

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.common.errors import InvalidName, Untrusted
from opq_twisted.trust.key_ids import require_own_ids_in

#: What the boxes follow that are told nothing else.
STABLE = "stable"

#: The folder of the signed metadata, beside the archives and on the wire.
METADATA = "tuf"

_ROOT_SUFFIX = ".root.json"

#: Characters; of longer notes a box shows the beginning.
MAX_NOTES = 4000

#: What a channel's `custom` says of its release before; all else holds for the newest only.
_KEPT_OF_BEFORE = ("version", "file", "notes")

_CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_SALT = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


def is_channel(name: str) -> bool:
    """Whether a channel may have this name."""
    return _CHANNEL.fullmatch(name) is not None


@frozen
class Rollout:
    """Which part of the boxes a release is for."""

    percent: int
    salt: str

    def includes(self, version: int, box_id: int) -> bool:
        """Whether it is this box's turn; a larger percentage only ever adds boxes."""
        digest = hashlib.sha256(f"{self.salt}{version}{box_id}".encode()).digest()
        return int.from_bytes(digest, "big") % 10_000 < 100 * self.percent


@frozen
class Offer:
    """A release that a box is offered: signed, or by the word of the server alone."""

    version: int
    #: Bytes; None while nobody has said.
    size: int | None = None
    #: In hexadecimal, by algorithm.
    hashes: Mapping[str, str] = Factory(dict)
    #: Whether it may be older than what the box has.
    allow_downgrade: bool = False
    #: Whether it is for every box at once, whatever its rollout says.
    critical: bool = False
    rollout: Rollout | None = None
    #: What its makers say of it, for the owner of the box.
    notes: str | None = None
    #: The last release before it that was for all boxes; those whose turn has not come take it.
    before: "Offer | None" = None
    #: Whether the release key signed all of this.
    signed: bool = field(default=False, eq=False)

    @property
    def is_for_all(self) -> bool:
        """Whether it is the turn of every box."""
        return self.critical or self.rollout is None or self.rollout.percent == 100

    @property
    def is_held_back(self) -> bool:
        """Whether it is the turn of no box."""
        return not self.critical and self.rollout is not None and self.rollout.percent == 0

    def is_turn_of(self, box_id: int) -> bool:
        """Whether a box that nobody clicks on takes it now."""
        return self.critical or self.rollout is None or self.rollout.includes(self.version, box_id)


def read_offer(channel: TargetFile) -> Offer:
    """
    Read the target that a channel is: the newest archive's length and hashes, and `custom`.

    :raises Untrusted: when it does not describe one release, in all that a box acts upon.
    """
    custom = channel.custom if isinstance(channel.custom, dict) else {}
    file, version = custom.get("file"), custom.get("version")
    try:
        named = UpdateName.parse(file if isinstance(file, str) else "").version
    except InvalidName:
        raise _bad(channel, "it names no archive") from None
    if type(version) is not int or version != named:
        raise _bad(channel, f"its version is not that of {file}")
    if "sha256" not in channel.hashes:
        raise _bad(channel, "it has no SHA-256")
    before = read_before(channel)
    return Offer(
        version=version,
        size=channel.length,
        hashes=dict(channel.hashes),
        allow_downgrade=_flag(channel, custom, "allow_downgrade"),
        critical=_flag(channel, custom, "critical"),
        rollout=_rollout(channel, custom),
        notes=_notes(custom),
        before=None if before is None else read_offer(before),
        signed=True,
    )


def read_before(channel: TargetFile) -> TargetFile | None:
    """
    Read the release before that of a channel: the channel's target as it was then.

    It is `custom.before`, written as TUF writes a target. Of its own `custom` only the version, the
    file and the notes count. It never takes a box back, and reaches all boxes.

    :returns: None when there is none.
    :raises Untrusted: when it is no target, or no older release.
    """
    custom = channel.custom if isinstance(channel.custom, dict) else {}
    value, version = custom.get("before"), custom.get("version")
    if value is None:
        return None
    try:
        known = value["custom"]
        kept = {key: known[key] for key in _KEPT_OF_BEFORE if key in known}
        before = TargetFile(value["length"], value["hashes"], channel.path, {"custom": kept})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _bad(channel, "the release before is not described as a target") from None
    if type(before.length) is not int:
        raise _bad(channel, "the length of the release before is not a whole number")
    older = kept.get("version")
    if type(older) is not int or type(version) is not int or older >= version:
        raise _bad(channel, "the release before is not older")
    return before


def read_needed_before(channel: TargetFile) -> TargetFile | None:
    """
    Read the release before that of a channel, while there are boxes that take it.

    There is none while the channel's release is for all boxes. What it says of the release before
    is for the case that this one is held back, or withdrawn, after all.

    :raises Untrusted: as `read_offer`.
    """
    return None if read_offer(channel).is_for_all else read_before(channel)


def describe_before(channel: TargetFile) -> dict[str, Any]:
    """Write down a channel as the release before, for `read_before`."""
    custom = {key: channel.custom[key] for key in _KEPT_OF_BEFORE if key in channel.custom}
    return {"length": channel.length, "hashes": channel.hashes, "custom": custom}


def _flag(channel: TargetFile, custom: Mapping[str, Any], name: str) -> bool:
    value = custom.get(name, False)
    if not isinstance(value, bool):
        raise _bad(channel, f"its {name} is neither true nor false")
    return value


def _rollout(channel: TargetFile, custom: Mapping[str, Any]) -> Rollout | None:
    value = custom.get("rollout")
    if value is None:
        return None
    percent, salt = (
        (value.get("percent"), value.get("salt")) if isinstance(value, dict) else (None, None)
    )
    if (
        # A bool is no number here, and signed metadata cannot hold fractions (canonical JSON).
        type(percent) is not int
        or not 0 <= percent <= 100
        or not isinstance(salt, str)
        or not _SALT.fullmatch(salt)
    ):
        raise _bad(
            channel, "its rollout is not {percent: a whole number from 0 to 100, salt: text}"
        )
    return Rollout(percent, salt)


def _notes(custom: Mapping[str, Any]) -> str | None:
    """Read what is said of a release; a box acts upon none of it, and follows it all the same."""
    notes = custom.get("notes")
    return notes[:MAX_NOTES] if isinstance(notes, str) else None


def _bad(channel: TargetFile, reason: str) -> Untrusted:
    return Untrusted(
        f"The release key signed a channel {channel.path!r} that no box can follow: {reason}. "
        "Its operator has to publish the release again."
    )


class Need(Exception):
    """The lookup cannot go on without a file: fetch it, and look up again."""

    def __init__(self, url: str, max_length: int) -> None:
        super().__init__(url)
        self.url = url
        #: Bytes; a longer file is of no use.
        self.max_length = max_length


class Fetched(FetcherInterface):
    """
    The files that were fetched during one lookup.

    TUF's client fetches in the middle of its work. This one lets it begin again instead whenever it
    lacks a file, which the specification allows at any point, so that it never waits for a network.
    """

    def __init__(self) -> None:
        self._answers: dict[str, bytes | DownloadError] = {}

    def keep(self, url: str, answer: bytes | DownloadError) -> None:
        """Keep what came: a file, or that there is none."""
        self._answers[url] = answer

    @property
    def last(self) -> tuple[str, bytes | DownloadError] | None:
        """The file that was fetched last: its URL, and what came; None before the first."""
        return next(reversed(self._answers.items()), None)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """
        Give a file that was fetched.

        :raises Need: when it was not fetched yet.
        :raises DownloadError: when it could not be fetched.
        """
        if url not in self._answers:
            # A signed length may be any number: whoever has the timestamp's key chooses it.
            raise Need(url, min(max_length, longest(url)))
        answer = self._answers[url]
        if isinstance(answer, DownloadError):
            raise answer
        if url.endswith(_ROOT_SUFFIX):
            # Before it is verified, and kept.
            require_own_ids_in(answer)
        return answer

    def _fetch(self, url: str) -> Any:
        raise NotImplementedError("archives are fetched by the box's own downloader")


def longest(url: str) -> int:
    """
    Say how many bytes a box reads of a file of metadata, whatever other metadata says of it.

    :param url: its URL or its name, as `2.targets.json`; a delegated role counts as targets.
    """
    role = url.rsplit("/", 1)[-1].split(".")[-2]
    config = UpdaterConfig()
    most: int = getattr(config, f"{role}_max_length", config.targets_max_length)
    return most


def look_up(
    cache: Path,
    base_url: str,
    root: bytes,
    fetched: Fetched,
    target: str | None,
) -> TargetFile | None:
    """
    Go through TUF's client workflow (TUF specification, section 5), from the trusted root.

    It reads and writes the cache, and takes the time from the machine's clock. Run it in a thread.

    :param cache: the metadata that was trusted last, against rollback; a damaged one heals.
    :param target: what to look for; None to refresh only.
    :returns: None when nothing of that name is signed.
    :raises Need: when a file has to be fetched first.
    :raises Untrusted: when the trusted root itself cannot be used.
    :raises tuf.api.exceptions.RepositoryError: when something is not signed as it must be.
    :raises tuf.api.exceptions.DownloadError: what a file was answered with.
    :raises OSError: when the cache cannot be used.
    """
    try:
        require_own_ids_in(root)
        _forget_false_roots(cache)
        # A new one each time: it takes the time when it is made.
        updater = Updater(
            str(cache), base_url, fetcher=fetched, config=UpdaterConfig(), bootstrap=root
        )
    except RepositoryError as error:
        raise Untrusted(
            f"The box's trusted root cannot be used ({error}): put the root.json of the release "
            "key's holders in its place."
        ) from None
    updater.refresh()
    return None if target is None else updater.get_targetinfo(target)


def is_older_copy(cache: Path, fetched: Fetched, error: RepositoryError) -> bool:
    """
    Find out whether `look_up` failed because the server's timestamp is an older one.

    A copy of the metadata that lags behind has one that was signed as it must be, and is behind
    what the cache has: by its number, by its snapshot's, or because another root has replaced the
    key that signed it.

    :param cache: the one that was looked up with, after the failure.
    :param error: the failure.
    """
    url, data = fetched.last or ("", b"")
    if not url.endswith(f"/{Timestamp.type}.json") or not isinstance(data, bytes):
        return False
    if isinstance(error, UnsignedMetadataError):
        return _is_signed_for_older_root(cache, Metadata[Timestamp].from_bytes(data))
    # The client compares numbers after it has verified the signature.
    return isinstance(error, BadVersionNumberError)


def _is_signed_for_older_root(cache: Path, timestamp: Metadata[Timestamp]) -> bool:
    """Whether a timestamp that is not newer is signed as a root wanted it that was seen before."""
    try:
        seen = Metadata[Timestamp].from_file(str(cache / f"{Timestamp.type}.json"))
    except (RepositoryError, StorageError):
        return False
    if timestamp.signed.version > seen.signed.version:
        # Nobody lags with what is new: that is somebody who has a key that was replaced.
        return False
    for path in (cache / "root_history").glob("*.root.json"):
        try:
            root = Metadata[Root].from_file(str(path)).signed
            root.verify_delegate(Timestamp.type, timestamp.signed_bytes, timestamp.signatures)
        except (RepositoryError, StorageError, ValueError):
            continue
        return True
    return False


def _forget_false_roots(cache: Path) -> None:
    """Remove roots with false ids that were trusted by an earlier version of this program."""
    for path in (cache / "root_history").glob(f"*{_ROOT_SUFFIX}"):
        try:
            require_own_ids_in(files.read(path, longest(path.name)))
        except (RepositoryError, OSError):
            path.unlink()
