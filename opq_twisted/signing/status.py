"""Describes the state of the signed metadata, and the problems that need attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from attrs import Factory, frozen
from tuf.api.metadata import Root, Signed, Snapshot, Targets, Timestamp

from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import ReleaseFailed, Untrusted
from opq_twisted.signing.dry_run import is_channel_target, try_metadata_sets, try_roots
from opq_twisted.signing.prune import describe_crowding
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.root_keys import ROLES
from opq_twisted.signing.signer import LIFETIME, describe_future
from opq_twisted.trust.expiry import days_left, is_urgent
from opq_twisted.trust.offer import Offer, read_offer
from opq_twisted.trust.repository_reader import MetadataSet, is_signed

#: Seconds that a server may take to sign a timestamp for a new snapshot.
_GRACE = 300


@frozen
class RoleStatus:
    """One role."""

    role: str
    #: None if there is no metadata for it.
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
    #: The version that boxes install until their turn comes; None if there is none.
    before: int | None
    #: Whether the archive is there with the signed length.
    is_there: bool


@frozen
class Inspection:
    """The state of a repository."""

    roles: list[RoleStatus] = Factory(list)
    channels: list[ChannelStatus] = Factory(list)
    #: What needs attention, one sentence each.
    problems: list[str] = Factory(list)


def inspect(repository: Repository, now: datetime) -> Inspection:
    """
    Check the roots, the newest metadata set, the timestamp, and the archives of the channels.

    :raises ReleaseFailed: if there is no root.
    """
    found = Inspection()
    roots = repository.roots()
    root = roots[-1]
    signed: dict[str, Signed | None] = {Root.type: root.signed}
    metadata_set = None
    with _collecting(found):
        try_roots(roots)
    with _collecting(found):
        metadata_set = repository.current(root.signed)
        signed[Targets.type] = metadata_set.targets.signed
        signed[Snapshot.type] = metadata_set.snapshot.signed
        # If anything has expired, the client reports nothing else; the days left report that.
        if not any(each.is_expired(now) for each in signed.values() if each):
            try_metadata_sets(metadata_set)
    with _collecting(found):
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
        found.problems.extend(_expiry_problems(status))
    if metadata_set is not None:
        found.problems.extend(_timestamp_problems(repository, metadata_set, signed, now))
        future = describe_future(metadata_set.targets.signed.targets.values(), now)
        found.problems.extend([] if future is None else [future])
        _inspect_channels(repository, metadata_set, found)
        crowding = describe_crowding(repository)
        found.problems.extend([] if crowding is None else [crowding])
    return found


@contextmanager
def _collecting(found: Inspection) -> Iterator[None]:
    try:
        yield
    except ReleaseFailed as error:
        found.problems.append(str(error))


def _role(role: str, root: Root, signed: Signed | None, now: datetime) -> RoleStatus:
    named = root.roles[role]
    left = None if signed is None else days_left(signed, now.timestamp())
    return RoleStatus(
        role=role,
        version=None if signed is None else signed.version,
        keys=[keyid[:12] for keyid in named.keyids],
        threshold=named.threshold,
        expires=None if signed is None else f"{signed.expires:%Y-%m-%dT%H:%M:%SZ}",
        days_left=None if left is None else round(left, 1),
    )


def _expiry_problems(status: RoleStatus) -> Iterator[str]:
    remedy = {
        Root.type: "run opq-release renew-root",
        Timestamp.type: "see whether the server runs with --timestamp-key",
    }.get(status.role, "run opq-release resign")
    if status.days_left is None:
        return
    if status.days_left <= 0:
        yield f"The {status.role} has expired, and boxes install nothing: {remedy}."
    elif is_urgent(status.role, status.days_left):
        yield f"The {status.role} expires in {status.days_left} days: {remedy}."
    elif status.days_left > 2 * LIFETIME and status.role != Timestamp.type:
        # A stolen key must be worthless some day.
        yield (
            f"The {status.role} expires in {status.days_left:.0f} days, and it is made for "
            f"{LIFETIME}: a clock was ahead when it was signed, or this one is behind. With the "
            f"right time, {remedy}."
        )


def _timestamp_problems(
    repository: Repository,
    metadata_set: MetadataSet,
    signed: dict[str, Signed | None],
    now: datetime,
) -> Iterator[str]:
    newest = metadata_set.snapshot.version
    written = (repository.folder / metadata_set.snapshot.name).stat().st_mtime
    # A file from the future was written by a wrong clock, and is not new for that.
    if abs(now.timestamp() - written) < _GRACE:
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


def _inspect_channels(repository: Repository, metadata_set: MetadataSet, found: Inspection) -> None:
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
