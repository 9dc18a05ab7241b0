"""How the boxes fared with a release."""

from sqlalchemy import Connection
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.queries.outcomes import (
    SILENT,
    UNDER_WAY,
    Result,
    count_results,
    is_bad,
    merge,
)
from opq_twisted.fleet.queries.silence import SILENT_AFTER, Silence
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.report.codes import RELEASE_AT_FAULT, Outcome, Reason
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_attempt, add_box
from tests.helpers.store_case import StoreCase, on_each_database


@on_each_database
class CountTests(StoreCase):
    """Boxes are counted by their worst attempt."""

    def results(self, channel: str = "stable") -> list[Result]:
        """Count the boxes of a channel with the new release."""
        silence = Silence(NOW - SILENT_AFTER)
        return merge(self.read(lambda store: count_results(store, NEW, channel, silence)))

    def counted(self, channel: str = "stable") -> dict[tuple[str, str], int]:
        """Count the boxes of a channel with the new release, by outcome and reason."""
        return {(each.outcome, each.reason): each.boxes for each in self.results(channel)}

    def add(self, number: int, *attempts: tuple[str | None, str | None], **columns: object) -> None:
        """Add a box with attempts."""

        def change(connection: Connection) -> None:
            row = add_box(connection, number, **columns)
            for index, (outcome, reason) in enumerate(attempts):
                add_attempt(connection, row, outcome, reason, number=number * 100 + index)

        self.write(change)

    def test_each(self) -> None:
        """Each outcome and reason has its own count."""
        self.add(1, ("updated", None))
        self.add(2, ("updated", None))
        self.add(3, ("returned", "unhealthy-service"))
        self.add(4, ("failed", "download"))
        self.add(5, (None, None))
        self.add(6, (None, None), last_seen=NOW - SILENT_AFTER - 1)
        self.assertEqual(
            self.counted(),
            {
                ("updated", ""): 2,
                ("returned", "unhealthy-service"): 1,
                ("failed", "download"): 1,
                (UNDER_WAY, ""): 1,
                (SILENT, ""): 1,
            },
        )

    def test_worst(self) -> None:
        """A box counts once, by its worst attempt; failures of the network give way to others."""
        self.add(1, ("failed", "install-status"), ("failed", "download"), ("updated", None))
        self.add(2, ("updated", None), ("returned", "fell-over"))
        self.add(3, ("failed", "download"), (None, None), last_seen=NOW - SILENT_AFTER - 1)
        self.add(4, ("failed", "download"), (None, None))
        self.assertEqual(
            self.counted(),
            {
                ("failed", "install-status"): 1,
                ("returned", "fell-over"): 1,
                (SILENT, ""): 1,
                (UNDER_WAY, ""): 1,
            },
        )

    def test_order(self) -> None:
        """The worst is first."""
        self.add(1, ("updated", None))
        self.add(2, ("returned", "rescued"))
        self.add(3, ("failed", "download"))
        found = self.results()
        self.assertEqual([each.is_bad for each in found], [True, False, False])
        self.assertEqual(found[-1].outcome, "failed")

    def test_not_installing(self) -> None:
        """A box that was switched off during a download is not silent."""

        def change(connection: Connection) -> None:
            row = add_box(connection, 1, last_seen=NOW - 10 * SILENT_AFTER)
            add_attempt(connection, row, None, stage="downloading")

        self.write(change)
        self.assertEqual(self.counted(), {(UNDER_WAY, ""): 1})

    def test_newer_agents(self) -> None:
        """Outcomes and reasons that this program does not know count as those of a failure."""
        self.add(1, ("failed", "solar-flare"))
        self.add(2, ("returned", "solar-flare"))
        self.add(3, ("vanished", None))
        self.assertEqual(self.counted(), {("failed", "other"): 2, ("returned", "other"): 1})

    def test_others(self) -> None:
        """Keys that do not count, other releases and other channels are kept apart."""
        self.add(1, ("returned", "rescued"), state=BoxState.DISTRUSTED)
        self.add(2, ("returned", "rescued"), state=BoxState.REPLACED)
        self.add(3, ("updated", None), channel="beta")
        self.write(
            lambda connection: add_attempt(
                connection, add_box(connection, 4), "updated", release=OLD
            )
        )
        self.assertEqual(self.counted(), {("returned", "rescued"): 1})
        self.assertEqual(self.counted("beta"), {("updated", ""): 1})


class BadTests(SynchronousTestCase):
    """Which results count against a release."""

    def test_reasons(self) -> None:
        """A failure counts if the release is at fault; a return and a silence always do."""
        for reason in Reason:
            self.assertEqual(is_bad(Outcome.FAILED, reason), reason in RELEASE_AT_FAULT)
            self.assertTrue(is_bad(Outcome.RETURNED, reason))
        self.assertTrue(is_bad(SILENT, ""))
        self.assertFalse(is_bad(UNDER_WAY, ""))
        self.assertFalse(is_bad(Outcome.UPDATED, ""))
