"""The release that a channel offers, and to which boxes."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from tuf.api.metadata import TargetFile

from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.release import Release
from opq_twisted.common.errors import InvalidName, Untrusted
from opq_twisted.trust.pace import ALL, BAKING, Pace

#: The channel that a box follows unless its configuration names another one.
STABLE = "stable"

#: Characters; a box shows only the beginning of longer notes.
MAX_NOTES = 4000

#: The fields of `custom` that are kept for the previous release of a channel.
_KEPT_FIELDS = ("version", "file", "notes")

_CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_SALT = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


def is_channel(name: str) -> bool:
    """Whether a channel may have this name."""
    return _CHANNEL.fullmatch(name) is not None


@frozen
class Rollout:
    """The share of the boxes that a release is for."""

    percent: int
    salt: str

    def includes(self, version: int, box_id: int, bp: int = ALL) -> bool:
        """
        Whether this box has its turn; a larger share only adds boxes.

        :param bp: a smaller share than `percent`, in hundredths of a percent.
        """
        digest = hashlib.sha256(f"{self.salt}{version}{box_id}".encode()).digest()
        return int.from_bytes(digest, "big") % ALL < min(100 * self.percent, bp)


@frozen
class Offer(Release):
    """A release that a box may install, from signed metadata or from an unsigned server."""

    #: Whether it may be older than the installed release.
    allow_downgrade: bool = False
    #: Whether it is for every box at once, regardless of its rollout.
    critical: bool = False
    rollout: Rollout | None = None
    #: Release notes for the owner of the box.
    notes: str | None = None
    #: The last earlier release that was for all boxes. Boxes install it until their turn comes.
    before: "Offer | None" = None
    #: Whether the release key signed all these fields.
    signed: bool = field(default=False, eq=False)
    #: The pace from the timestamp, which the release key did not sign; None: there is none, and the
    #: release is for those boxes for which it was signed.
    pace: Pace | None = None

    @property
    def release(self) -> Release:
        """The release alone, without the terms of the offer."""
        return Release(self.version, self.size, self.hashes)

    @property
    def is_for_all(self) -> bool:
        """Whether every box has its turn."""
        return self.critical or self.rollout is None or self.rollout.percent == 100

    @property
    def is_held_back(self) -> bool:
        """Whether no box has its turn."""
        return not self.critical and self.rollout is not None and self.rollout.percent == 0

    @property
    def is_stopped(self) -> bool:
        """Whether its pace lets no box install it without a click, even if it is critical."""
        return self.pace is not None and self.pace.state != BAKING

    def is_turn_of(self, box_id: int) -> bool:
        """Whether the release key lets this box install it now without a click."""
        return self.critical or self.rollout is None or self.rollout.includes(self.version, box_id)

    def is_slowed_for(self, box_id: int) -> bool:
        """Whether its pace makes this box wait; a pace only takes boxes away."""
        if self.pace is None or self.critical:
            return self.is_stopped
        rollout = self.rollout or Rollout(100, self.hashes["sha256"])
        return self.is_stopped or not rollout.includes(self.version, box_id, self.pace.bp)


def read_offer(channel: TargetFile) -> Offer:
    """
    Read the target of a channel: the length and hashes of its newest archive, and `custom`.

    :raises Untrusted: if a field that matters to a box is missing, wrong or contradictory.
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
    Read the previous release of a channel, as a target of the same channel.

    It is `custom.before`, in TUF's format of a target. Only the version, the file and the notes in
    its own `custom` count: it is for all boxes, and is never a downgrade.

    :returns: None if there is none.
    :raises Untrusted: if it is not a target, or not an older release.
    """
    custom = channel.custom if isinstance(channel.custom, dict) else {}
    value, version = custom.get("before"), custom.get("version")
    if value is None:
        return None
    try:
        known = value["custom"]
        kept = {key: known[key] for key in _KEPT_FIELDS if key in known}
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
    Read the previous release of a channel if there are boxes that install it.

    :returns: None if the newest release is for all boxes. Its previous release is used only after
        the newest one is held back or withdrawn.
    :raises Untrusted: as `read_offer`.
    """
    return None if read_offer(channel).is_for_all else read_before(channel)


def describe_before(channel: TargetFile) -> dict[str, Any]:
    """Describe the current release of a channel as the previous one, for `read_before`."""
    custom = {key: channel.custom[key] for key in _KEPT_FIELDS if key in channel.custom}
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
    terms = value if isinstance(value, dict) else {}
    percent, salt = terms.get("percent"), terms.get("salt")
    if (
        # A bool is not a number here, and canonical JSON has no fractions.
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
    """Read the release notes. A box only shows them, so wrong ones are ignored."""
    notes = custom.get("notes")
    return notes[:MAX_NOTES] if isinstance(notes, str) else None


def _bad(channel: TargetFile, reason: str) -> Untrusted:
    return Untrusted(
        f"The release key signed a channel {channel.path!r} that no box can follow: {reason}. "
        "Its operator has to publish the release again."
    )
