"""Which releases a box installs, and which of them without a click."""

from opq_twisted.archive.release import Release
from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import InstallFailed
from opq_twisted.trust.offer import Offer, Rollout
from opq_twisted.trust.pace import ALL, HELD, UNKNOWN, Pace
from tests.helpers.box_fakes import NEW, NEWER, OLD, Bench
from tests.helpers.updater_case import UpdaterCase


class OfferTests(UpdaterCase):
    """The box does what a signed offer says."""

    def assert_taken(self, offer: Offer, automatic: bool = False) -> None:
        """The box downloads what is offered."""
        self.find(offer, automatic)
        self.assertTrue(self.bench.status.update_available)
        self.assertEqual(self.bench.steps.names[-2:], ["newest", "fetch"])
        self.assertEqual(self.bench.downloader.asked, offer.release)

    def assert_left(self, offer: Offer | None, message: str, automatic: bool = False) -> None:
        """The box does not download the offer, and says why."""
        self.find(offer, automatic)
        self.assertEqual(self.bench.steps.names[-1], "newest")
        status = self.bench.status
        self.assertEqual((status.stage, status.message), (Stage.IDLE, message))
        self.assertFalse(self.bench.updater.is_due)

    def test_promise(self) -> None:
        """The download must have the signed size and all signed hashes."""
        self.assert_taken(Offer(NEW, 1234, {"sha256": "cd" * 32, "sha512": "ef" * 64}))

    def test_older_than_image(self) -> None:
        """A release older than the box's image is never installed."""
        self.bench.image_file.write_text(f"{NEWER}\n")
        self.assert_left(
            Offer(NEW),
            f"Release {NEW} is not installed: it is older than {NEWER}, which the box was made "
            "with.",
        )
        self.assertEqual(self.bench.status.available, NEW)
        self.assertFalse(self.bench.status.update_available)

    def test_as_old_as_image(self) -> None:
        """A box that has lost its release may install that of its image."""
        self.bench.version_file.unlink()
        self.bench.image_file.write_text(f"{NEW}\n")
        self.bench.restart()
        self.assert_taken(Offer(NEW))

    def test_allow_downgrade(self) -> None:
        """A signed downgrade is installed, even if it is older than the image."""
        self.bench.image_file.write_text(f"{NEWER}\n")
        self.assert_taken(Offer(OLD - 1, allow_downgrade=True), automatic=True)

    def test_downgrade_ends(self) -> None:
        """After a downgrade the box is up to date, and does not begin again."""
        self.bench.image_file.write_text(f"{NEWER}\n")
        self.assert_left(Offer(OLD, allow_downgrade=True), "The box is up to date.")

    def test_unproven(self) -> None:
        """A release that waits for its reboot is not installed again."""
        self.bench.set_installed(NEW)
        self.assert_left(
            Offer(NEW), f"Release {NEW} is installed, and waits for a reboot.", automatic=True
        )

    def test_not_its_turn(self) -> None:
        """A box whose turn has not come shows the release, and waits."""
        # The number of box 7 is 5228, as test_trust has it.
        self.assert_left(
            Offer(NEW, rollout=Rollout(52, "x1")),
            f"Release {NEW} comes to this box later: it reaches the boxes bit by bit. Click on "
            "Update Box to have it now.",
            automatic=True,
        )
        self.assertTrue(self.bench.status.update_available)
        self.assertEqual(self.on_disk().attempts, ())

    def test_its_turn(self) -> None:
        """The box installs the release when the rollout has reached it."""
        self.find(Offer(NEW, rollout=Rollout(52, "x1")), automatic=True)
        self.assert_taken(Offer(NEW, rollout=Rollout(53, "x1")), automatic=True)

    def test_click_comes_first(self) -> None:
        """A click does not wait for the box's turn."""
        self.assert_taken(Offer(NEW, rollout=Rollout(0, "x1")))

    def test_critical(self) -> None:
        """A critical release does not wait for the box's turn."""
        self.assert_taken(Offer(NEW, critical=True, rollout=Rollout(0, "x1")), automatic=True)

    def test_blocked(self) -> None:
        """A release that failed is not tried again without a click, even if it is critical."""
        self.click("install")
        self.bench.steps.fail(InstallFailed("It does not work here."))
        reason = f"Release {NEW} is blocked: It does not work here."
        for offer in (Offer(NEW), Offer(NEW, critical=True)):
            self.assert_left(offer, reason, automatic=True)
        self.assert_works_again()

    def test_not_blocked(self) -> None:
        """The next release, and one with the same version but another hash, are tried."""
        for offer in (Offer(NEWER), Offer(NEW, 10, {"sha256": "cd" * 32})):
            self.renew()
            self.click("install")
            self.bench.steps.fail(InstallFailed("It does not work here."))
            self.assert_taken(offer, automatic=True)

    def test_nothing_in_channel(self) -> None:
        """The message names a channel that is not signed: its name may be wrong."""
        self.bench = Bench(self.folder, channel="beta").start()
        (self.folder / "root.json").write_text("{}")
        self.assert_left(None, "The update server has no update in the channel beta.")
        self.assertFalse(self.bench.status.update_available)

    def test_is_due(self) -> None:
        """The last offer is due unless a rule of the policy is against it."""
        self.assertFalse(self.bench.updater.is_due)
        for offer, due, available in (
            (Offer(NEW), True, True),
            (Offer(NEW, rollout=Rollout(0, "x1")), False, False),
            (Offer(NEW, rollout=Rollout(52, "x1")), False, True),
            (Offer(NEW, rollout=Rollout(100, "x1")), True, True),
            (Offer(OLD), False, False),
            (Offer(OLD - 1), False, False),
            (Offer(OLD - 1, allow_downgrade=True), True, True),
            (None, False, False),
        ):
            with self.subTest(offer=offer):
                self.check(offer)
                self.assertEqual(self.bench.updater.is_due, due)
                self.assertEqual(self.bench.status.update_available, available)

    def assert_shown(self, available: int | None, update_available: bool, message: str) -> None:
        """The page shows this after a check."""
        status = self.bench.status
        self.assertEqual((status.available, status.update_available), (available, update_available))
        self.assertIn(message, status.message)

    def test_before_its_turn(self) -> None:
        """Before its turn a box installs the release before; after a click, the newest one."""
        before = Offer(NEW, 99, {"sha256": "cd" * 32})
        offer = Offer(NEWER, rollout=Rollout(1, "x1"), before=before)
        for automatic, taken in ((True, before), (False, offer)):
            with self.subTest(automatic=automatic):
                self.bench = Bench(self.folder / str(automatic), install="automatic").start()
                self.check(offer)
                self.assertTrue(self.bench.updater.is_due)
                self.assertEqual(self.bench.status.message, f"Release {NEW} is available.")
                self.find(offer, automatic)
                self.assertEqual(self.bench.steps.names[-1], "fetch")
                self.assertEqual(
                    self.bench.downloader.asked, Release(taken.version, taken.size, taken.hashes)
                )
                self.assertEqual(self.bench.status.available, taken.version)

    def test_has_the_one_before(self) -> None:
        """A box with the release before waits for its turn; with the newest it is up to date."""
        offer = Offer(NEWER, rollout=Rollout(1, "x1"), before=Offer(NEW))
        for installed, message in (
            (NEW, f"Release {NEWER} comes to this box later"),
            (NEWER, "The box is up to date."),
        ):
            self.bench.set_installed(installed)
            self.bench.restart()
            self.check(offer)
            self.assertFalse(self.bench.updater.is_due)
            self.assert_shown(NEWER, installed == NEW, message)

    def test_held_back(self) -> None:
        """A release that is held back is not shown, and no click is asked for."""
        self.check(Offer(NEW, rollout=Rollout(0, "x1")))
        self.assert_shown(None, False, f"Release {NEW} comes to this box later: it is held back")
        self.assertNotIn("Click", self.bench.status.message)

    def test_held_back_after_another(self) -> None:
        """If the newest is held back, the page shows, and a click installs, the one before."""
        before = Offer(NEW, 99, {"sha256": "cd" * 32})
        offer = Offer(NEWER, rollout=Rollout(0, "x1"), before=before)
        self.check(offer)
        self.assert_shown(NEW, True, f"Release {NEW} is available.")
        self.find(offer)
        self.assertEqual(self.bench.downloader.asked, Release(NEW, 99, {"sha256": "cd" * 32}))

    def assert_stopped(self, offer: Offer, reason: str) -> None:
        """The box shows a release, says why it does not install it by itself, and takes a click."""
        message = (
            f"Release {NEW} comes to this box later: {reason}. Click on Update Box to have it "
            "nevertheless."
        )
        self.check(offer)
        self.assert_shown(NEW, True, message)
        self.assertTrue(self.bench.status.held)
        self.assert_left(offer, message, automatic=True)
        self.assert_taken(offer)

    def test_stopped(self) -> None:
        """A release that the operator has stopped waits for a click, also if it is critical."""
        for critical in (False, True):
            self.renew()
            self.assert_stopped(
                Offer(NEW, critical=critical, pace=Pace(NEW, ALL, HELD)),
                "the operator has stopped it for now",
            )

    def test_pace_not_understood(self) -> None:
        """So does a release whose pace the box does not understand."""
        self.assert_stopped(
            Offer(NEW, pace=Pace(NEW, 0, UNKNOWN)),
            "this box does not understand the pace that the server gives it",
        )

    def test_goes_on(self) -> None:
        """A release that is not stopped any more is installed without a click."""
        self.check(Offer(NEW, pace=Pace(NEW, 0, HELD)))
        self.assert_taken(Offer(NEW, rollout=Rollout(100, "x1"), pace=Pace(NEW, ALL)), True)
        self.assertFalse(self.bench.status.held)

    def test_turn_by_pace(self) -> None:
        """A box has its turn when both the signed share and the pace have reached it."""
        # The number of box 7 is 5228.
        signed = Rollout(53, "x1")
        later = f"Release {NEW} comes to this box later: it reaches the boxes bit by bit."
        for offer in (
            Offer(NEW, rollout=signed, pace=Pace(NEW, 5228)),
            Offer(NEW, rollout=Rollout(52, "x1"), pace=Pace(NEW, ALL)),
        ):
            self.find(offer, automatic=True)
            self.assert_shown(NEW, True, later)
            self.assertFalse(self.bench.status.held)
        self.assert_taken(Offer(NEW, rollout=signed, pace=Pace(NEW, 5229)), automatic=True)

    def test_critical_ignores_share(self) -> None:
        """A critical release ignores the share of the pace."""
        self.assert_taken(Offer(NEW, critical=True, pace=Pace(NEW, 0)), automatic=True)

    def test_no_release_before_by_pace(self) -> None:
        """A box that waits because of the pace does not install the release before."""
        before = Offer(NEW, 99, {"sha256": "cd" * 32})
        for number, pace in enumerate((Pace(NEWER, 0), Pace(NEWER, ALL, HELD))):
            self.bench = Bench(self.folder / str(number), install="automatic").start()
            self.find(
                Offer(NEWER, 9, {"sha256": "ab" * 32}, before=before, pace=pace), automatic=True
            )
            self.assertIsNone(self.bench.downloader.asked)
            self.assertIn("comes to this box later", self.bench.status.message)

    def test_held_back_and_stopped(self) -> None:
        """A release that is signed for no box is not shown, whatever its pace is."""
        for pace in (Pace(NEW, ALL), Pace(NEW, 0, HELD)):
            self.check(Offer(NEW, rollout=Rollout(0, "x1"), pace=pace))
            self.assert_shown(None, False, f"Release {NEW} comes to this box later: it is held")
            self.assertFalse(self.bench.updater.is_due)

    def test_window(self) -> None:
        """A check tells the window in which the release will be installed."""
        window = DailyWindow.parse("02:00-04:00")
        for settings, message in (
            (
                {"install": "automatic", "window": window},
                f"Release {NEW} is available; it is installed between 02:00 and 04:00.",
            ),
            ({"install": "automatic"}, f"Release {NEW} is available."),
            ({"install": "click", "window": window}, f"Release {NEW} is available."),
        ):
            self.bench = Bench(self.folder, **settings).start()
            self.check(Offer(NEW))
            self.assertEqual(self.bench.status.message, message)
            self.check(Offer(OLD))
            self.assertEqual(self.bench.status.message, "The box is up to date.")
