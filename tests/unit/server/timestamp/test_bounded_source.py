"""Tests of a question for the pace that cannot do harm."""

from collections.abc import Mapping, Sequence
from threading import Event
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.timestamp.bounded_source import BoundedSource
from opq_twisted.trust.pace import ChannelRelease, Pace, PaceUnknown
from tests.helpers.fake_paces import FakePaces


class HangingPaces:
    """Answers when the test lets it."""

    asks = False

    def __init__(self) -> None:
        self.go = Event()
        self.answered = Event()

    def __call__(self, releases: Sequence[ChannelRelease], /) -> Mapping[str, Pace]:
        self.go.wait()
        self.answered.set()
        return {"stable": Pace(5, 500)}


class BoundedSourceTests(SynchronousTestCase):
    """Answers, failures, and no answer at all."""

    def test_answer(self) -> None:
        """The answer of the source is passed on, and so is its question."""
        paces = FakePaces()
        paces.paces, paces.asks = {"stable": Pace(5, 500)}, True
        source, releases = BoundedSource(paces), [ChannelRelease("stable", 5, "", 1, False)]
        self.assertEqual(source(releases), {"stable": Pace(5, 500)})
        self.assertEqual((paces.asked, source.asks), (releases, True))

    def test_unknown(self) -> None:
        """That the source does not know is passed on, and not logged as a failure."""
        paces = FakePaces()
        paces.error = PaceUnknown("The database is away.")
        error = self.assertRaises(PaceUnknown, BoundedSource(paces), [])
        self.assertEqual(str(error), "The database is away.")

    def test_failure(self) -> None:
        """Any other error means the same, and is logged."""
        paces = FakePaces()
        paces.error = ZeroDivisionError()
        error = self.assertRaises(PaceUnknown, BoundedSource(paces), [])
        self.assertEqual(str(error), "Asking for it failed: ZeroDivisionError.")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_mapping(self) -> None:
        """An answer of another type means the same."""
        paces = FakePaces()
        wrong: list[Any] = [None, 7, [1]]
        for paces.paces in wrong:
            self.assertRaises(PaceUnknown, BoundedSource(paces), [])
            self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_end_of_the_thread(self) -> None:
        """A thread that ends without an answer does not mean that nothing is held."""

        class Ended(FakePaces):
            def __call__(self, releases: Sequence[ChannelRelease], /) -> Mapping[str, Pace]:
                raise SystemExit

        self.assertRaises(PaceUnknown, BoundedSource(Ended()), [])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_hangs(self) -> None:
        """A source that hangs is left alone until it answers, and is asked again then."""
        paces = HangingPaces()
        source = BoundedSource(paces, timeout=0.01)
        self.addCleanup(paces.go.set)
        error = self.assertRaises(PaceUnknown, source, [])
        self.assertEqual(str(error), "The database has not answered within 0.01 s.")
        error = self.assertRaises(PaceUnknown, source, [])
        self.assertEqual(str(error), "The database has not answered an earlier question yet.")
        paces.go.set()
        question = source._question
        assert question is not None
        question.join()
        source._timeout = 60
        self.assertEqual(source([]), {"stable": Pace(5, 500)})
