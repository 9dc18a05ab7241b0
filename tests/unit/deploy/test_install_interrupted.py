"""install_update.sh, killed before each of its commands, and run again."""

import shutil
import signal
from collections.abc import Callable, Iterator

from tests.helpers.root_folder import (
    FINISH,
    RESCUE_UNITS,
    InstallCase,
    Result,
    RootFolder,
    executable,
    require_bash,
    service,
)
from tests.helpers.torture import stride


class InterruptedTests(InstallCase):
    """The script killed before each of its commands, and then run again."""

    def setUp(self) -> None:
        super().setUp()
        require_bash()
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        service(self.box.unpack(200), "triggering", "opq-old.service")
        service(self.box.unpack(300), "triggering", "opq-triggering.service")
        executable(self.box.folder / "opq-box-update-300" / "kernel" / "install.sh", "#!/bin/sh\n")

    def interruptions(self, run: Callable[[RootFolder, str], Result]) -> Iterator[RootFolder]:
        """Yield a copy of the box for every n-th command at which a script is killed."""
        for count in range(1, 1000, stride(61)):
            box = self.box.copy(self.box.folder.parent / str(count))
            result = run(box, str(count))
            if result.returncode == 0:
                # Fewer would mean that the killing does not work.
                self.assertGreater(count, 60)
                return
            self.assertIn(result.returncode, (-signal.SIGKILL, 128 + signal.SIGKILL), result)
            yield box
            shutil.rmtree(box.folder)
        self.fail("The script has no end.")

    def check(
        self, version: int, allowed: Callable[[int | None, int | None], bool], *, image: int
    ) -> None:
        """
        Assert that links are right after each interruption, and all is after one more run.

        The image's version is on record before the release is live, and is never another one.
        """
        before = self.box.version("current")
        for box in self.interruptions(lambda box, at: box.run(version, "bash", KILL_AT=at)):
            links = box.version("current"), box.version("previous")
            self.assertTrue(allowed(*links), links)
            recorded = {image} if version in links[:1] else {image, self.box.image()}
            self.assertIn(box.image(), recorded)
            box.install(version)
            kept = {str(version), str(before)} - {"None"}
            self.assertEqual(box.state(), (version, before, kept))
            self.assertEqual(box.image(), image)

    def test_first_install(self) -> None:
        """A fresh box has no release or a complete one."""
        self.check(
            100, lambda current, previous: current in (None, 100) and previous is None, image=100
        )

    def test_update(self) -> None:
        """The box has the old release or the new one, and its previous one."""
        self.box.install(100)
        self.box.install(200)
        self.check(300, lambda *links: links in ((200, 100), (300, 200)), image=100)

    def test_update_of_an_older_box(self) -> None:
        """A box without a record of its image always records the old release."""
        self.box.install(100)
        self.box.install(200)
        self.box.image_file.unlink()
        self.check(300, lambda *links: links in ((200, 100), (300, 200)), image=200)

    def test_return(self) -> None:
        """Going back may destroy the target until it is live, but never the other release."""
        self.box.install(100)
        self.box.install(200)
        self.check(100, lambda *links: links in ((200, 100), (200, None), (100, 200)), image=100)

    def test_reinstall(self) -> None:
        """Installing the current release again changes nothing at any time."""
        self.box.install(100)
        self.box.install(200)
        for box in self.interruptions(lambda box, at: box.run(200, "bash", KILL_AT=at)):
            self.assertEqual(box.state(), (200, 100, {"100", "200"}))
            box.install(200)
            self.assertEqual(box.state(), (200, 100, {"100", "200"}))

    def test_power_cut(self) -> None:
        """
        The next boot ends an installation, even if a component has disabled the older daemon.

        The root is whole if there is one, and no release that brings one is live without it.
        """
        self.box.install(100, managed=True)
        self.box.install(200, managed=True)
        self.box.older_daemon()
        update = self.box.folder / "opq-box-update-300"
        (update / "root.json").write_text("new")
        executable(
            update / "kernel" / "install.sh",
            "#!/bin/sh\nexec systemctl disable --now old.service\n",
        )
        # The caller has built the release, and the power goes.
        self.box.install(300, managed=True, FINISH_SHELL="true")
        units = {"opq-box-agent.service", "opq-triggering.service", "old.service", *RESCUE_UNITS}
        for box in self.interruptions(lambda box, at: box.boot(FINISH_SHELL="bash", KILL_AT=at)):
            links = box.version("current"), box.version("previous")
            self.assertIn(links, ((200, 100), (300, 200)))
            if box.version("current") == 300 or box.root.exists():
                self.assertEqual(box.root.read_text(), "new")
            if box.is_service("enabled", FINISH):
                box.boot()
                self.assertEqual(box.asked()[-1], "reboot")
            self.assertEqual(box.root.read_text(), "new")
            self.assertEqual(box.state(), (300, 200, {"200", "300"}))
            self.assertFalse(box.is_service("enabled", "old.service"))
            self.assertTrue(box.is_service("enabled", "opq-box-agent.service"))
            self.assertFalse(box.is_service("enabled", FINISH))
            self.assertEqual({path.name for path in box.units.iterdir()} - {FINISH}, units)
