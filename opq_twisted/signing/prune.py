"""Removes archives that no box needs from the targets, which boxes read at each release."""

from collections.abc import Iterator
from contextlib import suppress

from attrs import frozen
from tuf.api.metadata import Root, TargetFile, Targets

from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import InvalidName, ReleaseFailed, Untrusted
from opq_twisted.signing.dry_run import is_channel_target
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.signer import RepositorySigner, archives_in_use
from opq_twisted.trust.metadata_files import max_size
from opq_twisted.trust.offer import read_before, read_offer

#: Bytes of the targets: the most that a box reads, and when people are warned.
_MAX_SIZE = max_size(f"{Targets.type}.json")
_WARNING_SIZE = _MAX_SIZE // 2


@frozen
class Pruned:
    """The archives that were removed from the targets, the oldest first."""

    removed: list[str]
    #: The removed archives that boxes may still get by the timestamp, or that cannot be deleted.
    still_there: list[str]


def prune(signer: RepositorySigner, keep: int) -> Pruned:
    """
    Keep only the newest archives, and those that a channel offers, or would offer after `withdraw`.

    The others are deleted in the updates directory, too. If there are none, nothing is signed.

    :param keep: how many of the newest archives stay.
    :raises ReleaseFailed: if `keep` is negative. It also raises the errors of
        `RepositorySigner.change`.
    """
    if keep < 0:
        raise ReleaseFailed(f"No {keep} archives can be kept: give a number from 0.")
    removed: list[str] = []

    repository = signer.repository

    def edit(targets: dict[str, TargetFile]) -> None:
        removed.extend(_surplus(targets, keep, repository))
        for name in removed:
            del targets[name]

    if _surplus(signer.current().targets.signed.targets, keep, repository):
        after = signer.change(edit)
        _delete(repository, removed, after.root)
    return Pruned(removed, [name for name in removed if (repository.updates / name).exists()])


def _delete(repository: Repository, names: list[str], root: Root) -> None:
    """Delete archives, except those that boxes may fetch until the server has a new timestamp."""
    needed: set[str] = set()
    try:
        announced = repository.announced(root)
    except ReleaseFailed:
        return
    if announced is not None:
        needed = archives_in_use(announced.targets.signed.targets)
    for name in names:
        if name not in needed:
            with suppress(OSError):  # it is reported as being there
                (repository.updates / name).unlink(missing_ok=True)


def drop_missing(targets: dict[str, TargetFile], repository: Repository) -> list[str]:
    """
    Remove archives that are gone from the updates directory, unless a channel needs them.

    :returns: their names.
    """
    gone = [name for name in _unused(targets) if not (repository.updates / name).exists()]
    for name in gone:
        del targets[name]
    return gone


def describe_crowding(repository: Repository) -> str | None:
    """Warn if the newest targets come near the size that boxes read; None if they do not."""
    numbers = repository.numbers(Targets.type)
    if not numbers:
        return None
    size = (repository.folder / f"{numbers[-1]}.{Targets.type}.json").stat().st_size
    if size <= _WARNING_SIZE:
        return None
    return (
        f"The targets have {size} bytes, and boxes read {_MAX_SIZE} at most: remove old archives "
        "from them with opq-release prune."
    )


def _surplus(targets: dict[str, TargetFile], keep: int, repository: Repository) -> list[str]:
    kept = set(_archives(targets)[-keep:] if keep else [])
    kept.update(_offered_by_withdraw(targets, repository))
    return [name for name in _unused(targets) if name not in kept]


def _offered_by_withdraw(targets: dict[str, TargetFile], repository: Repository) -> Iterator[str]:
    """Yield the archives of the previous releases of all channels, those that are there."""
    for target in filter(is_channel_target, targets.values()):
        with suppress(Untrusted):  # no box follows this channel
            before = read_before(target)
            if before is not None and repository.holds(read_offer(before)):
                yield str(UpdateName(read_offer(before).version))


def _unused(targets: dict[str, TargetFile]) -> list[str]:
    used = archives_in_use(targets)
    return [name for name in _archives(targets) if name not in used]


def _archives(targets: dict[str, TargetFile]) -> list[str]:
    """Return the names of the archives, the oldest first."""
    names = []
    for name in targets:
        try:
            names.append(UpdateName.parse(name))
        except InvalidName:
            continue
    return [str(name) for name in sorted(names, key=lambda name: name.version)]
