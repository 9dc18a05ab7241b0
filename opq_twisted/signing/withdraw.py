"""Withdraws a release: its channel offers an earlier one again."""

from attrs import frozen
from tuf.api.metadata import TargetFile

from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.signer import RepositorySigner, require_channel, unused_archive
from opq_twisted.trust.offer import Offer, read_before, read_offer


@frozen
class Withdrawal:
    """The withdrawn release, and the one in its place."""

    withdrawn: Offer
    offered: Offer
    #: The archive of the withdrawn release; None if another channel still needs it.
    unused: str | None


def withdraw(signer: RepositorySigner, channel: str, version: int | None = None) -> Withdrawal:
    """
    Let a channel offer an earlier release again, to all boxes.

    Boxes that have the later release keep it, because the earlier one is not a downgrade.

    :param version: the earlier release; None for the last one that was for all boxes.
    :raises ReleaseFailed: if there is no such channel, or the earlier release is unknown or
        missing. It also raises the errors of `RepositorySigner.change`.
    """
    withdrawn: list[TargetFile] = []

    def edit(targets: dict[str, TargetFile]) -> None:
        current = require_channel(targets, channel)
        withdrawn.append(current)
        earlier = read_before(current)
        if earlier is None or version not in (None, earlier.custom["version"]):
            earlier = _find(targets, read_offer(current), channel, version)
        offer, repository = read_offer(earlier), signer.repository
        if not repository.holds(offer):
            raise ReleaseFailed(
                f"{repository.updates / str(UpdateName(offer.version))}, which the channel "
                f"{channel} would offer again, is not there as it was signed: put it back first."
            )
        targets[channel] = earlier
        # It may have been pruned before.
        file = str(UpdateName(offer.version))
        targets.setdefault(file, TargetFile(earlier.length, earlier.hashes, file))

    after = signer.change(edit)
    targets, [before] = after.targets.signed.targets, withdrawn
    unused = unused_archive(before, targets)
    return Withdrawal(read_offer(before), read_offer(targets[channel]), unused)


def _find(
    targets: dict[str, TargetFile], withdrawn: Offer, channel: str, version: int | None
) -> TargetFile:
    """Make the channel's target from an archive that was signed before."""
    if version is None:
        raise ReleaseFailed(
            f"No earlier release than {withdrawn.version} is signed for the channel {channel} any "
            "more: name the earlier one with --to VERSION, or end the channel with opq-release "
            "drop."
        )
    if version >= withdrawn.version:
        raise ReleaseFailed(
            f"Release {version} is not earlier than {withdrawn.version}, which the channel "
            f"{channel} offers: offer it with opq-release publish."
        )
    file = str(UpdateName(version))
    archive = targets.get(file)
    if archive is None:
        raise ReleaseFailed(
            f"No archive {file} is signed: offer it with opq-release publish --allow-downgrade."
        )
    custom = {"version": version, "file": file}
    return TargetFile(archive.length, archive.hashes, channel, {"custom": custom})
