"""Pages of boxes, attempts, rollouts and of the audit."""

from functools import partial
from typing import Any

from sqlalchemy import Connection

from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.keys.removal import matching
from opq_twisted.fleet.queries import pages
from opq_twisted.fleet.queries.census import Census, has_need, take_census
from opq_twisted.fleet.queries.pages import ANY, BoxFilter
from opq_twisted.fleet.queries.silence import SILENT_AFTER, Silence
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_attempt, add_box, add_rollout
from tests.helpers.store_case import StoreCase, on_each_database

SILENCE = Silence(NOW - SILENT_AFTER)
NOTE = AuditNote(who="anna", because="a test")


def census(connection: Connection) -> Census:
    """Count the boxes."""
    return take_census(connection, NOW, SILENCE)


@on_each_database
class BoxesTests(StoreCase):
    """The list of boxes."""

    def setUp(self) -> None:
        super().setUp()

        def change(connection: Connection) -> None:
            add_box(connection, 1)
            add_box(connection, 2, release=NEW, waiting="turn")
            add_box(connection, 3, channel="beta", state=BoxState.ADMITTED)
            add_box(connection, 4, state=BoxState.DISTRUSTED)
            add_box(connection, 5, last_seen=NOW - 8 * 86400)

        self.write(change)

    def numbers(self, **wanted: Any) -> list[int]:
        """Return the numbers of the boxes that a filter lets through."""
        chosen = BoxFilter(**wanted)
        found = self.read(lambda connection: pages.list_boxes(connection, None, wanted=chosen))
        return [each["box_id"] for each in found]

    def test_filters(self) -> None:
        """Each filter leaves some boxes out; without one only the boxes that count are listed."""
        self.assertEqual(self.numbers(), [1, 2, 3, 5])
        self.assertEqual(self.numbers(state=ANY), [1, 2, 3, 4, 5])
        self.assertEqual(self.numbers(state="distrusted"), [4])
        self.assertEqual(self.numbers(release=NEW), [2])
        self.assertEqual(self.numbers(waiting="turn"), [2])
        self.assertEqual(self.numbers(channel="beta"), [3])
        self.assertEqual(self.numbers(not_seen_since=NOW - 7 * 86400), [5])
        self.assertEqual(self.numbers(release=NEW, channel="beta"), [])

    def test_needs(self) -> None:
        """A list shows the boxes that need somebody for a reason, as the overview counts them."""
        self.write(lambda connection: add_box(connection, 6, box_id=1, waiting="refused"))
        found = {
            name: self.numbers(need=has_need(name, NOW, SILENCE))
            for name in self.read(census).needs
        }
        self.assertEqual(found["not_seen"], [5])
        self.assertEqual(found["shared_number"], [1, 1])
        self.assertEqual(found["blocked"], [1])
        counts = {name: need.boxes for name, need in self.read(census).needs.items()}
        self.assertEqual({name: len(boxes) for name, boxes in found.items()}, counts)

    def test_pages(self) -> None:
        """A page continues after the last row of the one before."""
        everything = BoxFilter(state=ANY)
        found: list[int] = []
        last = None
        for _ in range(3):
            page = self.read(partial(pages.list_boxes, after=last, limit=2, wanted=everything))
            found += [each["box_id"] for each in page]
            last = page[-1]["id"]
        self.assertEqual(found, [1, 2, 3, 4, 5])

    def test_what_is_shown(self) -> None:
        """Neither the key itself is shown, nor what serves to judge the next report."""
        (first, *_) = self.read(
            lambda connection: pages.list_boxes(connection, None, wanted=BoxFilter())
        )
        hidden = {column.name for column in box.c} - set(first)
        self.assertEqual(hidden, {"pubkey", "boot", "boots", "digest", "replaced_by"})

    def test_blocked(self) -> None:
        """The blocked releases are numbers; a box that has not reported yet has told none."""

        def change(connection: Connection) -> None:
            add_box(connection, 6, refused=f"[{OLD}, {NEW}]")
            add_box(connection, 7, refused=None)

        self.write(change)
        found = self.read(lambda connection: pages.list_boxes(connection, None, wanted=BoxFilter()))
        refused = {each["box_id"]: each["refused"] for each in found}
        self.assertEqual((refused[1], refused[6], refused[7]), ([], [OLD, NEW], None))
        [key] = self.read(lambda connection: pages.list_keys(connection, matching("6")))
        self.assertEqual(key["refused"], [OLD, NEW])

    def test_hostile_filters(self) -> None:
        """SQL in a filter is a text that no box has."""
        for text in ("' OR 1=1 --", "stable'; DROP TABLE box; --", "%", "_"):
            self.assertEqual(self.numbers(channel=text), [])
        self.assertEqual(len(self.numbers()), 4)


@on_each_database
class BoxTests(StoreCase):
    """One box: its keys and attempts."""

    def test_keys(self) -> None:
        """All keys of a number are shown, with the key that took the place of another one."""

        def change(connection: Connection) -> None:
            new = add_box(connection, 7, key_id="b" * 32)
            add_box(
                connection,
                7,
                key_id="a" * 32,
                state=BoxState.REPLACED,
                replaced_by=new,
                last_seen=NOW - 86400,
            )
            add_box(connection, 8)

        self.write(change)
        found = self.read(lambda connection: pages.list_keys(connection, matching("7")))
        self.assertEqual(
            [(each["key_id"], each["replaced_by"]) for each in found],
            [("b" * 32, None), ("a" * 32, "b" * 32)],
        )
        for name in ("a" * 32, "a" * 8):
            found = self.read(partial(pages.list_keys, condition=matching(name)))
            self.assertEqual([each["key_id"] for each in found], ["a" * 32])

    def test_attempts(self) -> None:
        """The attempts of some keys are listed, the newest first."""

        def change(connection: Connection) -> list[int]:
            rows = [add_box(connection, number) for number in (1, 2, 3)]
            for number, row in enumerate(rows, 1):
                add_attempt(connection, row, "updated", number=number, received=NOW + number)
            return rows

        first, second, _ = self.write(change)
        found = self.read(lambda connection: pages.list_last_attempts(connection, [first, second]))
        self.assertEqual([each["attempt_id"] for each in found], [f"{2:032x}", f"{1:032x}"])
        self.assertEqual(set(found[0]), {column.name for column in attempt.c})

    def test_bad(self) -> None:
        """Boxes that a release was bad for are listed with the reason."""

        def change(connection: Connection) -> None:
            for number, (outcome, reason) in enumerate(
                (
                    ("updated", None),
                    ("failed", "download"),
                    ("failed", "archive"),
                    ("returned", "rescued"),
                    (None, None),
                ),
                1,
            ):
                add_attempt(connection, add_box(connection, number), outcome, reason)
            silent = add_box(connection, 6, last_seen=NOW - SILENT_AFTER - 1)
            add_attempt(connection, silent, None)

        self.write(change)
        found = self.read(lambda connection: pages.list_bad_boxes(connection, NEW, SILENCE))
        self.assertEqual(
            [(each["box_id"], each["outcome"], each["reason"]) for each in found],
            [(6, "silent", None), (4, "returned", "rescued"), (3, "failed", "archive")],
        )
        self.assertEqual(
            self.read(lambda connection: pages.list_bad_boxes(connection, OLD, SILENCE)), []
        )


@on_each_database
class PagesTests(StoreCase):
    """Attempts, rollouts and the audit, in pages."""

    def test_attempts(self) -> None:
        """All attempts of all boxes come once, in pages of any size."""

        def change(connection: Connection) -> None:
            for number in (1, 2, 3):
                row = add_box(connection, number)
                for index in range(3):
                    add_attempt(connection, row, "updated", number=number * 10 + index)

        self.write(change)
        for size in (1, 2, 4, 9):
            found: list[tuple[int, str]] = []
            last = (0, "")
            while page := self.read(partial(pages.list_attempts, after=last, limit=size)):
                found += [(each["box"], each["attempt_id"]) for each in page]
                last = found[-1]
            self.assertEqual(len(found), 9)
            self.assertEqual(found, sorted(set(found)))

    def test_rollouts(self) -> None:
        """The rollout that was announced last is the first."""

        def change(connection: Connection) -> None:
            for release in (3, 1, 2):
                add_rollout(connection, release)

        self.write(change)
        first = self.read(lambda connection: pages.list_rollouts(connection, None, 2))
        rest = self.read(lambda connection: pages.list_rollouts(connection, first[-1]["id"], 2))
        self.assertEqual([each["release"] for each in first + rest], [2, 1, 3])

    def test_audit(self) -> None:
        """The last change is the first; one of a box that is forgotten has no key any more."""

        def change(connection: Connection) -> None:
            row = add_box(connection, 7)
            record(connection, NOTE, NOW, what="hold", change="Held.", release=NEW)
            record(connection, NOTE, NOW, what="admit", change="Admitted.", box=row)
            record(connection, NOTE, NOW, what="forget", change="Deleted.", box=row + 1)

        self.write(change)
        found = self.read(lambda connection: pages.list_changes(connection, None))
        self.assertEqual(
            [(each["what"], each["key_id"]) for each in found],
            [("forget", None), ("admit", f"{7:032x}"), ("hold", None)],
        )
        rest = self.read(lambda connection: pages.list_changes(connection, found[0]["id"], 1))
        self.assertEqual([each["what"] for each in rest], ["admit"])
        own = self.read(lambda connection: pages.list_changes(connection, None, 5, NEW))
        self.assertEqual([each["what"] for each in own], ["hold"])
