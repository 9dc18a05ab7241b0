"""The shipped opq-box-rescue, killed before each of its commands, and run again."""

import shutil
import signal
from collections.abc import Iterator

from tests.helpers.rescued_box import POWER_CUT, RescuedBox, installer
from tests.helpers.root_folder import AGENT, require_bash, service
from tests.helpers.torture import stride
from tests.unit.deploy.test_rescue import RescueCase


class InterruptedTests(RescueCase):
    """A power cut before each command of the rescue, and then the next run."""

    def setUp(self) -> None:
        super().setUp()
        require_bash()

    def interruptions(self) -> Iterator[RescuedBox]:
        """Yield a copy of the box for each point at which the rescue can be killed."""
        before = self.box
        for count in range(1, 500, stride(17)):
            self.box = before.copy(before.folder.parent / str(count))
            result = self.box.rescue("bash", KILL_AT=str(count))
            if result.returncode == 0:
                # Fewer would mean that the killing does not work.
                self.assertGreater(count, 25)
                return
            self.assertEqual(result.returncode, -signal.SIGKILL, result)
            yield self.box
            shutil.rmtree(self.box.folder)
        self.fail("The script has no end.")

    def test_return(self) -> None:
        """The live release stays complete until the other one is."""
        self.box.last_good()
        for box in self.interruptions():
            self.assertIn(box.current, [("200", "long ago"), ("100", "fresh")])
            self.assert_brought_back(self.rescue(), made="fresh")

    def test_reinstall(self) -> None:
        """The live release exists, or is built again by the next run."""
        self.box.release(50)
        shutil.rmtree(self.box.prefix / "releases" / "100")
        self.box.release(100, before=50)
        self.box.last_good()
        for box in self.interruptions():
            if "reinstalled" in box.tries:
                self.assert_paused_or_rebooted()
            else:
                self.assert_brought_back(self.rescue(), made="fresh")

    def assert_paused_or_rebooted(self) -> None:
        """Assert that all is done except the reboot."""
        self.assertEqual(self.box.current, ("100", "fresh"))
        self.rescue()
        self.assertEqual(self.box.asked()[-1], "sleep 600")
        self.assertEqual(self.box.current, ("100", "fresh"))

    def test_previous(self) -> None:
        """A complete release is live at any time."""
        service(self.box.prefix / "releases" / "100", AGENT, "opq-box-agent.service")
        for box in self.interruptions():
            self.assertIn(box.current, [("200", "long ago"), ("100", "long ago")])
            live = box.current
            box.asked()
            said = self.rescue()
            if live == ("200", "long ago"):
                self.assert_brought_back(said, made="long ago")
            else:
                self.assert_paused(said, live="100")

    def test_within_the_installer(self) -> None:
        """The next run finishes an interrupted installer, even of the live release."""
        for live in (100, 200):
            self.box = self.fresh(str(live), live, before=None)
            self.box.last_good(installer(POWER_CUT))
            self.assertEqual(self.box.rescue().returncode, -signal.SIGKILL)
            self.assertIn("100.aside", self.box.releases)
            tries = self.box.tries
            self.box.last_good()
            self.assert_brought_back(self.rescue(), made="fresh")
            self.assertEqual(self.box.tries, [*tries, "return"])

    def test_within_the_installer_again_and_again(self) -> None:
        """After three power cuts, the release that was set aside is put back."""
        shutil.rmtree(self.box.prefix / "releases")
        self.box.release(100)
        self.box.last_good(installer(POWER_CUT))
        while self.box.rescue().returncode:
            self.box.asked()
        self.assertEqual(self.box.tries, ["reinstall", "return", "return", "return"])
        self.assertEqual(self.box.current, ("100", "long ago"))
        self.assert_tidy()
