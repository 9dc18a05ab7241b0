"""The pace of a rollout: how many boxes may install a release by themselves now."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen
from tuf.api.metadata import Timestamp

from opq_twisted.common.errors import OpqError

#: The field of `timestamp.json`. TUF's clients keep fields that they do not know (TUF
#: specification, section 4.1).
FIELD = "x-opq-pace"

#: Hundredths of a percent: all boxes.
ALL = 10_000

#: No box installs the release by itself.
HELD = "held"

#: Boxes install it as their turn comes, by the share in `bp`.
BAKING = "baking"

#: Used for an entry that this program does not understand; it is never written.
UNKNOWN = "unknown"


@frozen
class Pace:
    """
    The pace of one release in one channel.

    A pace never lets a box install a release that the release key has not signed for it.
    """

    version: int
    #: The share of the boxes in hundredths of a percent, from 0 to `ALL`.
    bp: int
    state: str = BAKING

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it stands in the timestamp."""
        return {"version": self.version, "bp": self.bp, "state": self.state}


@frozen
class ChannelRelease:
    """The release that a timestamp is about to name for a channel."""

    channel: str
    version: int
    sha256: str
    #: The share that the release key has signed, in hundredths of a percent.
    ceiling_bp: int
    #: Whether it is for all boxes at once.
    critical: bool
    #: Its pace in the current timestamp; None if that does not name it in this channel.
    last: Pace | None = None


class PaceUnknown(OpqError):
    """The pace cannot be read now; the last one has to be repeated."""


class PaceSource(Protocol):
    """Knows the pace of the releases that a timestamp is about to name."""

    @property
    def asks(self) -> bool:
        """Whether a release that is new waits for an operator while its pace is unknown."""

    def __call__(self, releases: Sequence[ChannelRelease], /) -> Mapping[str, Pace]:
        """
        Return the pace of each channel that has one; it blocks.

        :raises PaceUnknown: if the pace cannot be read now.
        """


def read_paces(timestamp: Timestamp) -> Mapping[str, Any]:
    """Return the entries of a timestamp by channel, not checked; empty if it has none."""
    field = timestamp.unrecognized_fields.get(FIELD)
    return field if isinstance(field, dict) else {}


def read_pace(timestamp: Timestamp, channel: str, version: int) -> Pace | None:
    """
    Read the pace of a release in a channel.

    :returns: None if there is no entry for it: the release goes as it was signed. An entry that
        cannot be understood has the state `UNKNOWN` and lets no box install.
    """
    unknown = Pace(version, 0, UNKNOWN)
    if not isinstance(timestamp.unrecognized_fields.get(FIELD, {}), dict):
        return unknown
    entries = read_paces(timestamp)
    if channel not in entries:
        return None
    entry = entries[channel]
    if not isinstance(entry, dict) or type(entry.get("version")) is not int:
        return unknown
    if entry["version"] != version:
        return None
    bp, state = entry.get("bp"), entry.get("state")
    if type(bp) is not int or not 0 <= bp <= ALL or state not in (HELD, BAKING):
        return unknown
    return Pace(version, bp, state)
