"""Says how the signed metadata is, and what of it needs care."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from attrs import Factory, frozen
from tuf.api.metadata import Root, Signed, Snapshot, Targets, Timestamp

from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import ReleaseFailed, Untrusted
from opq_twisted.signing.dry_run import is_channel_target, try_metadata_sets, try_roots
from opq_twisted.signing.prune import describe_crowding
from opq_twisted.signing.repository import MetadataSet, Repository, is_signed
from opq_twisted.signing.root_keys import ROLES
from opq_twisted.signing.signer import LIFETIME, describe_future
from opq_twisted.trust.offer import Offer, read_offer

#: Days left from which on a role needs care; the server renews the timestamp by itself.
_CARE = {Root.type: 14, Targets.type: 14, Snapshot.type: 14, Timestamp.type: 2}

#: How long a server may take to sign a timestamp for a new snapshot.
_GRACE = timedelta(minutes=5)


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
    #: The version that boxes take until their turn comes.
    before: int | None
    #: Whether the archive is there, and as long as was signed.
    is_there: bool


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
    found = Inspection()
    roots = repository.roots()
    root = roots[-1]
    signed: dict[str, Signed | None] = {Root.type: root.signed}
    metadata_set = None
    with _noting(found):
        try_roots(roots)
    with _noting(found):
        metadata_set = repository.current(root)
        signed[Targets.type] = metadata_set.targets.signed
        signed[Snapshot.type] = metadata_set.snapshot.signed
        # Of what has expired the client would tell nothing else; the roles' days left do.
        if not any(each.is_expired(now) for each in signed.values() if each):
            try_metadata_sets(metadata_set)
    with _noting(found):
        timestamp = repository.timestamp()
        if timestamp is not None:
            signed[Timestamp.type] = timestamp.signed
            if not is_signed(root.signed, timestamp):
                found.problems.append(
                    "The timestamp is not signed by the key that the root names: give the server "
                    "that key."
                )
    for role in ROLES:
        status = _role(role, root.signed, signed.get(role), now)
        found.roles.append(status)
        found.problems.extend(_needs(status))
    if metadata_set is not None:
        found.problems.extend(_server_needs(repository, metadata_set, signed, now))
        future = describe_future(metadata_set.targets.signed.targets.values(), now)
        found.problems.extend([] if future is None else [future])
        _look_at_channels(repository, metadata_set, found)
        crowding = describe_crowding(repository)
        found.problems.extend([] if crowding is None else [crowding])
    return found


@contextmanager
def _noting(found: Inspection) -> Iterator[None]:
    try:
        yield
    except ReleaseFailed as error:
        found.problems.append(str(error))


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
        return
    if status.days_left <= 0:
        yield f"The {status.role} has expired, and boxes install nothing: {remedy}."
    elif status.days_left < _CARE[status.role]:
        yield f"The {status.role} expires in {status.days_left} days: {remedy}."
    elif status.days_left > 2 * LIFETIME and status.role != Timestamp.type:
        # What is stolen must end some day.
        yield (
            f"The {status.role} expires in {status.days_left:.0f} days, and it is made for "
            f"{LIFETIME}: a clock was ahead when it was signed, or this one is behind. With the "
            f"right time, {remedy}."
        )


def _server_needs(
    repository: Repository,
    metadata_set: MetadataSet,
    signed: dict[str, Signed | None],
    now: datetime,
) -> Iterator[str]:
    newest = metadata_set.snapshot.signed.version
    # One from the future was written by a wrong clock, and is no newer for that.
    if abs(repository.age(metadata_set.snapshot, now)) < _GRACE:
        return
    timestamp = signed.get(Timestamp.type)
    if timestamp is None:
        yield (
            "There is no timestamp, and without it boxes see nothing: see whether the server runs "
            "with --timestamp-key."
        )
    elif isinstance(timestamp, Timestamp) and timestamp.snapshot_meta.version != newest:
        yield (
            f"The timestamp names snapshot {timestamp.snapshot_meta.version} and not {newest}: see "
            "what the server's log says about it."
        )


def _look_at_channels(repository: Repository, metadata_set: MetadataSet, found: Inspection) -> None:
    for target in filter(is_channel_target, metadata_set.targets.signed.targets.values()):
        try:
            offer = read_offer(target)
        except Untrusted:
            continue  # the dry run has said so
        problem = _archive_problem(repository, offer, target.path)
        problems = [problem]
        before = None if offer.is_for_all else offer.before
        if before is not None:
            problems.append(_archive_problem(repository, before, target.path))
        found.problems.extend(each for each in problems if each is not None)
        found.channels.append(
            ChannelStatus(
                channel=target.path,
                version=offer.version,
                rollout=None if offer.rollout is None else offer.rollout.percent,
                critical=offer.critical,
                allow_downgrade=offer.allow_downgrade,
                before=None if before is None else before.version,
                is_there=problem is None,
            )
        )


def _archive_problem(repository: Repository, offer: Offer, channel: str) -> str | None:
    path = repository.updates / str(UpdateName(offer.version))
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}, which the channel {channel} offers, cannot be read: {error.strerror}."
    if size != offer.size:
        return (
            f"{path}, which the channel {channel} offers, has {size} bytes, and {offer.size} were "
            "signed: put back the one that was published."
        )
    return None
