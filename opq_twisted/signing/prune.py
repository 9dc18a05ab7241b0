"""Removes archives that no box needs from the targets, which boxes read at each release."""

from attrs import frozen
from tuf.api.metadata import TargetFile, Targets

from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import InvalidName, ReleaseFailed
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.signer import RepositorySigner, archives_in_use
from opq_twisted.trust.tuf_client import max_size

#: Bytes of the targets: the most that a box reads, and when people are warned.
_MAX_SIZE = max_size(f"{Targets.type}.json")
_WARNING_SIZE = _MAX_SIZE // 2


@frozen
class Pruned:
    """The archives that were removed from the targets, the oldest first."""

    removed: list[str]
    #: The removed archives that are still in the updates directory.
    still_there: list[str]


def prune(signer: RepositorySigner, keep: int) -> Pruned:
    """
    Keep only the newest archives, and those that a channel needs; sign nothing if those are all.

    :param keep: how many of the newest archives stay.
    :raises ReleaseFailed: if `keep` is negative. It also raises the errors of
        `RepositorySigner.change`.
    """
    if keep < 0:
        raise ReleaseFailed(f"No {keep} archives can be kept: give a number from 0.")
    removed: list[str] = []

    def edit(targets: dict[str, TargetFile]) -> None:
        removed.extend(_surplus(targets, keep))
        for name in removed:
            del targets[name]

    if _surplus(signer.current().targets.signed.targets, keep):
        signer.change(edit)
    updates = signer.repository.updates
    return Pruned(removed, [name for name in removed if (updates / name).exists()])


def drop_missing(targets: dict[str, TargetFile], repository: Repository) -> None:
    """Remove archives that are gone from the updates directory, unless a channel needs them."""
    for name in _unused(targets):
        if not (repository.updates / name).exists():
            del targets[name]


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


def _surplus(targets: dict[str, TargetFile], keep: int) -> list[str]:
    kept = _archives(targets)[-keep:] if keep else []
    return [name for name in _unused(targets) if name not in kept]


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
