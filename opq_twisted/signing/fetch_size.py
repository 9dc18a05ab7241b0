"""Describes how much of a new archive boxes with an earlier release fetch."""

import os
from collections.abc import Iterator
from pathlib import Path

from opq_twisted.archive.delta import MIN_SIZE, compare
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.pieces import Index, NoIndex, read_index
from opq_twisted.common import files, wording
from opq_twisted.signing.publish import Publication
from opq_twisted.trust.offer import Offer


class _Whole(Exception):
    """Boxes fetch the whole archive; the message is the reason, as a clause."""


class _Unknown(Exception):
    """An archive cannot be read; the message is a clause about it."""


def describe_fetch_sizes(done: Publication, archive: Path, updates: Path) -> Iterator[str]:
    """
    Say how much boxes with an earlier release fetch, in a sentence for each such release.

    These are the release that the channel offered before, and the last one that was for all boxes.
    Both archives are read in bounded memory. If one cannot be read, the sentence says so.

    :param archive: the archive of the new release.
    :param updates: the updates directory, with the archives of earlier releases.
    """
    assert done.offer.size is not None  # only unsigned offers may lack it
    whole = wording.size(done.offer.size)
    for release in _earlier(done):
        boxes = f"Boxes with release {release.version} fetch"
        try:
            fetched = _measure(done.offer, archive, release, updates)
        except _Whole as reason:
            yield f"{boxes} the whole archive, {whole}, because {reason}."
        except _Unknown as reason:
            yield f"{boxes} at most {whole}; how much exactly is not known, because {reason}."
        else:
            yield f"{boxes} {wording.size(fetched)} of {whole}."


def _earlier(done: Publication) -> list[Offer]:
    """Return the releases that boxes of the channel may have, without the published one."""
    offers = [each for each in (done.before, done.offer.before) if each is not None]
    by_version = {each.version: each for each in offers}
    # If the same release is published again, the channel offered it before.
    by_version.pop(done.offer.version, None)
    return list(by_version.values())


def _measure(offer: Offer, archive: Path, release: Offer, updates: Path) -> int:
    """Return how many bytes boxes with an earlier release fetch."""
    new = _read(archive, offer)
    if new.size < MIN_SIZE:
        raise _Whole(f"it has less than {wording.size(MIN_SIZE)}")
    if len(new.pieces) == 1:
        raise _Whole("it is compressed as one piece: build it with this version of build_update.py")
    old = _read(updates / str(UpdateName(release.version)), release)
    if len(old.pieces) == 1:
        raise _Whole("their release is compressed as one piece; the next update can be smaller")
    delta = compare(new, old)
    if not delta.pays:
        raise _Whole("it has too little in common with their release")
    return delta.fetched


def _read(path: Path, release: Offer) -> Index:
    try:
        with files.open_regular(path) as file:
            index = read_index(file.fileno(), os.fstat(file.fileno()).st_size)
    except NoIndex as error:
        raise _Whole(f"{path.name} cannot be compared: {error}") from None
    except OSError as error:
        raise _Unknown(f"{path} cannot be read: {error.strerror}") from None
    if index.sha256 != release.hashes["sha256"]:
        raise _Unknown(f"{path} is not the archive that was signed")
    return index
