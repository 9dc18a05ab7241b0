"""The updater starts, stops, and does one update at a time."""

from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import ServerFailed, UpdateInProgress
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.updater_case import STEPS, UpdaterCase


class UpdaterTests(UpdaterCase):
    """One update at a time."""

    def test_nothing_to_do(self) -> None:
        """An agent that starts at rest stays at rest."""
        self.assertEqual(self.bench.steps.begun, [])
        self.assertEqual(self.bench.status.installed, OLD)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_second_click(self) -> None:
        """A click during an update begins nothing, and the error names the stage."""
        self.click("fetch")
        with self.assertRaisesRegex(UpdateInProgress, "under way already: downloading"):
            self.bench.updater.begin()
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])
        self.proceed("reboot")


class StopTests(UpdaterCase):
    """The agent stops during an update."""

    def test_each_step(self) -> None:
        """The journal keeps the stage for the next agent; nothing has failed."""
        for step in STEPS:
            if step.name == "forget":
                continue
            with self.subTest(step=step):
                self.renew()
                self.click(step.name)
                stopped = self.bench.updater.stopService()
                if stopped is not None:
                    self.successResultOf(stopped)
                self.assertEqual(self.on_disk().stage, step.stage)
                self.assertEqual(self.on_disk().attempts, ())
                self.assertEqual(self.bench.status.stage, step.stage)
                self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_while_waiting(self) -> None:
        """The stage is also kept while a delay passes, or the box waits for the reboot."""
        self.bench.updater.begin(delay=300)
        self.bench.steps.succeed(NEW)
        self.bench.updater.stopService()
        self.assertEqual(self.on_disk().stage, Stage.CHECKING)
        self.bench.journal_path.unlink()
        self.bench.restart()
        self.click("reboot")
        self.bench.steps.succeed()
        self.bench.updater.stopService()
        self.assertEqual(self.on_disk().stage, Stage.REBOOTING)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_wrapped(self) -> None:
        """If a step fails because the agent stops, the update has not failed."""
        self.click("fetch")
        self.bench.updater.running = 0
        self.bench.steps.fail(ServerFailed("The request was aborted."))
        self.assertEqual(self.on_disk().stage, Stage.DOWNLOADING)
        self.assertEqual(self.on_disk().attempts, ())

    def test_at_rest(self) -> None:
        """An agent at rest has nothing to stop."""
        self.assertIsNone(self.bench.updater.stopService())
