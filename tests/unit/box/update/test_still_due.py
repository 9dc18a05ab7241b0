"""The check of the signed metadata right before a box installs a release by itself."""

from attrs import evolve

from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import (
    ClockBehind,
    ServerFailed,
    Stale,
    Untrusted,
)
from opq_twisted.report.codes import Waiting
from opq_twisted.trust.offer import Offer, Rollout
from opq_twisted.trust.pace import ALL, HELD, UNKNOWN, Pace
from tests.helpers.box_fakes import NEW, NEWER, OLD, Bench
from tests.helpers.updater_case import UpdaterCase

OFFER = Offer(NEW, 10, {"sha256": "ab" * 32}, signed=True)


class StillDueTests(UpdaterCase):
    """A signed release, unpacked by a box that updates automatically."""

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "root.json").write_text("{}")
        self.bench = Bench(self.folder, install="automatic").start()
        self.cleared = 0
        self.patch(self.bench.deps.unpacker, "clear", self.clear)

    async def clear(self) -> None:
        self.cleared += 1

    def unpack(self, offer: Offer = OFFER, automatic: bool = True) -> None:
        """Update until the release is unpacked."""
        self.find(offer, automatic)
        for step in ("fetch", "verify", "unpack"):
            self.assertEqual(self.bench.steps.names[-1], step)
            self.succeed()
        self.cleared = 0

    def unpack_and_look(self, answer: Offer | Exception | None) -> None:
        """Let the look have this result."""
        self.unpack()
        self.assertEqual(self.bench.steps.names[-1], "newest")
        self.assertEqual(self.on_disk().stage, Stage.UNPACKING)
        self.answer(answer)

    def assert_goes_on(self) -> None:
        self.assertEqual(self.bench.steps.names[-2:], ["forget", "install"])
        self.assertEqual(self.bench.status.stage, Stage.INSTALLING)
        self.assertEqual(self.bench.status.available, NEW)

    def assert_stops(self, message: str) -> None:
        """The box is at rest, keeps nothing half done, and says why."""
        self.assertNotIn("install", self.bench.steps.names)
        status, entry = self.bench.status, self.on_disk()
        self.assertEqual((status.stage, entry.stage), (Stage.IDLE, Stage.IDLE))
        self.assertIn(message, status.message)
        self.assertEqual((self.cleared, entry.attempts, entry.refused), (1, (), ()))
        self.assertTrue(self.bench.archives.archive.closed)
        self.assertIsNone(entry.delay)

    def test_same(self) -> None:
        """A release that is still for the box is installed."""
        self.unpack_and_look(evolve(OFFER, pace=Pace(NEW, ALL)))
        self.assert_goes_on()

    def test_stopped(self) -> None:
        """A release that was stopped meanwhile is not installed."""
        for state, words in ((HELD, "the operator has stopped it"), (UNKNOWN, "not understand")):
            self.setUp()
            self.unpack_and_look(evolve(OFFER, pace=Pace(NEW, ALL, state)))
            self.assert_stops(words)
            self.assertEqual(self.bench.updater.waiting, Waiting.HELD)

    def test_slowed(self) -> None:
        """So is one that has become slower, so that the turn of the box has not come."""
        for changes in ({"pace": Pace(NEW, 0)}, {"rollout": Rollout(1, "x1")}):
            self.setUp()
            self.unpack_and_look(evolve(OFFER, **changes))
            self.assert_stops("it reaches the boxes bit by bit")

    def test_held_back(self) -> None:
        """So is one that its makers have held back."""
        self.unpack_and_look(evolve(OFFER, rollout=Rollout(0, "x1")))
        self.assert_stops("it is held back")

    def test_withdrawn(self) -> None:
        """So is one that was withdrawn."""
        self.unpack_and_look(None)
        self.assert_stops("The update server has no update in the channel stable.")
        self.setUp()
        self.unpack_and_look(evolve(OFFER, version=OLD))
        self.assert_stops("The box is up to date.")

    def test_replaced(self) -> None:
        """So is one that was replaced, by a newer release or by another archive."""
        self.unpack_and_look(evolve(OFFER, version=NEWER))
        self.assert_stops(f"Release {NEWER} is available.")
        self.assertTrue(self.bench.updater.is_due)
        self.setUp()
        self.unpack_and_look(evolve(OFFER, hashes={"sha256": "cd" * 32}))
        self.assert_stops(f"Release {NEW} is available.")

    def test_newer_for_others(self) -> None:
        """A release goes on that is now the one before, which boxes install until their turn."""
        newer = Offer(NEWER, 9, {"sha256": "cd" * 32}, before=OFFER, signed=True)
        self.unpack_and_look(evolve(newer, rollout=Rollout(0, "x1")))
        self.assert_goes_on()

    def test_again(self) -> None:
        """When the release goes on, the next check begins another attempt."""
        self.unpack_and_look(evolve(OFFER, pace=Pace(NEW, 0, HELD)))
        self.assertFalse(self.bench.updater.is_due)
        self.check(OFFER)
        self.assertTrue(self.bench.updater.is_due)
        self.unpack_and_look(OFFER)
        self.assert_goes_on()

    def test_no_answer(self) -> None:
        """Without an answer that can be believed, the box goes on."""
        for error in (
            ServerFailed("Nobody is there."),
            Untrusted("It is another."),
            Stale("It has expired."),
            ClockBehind("It is 1970."),
            OSError(5, "Input/output error"),
        ):
            with self.subTest(error=error):
                self.setUp()
                self.unpack_and_look(error)
                self.assert_goes_on()

    def test_silence(self) -> None:
        """The box waits half a minute for the answer, and a later one changes nothing."""
        self.unpack()
        late = self.bench.steps.take()
        self.bench.clock.advance(29.5)
        self.assertEqual(self.bench.status.stage, Stage.UNPACKING)
        self.bench.clock.advance(0.5)
        self.assert_goes_on()
        late.callback(evolve(OFFER, pace=Pace(NEW, 0, HELD)))
        self.assertEqual(self.bench.status.stage, Stage.INSTALLING)

    def test_stopped_agent(self) -> None:
        """An agent that is stopped meanwhile installs nothing; the next one begins again."""
        self.unpack()
        self.bench.updater.stopService()
        self.assertNotIn("install", self.bench.steps.names)
        self.assertEqual(self.on_disk().stage, Stage.UNPACKING)
        self.bench.restart()
        self.answer(evolve(OFFER, pace=Pace(NEW, 0, HELD)))
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertNotIn("install", self.bench.steps.names)

    def test_measurement_first(self) -> None:
        """The look comes after the measurement, which may take long."""
        self.bench.config.inhibit_file.touch()
        self.unpack()
        self.assertEqual(self.bench.steps.names[-1], "unpack")
        self.bench.config.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.steps.names[-1], "newest")

    def test_another_measurement(self) -> None:
        """A measurement that begins during the look is waited for, too."""
        self.unpack()
        self.bench.config.inhibit_file.touch()
        self.answer(OFFER)
        self.assertEqual(self.bench.updater.waiting, Waiting.MEASUREMENT)
        self.bench.config.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assert_goes_on()

    def test_click(self) -> None:
        """After a click, nobody looks again."""
        self.unpack(automatic=False)
        self.assert_goes_on()

    def test_unsigned(self) -> None:
        """Without signatures there is nothing to look at."""
        (self.folder / "root.json").unlink()
        self.unpack(Offer(NEW))
        self.assert_goes_on()

    def test_resumed(self) -> None:
        """An installation that was interrupted goes on: it may have changed the box."""
        self.unpack_and_look(OFFER)
        self.bench.restart("another boot")
        self.bench.steps.succeed(None)
        self.bench.clock.advance(0)
        self.assertEqual(self.bench.steps.names[-1], "unpack")
        self.succeed()
        self.assertEqual(self.bench.steps.names[-1], "install")

    def test_clear_fails(self) -> None:
        """Files that cannot be removed are no reason to install the release."""

        async def fail() -> None:
            raise OSError(5, "Input/output error")

        self.unpack()
        self.patch(self.bench.deps.unpacker, "clear", fail)
        self.answer(None)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertNotIn("install", self.bench.steps.names)
