"""Chooses the paces that go into a timestamp."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import Factory, frozen
from tuf.api.metadata import TargetFile, Targets, Timestamp
from twisted.logger import LogLevel

from opq_twisted.common.errors import Untrusted
from opq_twisted.server.timestamp.alerts import Alert
from opq_twisted.server.timestamp.select import channels
from opq_twisted.trust.offer import Offer, is_channel, read_offer
from opq_twisted.trust.pace import (
    ALL,
    BAKING,
    HELD,
    UNKNOWN,
    ChannelRelease,
    Pace,
    PaceSource,
    PaceUnknown,
    read_pace,
)

#: More would make the timestamp longer than boxes accept: 16 KiB.
_MAX_ENTRIES = 100


@frozen
class Paces:
    """The entries of a timestamp by channel, and the problems with them."""

    entries: Mapping[str, Pace] = Factory(dict)
    alerts: tuple[Alert, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the field of the timestamp; empty if there is none."""
        return {channel: pace.to_json() for channel, pace in sorted(self.entries.items())}


@frozen
class Current:
    """What the current timestamp says about the channels."""

    timestamp: Timestamp | None
    #: The targets that it leads to; None if they cannot be read.
    targets: Targets | None

    def entry(self, channel: str, version: int) -> Pace | None:
        """Return the entry of a release; one that cannot be understood lets no box install."""
        if self.timestamp is None:
            return None
        pace = read_pace(self.timestamp, channel, version)
        return Pace(version, 0) if pace is not None and pace.state == UNKNOWN else pace

    def last(self, channel: str, offer: Offer) -> Pace | None:
        """
        Return the pace that a release has in the timestamp; None if the release is new.

        A release without an entry there goes to all boxes for which it was signed.
        """
        entry, known = self.entry(channel, offer.version), self._offer(channel)
        if self.timestamp is None or known is None:
            return entry
        if known.version != offer.version:
            return None
        if known.hashes.get("sha256") != offer.hashes["sha256"]:
            # Other bytes under the same version are another release, but a hold is by version.
            return entry if entry is not None and entry.state == HELD else None
        return entry or Pace(offer.version, ALL)

    def _offer(self, channel: str) -> Offer | None:
        target = None if self.targets is None else self.targets.targets.get(channel)
        return None if target is None else _read(target)


def choose_paces(targets: Targets, current: Current, source: PaceSource | None) -> Paces:
    """
    Choose the paces of the releases that a timestamp is about to name.

    While the source does not know them, the last ones are repeated. Without a source too: a server
    that is started without its database must not let a held release go.
    """
    releases = list(_releases(targets, current))
    if source is None:
        paces = _repeated(releases, current, asks=False)
        return Paces(paces, tuple(_without_source(paces)))
    try:
        return _limited(_checked(source(releases), releases))
    except PaceUnknown as error:
        paces = _repeated(releases, current, asks=source.asks)
        return Paces(paces, (_unknown(error, releases, asks=source.asks),))


def _releases(targets: Targets, current: Current) -> Iterator[ChannelRelease]:
    for channel, target, _ in channels(targets):
        offer = _read(target)
        if offer is not None and is_channel(channel):
            yield ChannelRelease(
                channel,
                offer.version,
                offer.hashes["sha256"],
                _ceiling(offer),
                offer.critical,
                current.last(channel, offer),
            )


def _read(target: TargetFile) -> Offer | None:
    with suppress(Untrusted):  # no box follows such a channel
        return read_offer(target)
    return None


def _ceiling(offer: Offer) -> int:
    return ALL if offer.is_for_all or offer.rollout is None else 100 * offer.rollout.percent


def _repeated(
    releases: Sequence[ChannelRelease], current: Current, *, asks: bool
) -> dict[str, Pace]:
    paces = {}
    for each in releases:
        entry = None if each.last is None else current.entry(each.channel, each.version)
        if each.last is None and asks:
            entry = Pace(each.version, 0)
        if entry is not None:
            paces[each.channel] = entry
    return paces


def _checked(paces: Mapping[str, Pace], releases: Sequence[ChannelRelease]) -> Mapping[str, Pace]:
    versions = {each.channel: each.version for each in releases}
    for channel, pace in paces.items():
        if (
            not isinstance(pace, Pace)
            or versions.get(channel) != pace.version
            or type(pace.bp) is not int
            or not 0 <= pace.bp <= ALL
            or pace.state not in (BAKING, HELD)
        ):
            raise PaceUnknown(f"The pace {pace} of the channel {channel} makes no sense.")
    return paces


def _limited(paces: Mapping[str, Pace]) -> Paces:
    """Keep the entries that take most boxes away, if there are far too many."""
    if len(paces) <= _MAX_ENTRIES:
        return Paces(paces)
    strictest = sorted(paces.items(), key=lambda each: (each[1].state != HELD, each[1].bp))
    sentence = (
        f"The timestamp has room for the pace of {_MAX_ENTRIES} channels, and {len(paces)} have "
        "one: releases in the others go as they were signed. End channels with: opq-release drop."
    )
    return Paces(dict(strictest[:_MAX_ENTRIES]), (Alert(sentence),))


def _unknown(error: PaceUnknown, releases: Sequence[ChannelRelease], *, asks: bool) -> Alert:
    new = [str(each.version) for each in releases if each.last is None]
    waits = f" No box installs what is new by itself until then: {', '.join(new)}." if new else ""
    return Alert(
        "The pace of the rollouts is not known: the timestamp repeats the last one, and no hold "
        f"has an effect until the database is back.{waits if asks else ''}",
        cause="the pace is not known",
        detail=str(error),
    )


def _without_source(paces: Mapping[str, Pace]) -> Iterator[Alert]:
    slow = sorted(channel for channel, pace in paces.items() if pace.state == HELD or pace.bp < ALL)
    if slow:
        yield Alert(
            f"The timestamp holds or slows the release of {', '.join(slow)}, and this server runs "
            "without --fleet-db: it repeats that until the channel names another release. Start "
            "it with --fleet-db to change the pace.",
            LogLevel.warn,
        )
