"""Tests of how much of a new archive boxes with an earlier release fetch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opq_twisted.archive import pieces
from opq_twisted.signing.fetch_size import describe_fetch_sizes
from opq_twisted.signing.publish import Publication, Terms, publish
from opq_twisted.signing.withdraw import withdraw
from tests.helpers.archives import make_archive, make_pieces_archive, name_of, random_parts
from tests.helpers.key_holders import NEW, NEWER, OLD, HoldersCase

#: A part of its own for each release, and one that all releases have.
PARTS = {
    OLD: random_parts(0, 1, size=600_000),
    NEW: random_parts(0, 2, size=600_000),
    NEWER: random_parts(0, 3, size=600_000),
}
WHOLE = "the whole archive, 1.2 MB, because"


class FetchSizeTests(HoldersCase):
    """`describe_fetch_sizes` after a release is published."""

    def pieces_archive(self, version: int, parts: Mapping[str, bytes] | None = None) -> Path:
        return make_pieces_archive(self.place / name_of(version), version, parts or PARTS[version])

    def offer(
        self, archive: Path, channel: str = "stable", dry_run: bool = False, **terms: Any
    ) -> Publication:
        return publish(self.signer, archive, Terms(channel, **terms), lambda _: None, dry_run)

    def says(self, archive: Path, *arguments: Any, **terms: Any) -> list[str]:
        """Publish an archive; return the sentences."""
        done = self.offer(archive, *arguments, **terms)
        return list(describe_fetch_sizes(done, archive, self.updates))

    def test_next(self) -> None:
        """Boxes with the release before fetch what is not in it; the first release has none."""
        self.assertEqual(self.says(self.pieces_archive(OLD)), [])
        expected = [f"Boxes with release {OLD} fetch 0.6 MB of 1.2 MB."]
        archive = self.pieces_archive(NEW)
        self.assertEqual(self.says(archive, dry_run=True), expected)
        self.assertFalse((self.updates / name_of(NEW)).exists())
        self.assertEqual(self.says(archive), expected)

    def test_channels(self) -> None:
        """The release before is that of the channel."""
        self.offer(self.pieces_archive(OLD))
        archive = self.pieces_archive(NEW)
        self.assertEqual(self.says(archive, "beta"), [])
        [said] = self.says(archive)
        self.assertIn(f"release {OLD} ", said)

    def test_again(self) -> None:
        """If a release is published again, boxes have the last one that was for all."""
        archive = self.pieces_archive(OLD)
        self.offer(archive)
        self.assertEqual(self.says(archive), [])
        archive = self.pieces_archive(NEW)
        for terms in ({"rollout": 10}, {"rollout": 50}, {}):
            [said] = self.says(archive, **terms)
            self.assertIn(f"release {OLD} fetch 0.6 MB", said)

    def test_rollout_replaced(self) -> None:
        """Boxes may have the release of the rollout, or the last one that was for all."""
        self.offer(self.pieces_archive(OLD))
        self.offer(self.pieces_archive(NEW, PARTS[OLD] | PARTS[NEW]), rollout=10)
        said = self.says(self.pieces_archive(NEWER, PARTS[NEW]))
        expected = [(NEW, "0.00"), (OLD, "0.6")]
        sentence = "Boxes with release {} fetch {} MB of 1.2 MB."
        self.assertEqual(said, [sentence.format(*each) for each in expected])

    def test_withdrawn(self) -> None:
        """After a withdrawal, the channel offers the earlier release."""
        self.offer(self.pieces_archive(OLD))
        self.offer(self.pieces_archive(NEW))
        withdraw(self.signer, "stable")
        [said] = self.says(self.pieces_archive(NEWER))
        self.assertIn(f"release {OLD} ", said)

    def test_downgrade(self) -> None:
        """Boxes that go back have the newer release."""
        old = self.pieces_archive(OLD)
        self.offer(self.pieces_archive(NEW))
        [said] = self.says(old, allow_downgrade=True)
        self.assertIn(f"release {NEW} fetch 0.6 MB", said)

    def test_unreadable(self) -> None:
        """The release is signed even if the archive before is gone, damaged or no file."""
        self.offer(self.pieces_archive(OLD))
        there = self.updates / name_of(OLD)
        archive = self.pieces_archive(NEW)
        data = bytearray(there.read_bytes())
        data[-100] ^= 1
        there.write_bytes(data)
        for reason in (
            "is not the archive that was signed",
            "cannot be read: No such file or directory",
            "cannot be read: Is a directory",
        ):
            with self.subTest(reason):
                self.assertEqual(
                    self.says(archive, dry_run=True),
                    [
                        f"Boxes with release {OLD} fetch at most 1.2 MB; how much exactly is not "
                        f"known, because {there} {reason}."
                    ],
                )
            if there.is_file():
                there.unlink()
            elif not there.exists():
                there.mkdir()

    def test_new_one_is_one_piece(self) -> None:
        """An archive of one piece travels whole, and has to be built in another way."""
        self.offer(self.pieces_archive(OLD))
        content = {"content": b"".join(PARTS[NEW].values())}
        [said] = self.says(make_archive(self.place / name_of(NEW), NEW, content))
        remedy = "build it with this version of build_update.py."
        words = f"release {OLD} fetch {WHOLE} it is compressed as one piece: {remedy}"
        self.assertEqual(said, f"Boxes with {words}")

    def test_old_one_is_one_piece(self) -> None:
        """If the release before is one piece, only the next update can be smaller."""
        content = {"content": b"".join(PARTS[OLD].values())}
        self.offer(make_archive(self.place / name_of(OLD), OLD, content))
        [said] = self.says(self.pieces_archive(NEW))
        self.assertIn(f"{WHOLE} their release is compressed as one piece; the next", said)

    def test_nothing_in_common(self) -> None:
        """If too little is the same, the whole travels."""
        self.offer(self.pieces_archive(OLD))
        [said] = self.says(self.pieces_archive(NEW, random_parts(7, size=1_200_000)))
        self.assertIn(f"{WHOLE} it has too little in common with their release.", said)

    def test_too_many_pieces(self) -> None:
        """If an archive has too many pieces, the sentence names it."""
        self.offer(self.pieces_archive(OLD))
        self.patch(pieces, "MAX_PIECES", 3)
        [said] = self.says(self.pieces_archive(NEW))
        self.assertIn(f"{WHOLE} {name_of(NEW)} cannot be compared: the archive has more", said)

    def test_small(self) -> None:
        """A small archive always travels whole."""
        self.publish(OLD)
        [said] = self.says(self.archive(NEW))
        self.assertIn("the whole archive, 0.00 MB, because it has less than 1.0 MB.", said)
