"""The release that a channel offers, and to which boxes."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen
from tuf.api.metadata import TargetFile

from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import InvalidName, Untrusted

#: What the boxes follow that are told nothing else.
STABLE = "stable"

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
