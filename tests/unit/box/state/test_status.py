"""Every subscriber gets every status."""

from attrs import fields_dict
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Status, StatusBoard, StatusChanges
from tests.helpers.box_fakes import NEW, OLD


class StatusBoardTests(SynchronousTestCase):
    """What observers get from the board."""

    def setUp(self) -> None:
        self.board = StatusBoard(Status(installed=OLD))
        self.heard: list[Status] = []

    def test_publish(self) -> None:
        """A change keeps the other fields, and notifies every observer."""
        self.board.subscribe(self.heard.append)
        self.board.publish(stage=Stage.CHECKING)
        self.board.publish(available=NEW)
        self.assertEqual(
            self.heard,
            [
                Status(installed=OLD, stage=Stage.CHECKING),
                Status(installed=OLD, stage=Stage.CHECKING, available=NEW),
            ],
        )
        self.assertEqual(self.board.current, self.heard[-1])

    def test_unsubscribe(self) -> None:
        """An observer that has ended its subscription is not notified any more."""
        unsubscribe = self.board.subscribe(self.heard.append)
        unsubscribe()
        self.board.publish(available=NEW)
        self.assertEqual(self.heard, [])

    def test_failing_observer(self) -> None:
        """The failure of an observer is logged, and the others are still notified."""

        def fail(status: Status) -> None:
            raise ZeroDivisionError

        self.board.subscribe(fail)
        self.board.subscribe(self.heard.append)
        self.board.publish(available=NEW)
        self.assertEqual(len(self.heard), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_wait_met(self) -> None:
        """If the condition holds already, the wait ends at once."""
        waited = self.board.wait_for(lambda status: status.installed == OLD)
        self.assertEqual(self.successResultOf(waited), self.board.current)

    def test_wait(self) -> None:
        """A wait ends with the first status that meets the condition, once."""
        waited = self.board.wait_for(lambda status: status.available is not None)
        self.board.publish(stage=Stage.CHECKING)
        self.assertNoResult(waited)
        self.board.publish(available=NEW)
        self.board.publish(stage=Stage.IDLE)
        expected = Status(installed=OLD, available=NEW, stage=Stage.CHECKING)
        self.assertEqual(self.successResultOf(waited), expected)

    def test_changes(self) -> None:
        """Every field of the status may be changed."""
        self.assertEqual(StatusChanges.__optional_keys__, set(fields_dict(Status)))

    def test_wait_cancelled(self) -> None:
        """A wait can be cancelled."""
        waited = self.board.wait_for(lambda status: status.available is not None)
        waited.cancel()
        self.failureResultOf(waited, CancelledError)
        self.board.publish(available=NEW)
