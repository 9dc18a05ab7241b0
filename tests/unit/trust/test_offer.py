"""Tests of reading a channel that the release key signed."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tuf.ngclient import TargetFile
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import Untrusted
from opq_twisted.trust.offer import Offer, Rollout, is_channel, read_offer
from opq_twisted.trust.pace import ALL, HELD, UNKNOWN, Pace
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.torture import examples

HASHES = {"sha256": "ab" * 32, "sha512": "cd" * 64}
CUSTOM = {"version": NEW, "file": f"opq-box-update-{NEW}.tar.bz2"}
BEFORE = {"version": OLD, "file": f"opq-box-update-{OLD}.tar.bz2"}


def channel(custom: Any = CUSTOM, hashes: dict[str, str] = HASHES) -> TargetFile:
    """Make the target of a channel."""
    unrecognized = {} if custom is None else {"custom": custom}
    return TargetFile(1234, hashes, "stable", unrecognized)


class ReadOfferTests(SynchronousTestCase):
    """A signed target becomes an offer."""

    def test_plain(self) -> None:
        """Length and hashes are those of the target; missing fields allow nothing."""
        self.assertEqual(read_offer(channel()), Offer(NEW, 1234, HASHES))
        self.assertTrue(read_offer(channel()).signed)

    def test_all(self) -> None:
        """All fields that the holder of the release key can set arrive."""
        custom = {
            **CUSTOM,
            "allow_downgrade": True,
            "critical": True,
            "rollout": {"percent": 12, "salt": "x1"},
        }
        expected = Offer(NEW, 1234, HASHES, True, True, Rollout(12, "x1"))
        self.assertEqual(read_offer(channel(custom)), expected)

    def test_later_additions(self) -> None:
        """Unknown fields of a later release tool are ignored."""
        self.assertEqual(read_offer(channel({**CUSTOM, "notes": "none"})).version, NEW)

    def test_refused(self) -> None:
        """A channel that names another file or version, or has invalid fields, is refused."""
        refused: tuple[Any, ...] = (
            None,
            [],
            "stable",
            {},
            {**CUSTOM, "file": f"opq-box-update-{OLD}.tar.bz2"},
            {**CUSTOM, "file": f"../opq-box-update-{NEW}.tar.bz2"},
            {**CUSTOM, "file": f"opq-box-update-{NEW}.tar.bz2\n"},
            {**CUSTOM, "file": "root.json"},
            {**CUSTOM, "file": NEW},
            {**CUSTOM, "version": OLD},
            {**CUSTOM, "version": str(NEW)},
            {**CUSTOM, "version": float(NEW)},
            {"file": f"opq-box-update-{1}.tar.bz2", "version": True},
            {**CUSTOM, "critical": "yes"},
            {**CUSTOM, "allow_downgrade": 1},
            {**CUSTOM, "rollout": 50},
            {**CUSTOM, "rollout": {}},
            {**CUSTOM, "rollout": {"percent": 101, "salt": "x"}},
            {**CUSTOM, "rollout": {"percent": -1, "salt": "x"}},
            {**CUSTOM, "rollout": {"percent": 12.5, "salt": "x"}},
            {**CUSTOM, "rollout": {"percent": 12.0, "salt": "x"}},
            {**CUSTOM, "rollout": {"percent": "12", "salt": "x"}},
            {**CUSTOM, "rollout": {"percent": float("nan"), "salt": "x"}},
            {**CUSTOM, "rollout": {"percent": True, "salt": "x"}},
            {**CUSTOM, "rollout": {"percent": 10, "salt": ""}},
            {**CUSTOM, "rollout": {"percent": 10}},
        )
        for custom in refused:
            with self.assertRaises(Untrusted, msg=f"{custom}") as caught:
                read_offer(channel(custom))
            self.assertIn("The release key signed a channel 'stable'", str(caught.exception))

    def test_before(self) -> None:
        """The previous release is a release for all boxes, and never a downgrade."""
        before = {"length": 99, "hashes": HASHES, "custom": {**BEFORE, "notes": "Good."}}
        offer = read_offer(channel({**CUSTOM, "before": before}))
        self.assertEqual(offer.before, Offer(OLD, 99, HASHES, notes="Good."))
        assert offer.before is not None
        self.assertTrue(offer.before.signed)
        more = {"allow_downgrade": True, "rollout": {"percent": 1, "salt": "x"}, "before": before}
        before["custom"] = {**BEFORE, **more}
        offer = read_offer(channel({**CUSTOM, "before": before}))
        self.assertEqual(offer.before, Offer(OLD, 99, HASHES))

    def test_bad_before(self) -> None:
        """A channel is refused if its previous release is not older."""
        good: dict[str, Any] = {"length": 99, "hashes": HASHES, "custom": BEFORE}
        newer = {"version": NEW, "file": f"opq-box-update-{NEW}.tar.bz2"}
        cases: list[Any] = [{}, [], "x", 1, False, [good]]
        bad: dict[str, list[Any]] = {
            "length": [-1, "1", 1.5, True, None],
            "hashes": [{}, [], "x", {"sha256": 1}, {"md5": "a"}],
            "custom": [
                *(None, [], "version", 1, {}, newer),
                {**BEFORE, "file": "../x"},
                {**BEFORE, "version": str(OLD)},
            ],
        }
        cases += [{**good, key: value} for key, values in bad.items() for value in values]
        for before in cases:
            with self.assertRaises(Untrusted, msg=f"{before}") as caught:
                read_offer(channel({**CUSTOM, "before": before}))
            self.assertIn("The release key signed a channel 'stable'", str(caught.exception))

    def test_weak_hash(self) -> None:
        """A target without a SHA-256 is refused."""
        with self.assertRaises(Untrusted):
            read_offer(channel(hashes={"md5": "ab" * 16}))


class RolloutTests(SynchronousTestCase):
    """The boxes that have their turn."""

    def turn(self, percent: int, salt: str = "x1") -> set[int]:
        """The boxes of a thousand that have their turn."""
        offer = Offer(NEW, rollout=Rollout(percent, salt))
        return {box for box in range(1000) if offer.is_turn_of(box)}

    def test_formula(self) -> None:
        """SHA-256 of the joined salt, version and box id, modulo 10,000."""
        # printf x117000001007 | sha256sum, taken modulo 10,000, is 5228.
        self.assertFalse(Rollout(52, "x1").includes(NEW, 7))
        self.assertTrue(Rollout(53, "x1").includes(NEW, 7))
        # That of box 16063 is 5200, which is not less than 52 %; that of box 10048 is 0.
        self.assertFalse(Rollout(52, "x1").includes(NEW, 16063))
        self.assertFalse(Rollout(0, "x1").includes(NEW, 10048))
        self.assertTrue(Rollout(1, "x1").includes(NEW, 10048))

    def test_nobody_and_everybody(self) -> None:
        """0 % is no box and 100 % is every box."""
        self.assertEqual(self.turn(0), set())
        self.assertEqual(len(self.turn(100)), 1000)

    def test_grows(self) -> None:
        """A larger percentage adds boxes, and removes none."""
        turns = [self.turn(percent) for percent in (1, 5, 25, 50, 99)]
        for smaller, larger in pairwise(turns):
            self.assertLess(smaller, larger)

    def test_share(self) -> None:
        """The share of the boxes is close to the percentage."""
        self.assertTrue(180 < len(self.turn(25)) < 320)

    def test_salt(self) -> None:
        """With another salt, other boxes come first."""
        self.assertNotEqual(self.turn(10, "x1"), self.turn(10, "x2"))

    def test_critical(self) -> None:
        """A critical release is for every box at once."""
        offer = Offer(NEW, critical=True, rollout=Rollout(0, "x1"))
        self.assertTrue(offer.is_turn_of(7))


def is_turn(offer: Offer, box: int) -> bool:
    """Whether a box installs a release now, by what is signed and by its pace."""
    return offer.is_turn_of(box) and not offer.is_slowed_for(box)


class PaceTests(SynchronousTestCase):
    """The boxes that have their turn by the pace that the server gives a signed release."""

    def turn(self, pace: Pace, rollout: Rollout | None, critical: bool = False) -> set[int]:
        """The boxes of a thousand that have their turn."""
        offer = Offer(NEW, 1, HASHES, critical=critical, rollout=rollout, pace=pace)
        return {box for box in range(1000) if is_turn(offer, box)}

    def test_smaller(self) -> None:
        """A pace below the signed share counts, down to a hundredth of a percent."""
        rollout = Rollout(53, "x1")
        # The number of box 7 is 5228, as the test of the formula has it.
        self.assertIn(7, self.turn(Pace(NEW, 5229), rollout))
        self.assertNotIn(7, self.turn(Pace(NEW, 5228), rollout))
        self.assertEqual(self.turn(Pace(NEW, 0), rollout), set())

    def test_never_larger(self) -> None:
        """A pace above the signed share changes nothing."""
        for percent in (0, 1, 25):
            rollout = Rollout(percent, "x1")
            expected = {box for box in range(1000) if rollout.includes(NEW, box)}
            self.assertEqual(self.turn(Pace(NEW, ALL), rollout), expected)

    def test_for_all(self) -> None:
        """Without a signed rollout, the archive's SHA-256 is the salt."""
        salted = Rollout(100, HASHES["sha256"])
        self.assertEqual(
            self.turn(Pace(NEW, 500), None),
            {box for box in range(1000) if salted.includes(NEW, box, 500)},
        )
        self.assertTrue(20 < len(self.turn(Pace(NEW, 500), None)) < 90)
        self.assertEqual(len(self.turn(Pace(NEW, ALL), None)), 1000)

    def test_critical(self) -> None:
        """A critical release ignores the share, but not that it is stopped."""
        self.assertEqual(len(self.turn(Pace(NEW, 0), Rollout(0, "x1"), critical=True)), 1000)
        for state in (HELD, UNKNOWN):
            self.assertEqual(self.turn(Pace(NEW, ALL, state), None, critical=True), set())

    @examples(60)
    @given(
        st.none() | st.builds(Rollout, st.integers(0, 100), st.text(min_size=1, max_size=5)),
        st.integers(0, ALL),
        st.integers(0, ALL),
    )
    def test_nested(self, rollout: Rollout | None, one: int, other: int) -> None:
        """A lower pace only takes boxes away: the boxes of a smaller share are in each larger."""
        smaller, larger = sorted((one, other))
        boxes = self.turn(Pace(NEW, smaller), rollout)
        self.assertLessEqual(boxes, self.turn(Pace(NEW, larger), rollout))
        self.assertLessEqual(boxes, self.turn(Pace(NEW, ALL), rollout))
        self.assertEqual(self.turn(Pace(NEW, ALL, HELD), rollout), set())


class ChannelNameTests(SynchronousTestCase):
    """The names that a channel may have."""

    def test_names(self) -> None:
        """Lower-case letters, digits and hyphens, but no path and no archive's name."""
        for name in ("stable", "beta-2", "x"):
            self.assertTrue(is_channel(name))
        for name in ("", "-x", "Stable", "a/b", "..", "a.b", "x" * 33, "stabl\u0435", "a\n"):
            self.assertFalse(is_channel(name))
