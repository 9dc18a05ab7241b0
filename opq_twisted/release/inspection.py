"""Says how the signed metadata is, and what of it needs care."""

from collections.abc import Iterator
from datetime import UTC, datetime

from attrs import Factory, frozen
from tuf.api.metadata import Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from opq_twisted.errors import OpqError, ReleaseFailed
from opq_twisted.release.ceremony import ROLES
from opq_twisted.release.rehearsal import is_channel_target, try_generations, try_roots
from opq_twisted.release.repository import Generation, Repository, is_signed
from opq_twisted.release.trust import read_offer

#: Days left from which on a role needs care; the server renews the timestamp by itself.
_CARE = {Root.type: 14, Targets.type: 14, Snapshot.type: 14, Timestamp.type: 2}


@frozen
class RoleStatus:
    """One role."""

    role: str
    #: None while there is no metadata of it.
    version: int | None
    #: The beginnings of its keys' ids.
    keys: list[str]
    threshold: int
    expires: str | None
    days_left: float | None


@frozen
class ChannelStatus:
    """One channel."""

    channel: str
    version: int
    rollout: int | None
    critical: bool
    allow_downgrade: bool


@frozen
class Inspection:
    """All of it."""

    roles: list[RoleStatus] = Factory(list)
    channels: list[ChannelStatus] = Factory(list)
    #: What needs care, a sentence each.
    problems: list[str] = Factory(list)


def inspect(repository: Repository, now: datetime) -> Inspection:
    """
    Look at everything.

    :raises ReleaseFailed: when there is nothing to look at.
    """
    roots = repository.roots()
    found = Inspection()
    try:
        try_roots(roots)
        generation = repository.current()
        try_generations(generation)
    except ReleaseFailed as error:
        found.problems.append(str(error))
        generation = repository.latest()
    timestamp = repository.timestamp()
    signed: dict[str, Signed | None] = {
        Root.type: roots[-1].signed,
        Targets.type: generation.targets.signed,
        Snapshot.type: generation.snapshot.signed,
        Timestamp.type: None if timestamp is None else timestamp.signed,
    }
    for role in ROLES:
        status = _role(role, roots[-1].signed, signed[role], now)
        found.roles.append(status)
        found.problems.extend(_needs(status))
    if timestamp is not None:
        found.problems.extend(_timestamp_needs(generation, timestamp.signed))
        if not is_signed(roots[-1].signed, timestamp):
            found.problems.append(
                "The timestamp is not signed by the key that the root names: give the server that "
                "key."
            )
    for target in generation.targets.signed.targets.values():
        if is_channel_target(target):
            found.channels.extend(_channel(target))
            found.problems.extend(_archive_needs(repository, target))
    return found


def _role(role: str, root: Root, signed: Signed | None, now: datetime) -> RoleStatus:
    named = root.roles[role]
    left = None if signed is None else (signed.expires - now.astimezone(UTC)).total_seconds()
    return RoleStatus(
        role=role,
        version=None if signed is None else signed.version,
        keys=[keyid[:12] for keyid in named.keyids],
        threshold=named.threshold,
        expires=None if signed is None else f"{signed.expires:%Y-%m-%dT%H:%M:%SZ}",
        days_left=None if left is None else round(left / 86400, 1),
    )


def _needs(status: RoleStatus) -> Iterator[str]:
    remedy = {
        Root.type: "run opq-release renew-root",
        Timestamp.type: "see whether the server runs with --timestamp-key",
    }.get(status.role, "run opq-release resign")
    if status.days_left is None:
        yield f"There is no {status.role}: {remedy}."
    elif status.days_left <= 0:
        yield f"The {status.role} has expired, and boxes install nothing: {remedy}."
    elif status.days_left < _CARE[status.role]:
        yield f"The {status.role} expires in {status.days_left} days: {remedy}."


def _timestamp_needs(generation: Generation, timestamp: Timestamp) -> Iterator[str]:
    named, newest = timestamp.snapshot_meta.version, generation.snapshot.signed.version
    if named != newest:
        yield (
            f"The timestamp names snapshot {named} and not {newest}: see what the server's log "
            "says about it."
        )


def _channel(target: TargetFile) -> Iterator[ChannelStatus]:
    try:
        offer = read_offer(target)
    except OpqError:
        return
    yield ChannelStatus(
        channel=target.path,
        version=offer.version,
        rollout=None if offer.rollout is None else offer.rollout.percent,
        critical=offer.critical,
        allow_downgrade=offer.allow_downgrade,
    )


def _archive_needs(repository: Repository, target: TargetFile) -> Iterator[str]:
    file = target.custom.get("file") if isinstance(target.custom, dict) else None
    path = repository.updates / str(file)
    try:
        size = path.stat().st_size
    except OSError as error:
        yield f"{path}, which the channel {target.path} offers, cannot be read: {error.strerror}."
    else:
        if size != target.length:
            yield f"{path} has {size} bytes, and {target.length} were signed: put it back."
