"""Keys that an operator admits."""

from typing import Any

from sqlalchemy import Connection, select

from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.keys.admission import Admission, Admitted, NotAdmitted, admit
from opq_twisted.fleet.store.schema import audit, box
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.fleet_rows import NOW, add_box
from tests.helpers.store_case import StoreCase, on_each_database

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
NOTE = AuditNote(who="anna", because="a new card")


@on_each_database
class AdmissionTests(StoreCase):
    """Admits keys of a file."""

    def add(self, number: int, key: str, **columns: Any) -> int:
        """Add a key that is known already."""
        return self.write(lambda connection: add_box(connection, number, key_id=key, **columns))

    def admit(self, *wanted: tuple[int, str]) -> Admitted:
        """Admit keys."""
        keys = [Admission(*each) for each in wanted]
        return self.write(lambda connection: admit(connection, keys, NOTE, NOW))

    def keys(self) -> dict[str, tuple[int, str, int | None]]:
        """Return the keys with their numbers, states and successors."""

        def query(connection: Connection) -> Any:
            return connection.execute(select(box)).all()

        return {row.key_id: (row.box_id, row.state, row.replaced_by) for row in self.read(query)}

    def deeds(self) -> list[Any]:
        """Return the audit."""
        return list(self.read(lambda connection: connection.execute(select(audit)).all()))

    def test_new(self) -> None:
        """A key that nobody has seen is trusted before its first report."""
        self.assertEqual(self.admit((7, A), (0, B)), Admitted(2, 0))
        self.assertEqual(
            self.keys(), {A: (7, BoxState.ADMITTED, None), B: (0, BoxState.ADMITTED, None)}
        )
        self.assertEqual(
            [(each.who, each.what, each.change, each.because) for each in self.deeds()],
            [
                ("anna", "admit", "A key of box 7 is admitted.", "a new card"),
                ("anna", "admit", "A key of a box without a number is admitted.", "a new card"),
            ],
        )

    def test_known(self) -> None:
        """A key that reports, was turned away or replaced is trusted again."""
        for number, state in enumerate(BoxState, 1):
            self.add(number, f"{number:032x}", state=state)
        wanted = [(number, f"{number:032x}") for number in range(1, len(BoxState) + 1)]
        self.assertEqual(self.admit(*wanted), Admitted(len(BoxState), 0))
        self.assertEqual({state for _, state, _ in self.keys().values()}, {BoxState.ADMITTED})

    def test_replaces(self) -> None:
        """A key takes the place of the older one of its box, but of none that is turned away."""
        self.add(7, A)
        self.add(7, C, state=BoxState.DISTRUSTED)
        new = self.add(7, B)
        self.assertEqual(self.admit((7, B)), Admitted(1, 1))
        self.assertEqual(
            self.keys(),
            {
                A: (7, BoxState.REPLACED, new),
                B: (7, BoxState.ADMITTED, None),
                C: (7, BoxState.DISTRUSTED, None),
            },
        )

    def test_back(self) -> None:
        """A key that was replaced can take its place back."""
        old = self.add(7, A)
        self.add(7, B)
        self.admit((7, B))
        self.admit((7, A))
        self.assertEqual(
            self.keys(), {A: (7, BoxState.ADMITTED, None), B: (7, BoxState.REPLACED, old)}
        )

    def test_without_a_number(self) -> None:
        """Boxes without a number do not replace each other."""
        self.add(0, A)
        self.assertEqual(self.admit((0, B)), Admitted(1, 0))

    def test_mistakes(self) -> None:
        """If one key cannot be admitted, none is, and each mistake is told by its position."""
        self.add(7, A)
        before = self.keys()
        wanted = (8, A), (9, B), (9, C), (10, B)
        error = self.assertRaises(NotAdmitted, self.admit, *wanted)
        self.assertEqual(
            error.mistakes,
            {
                0: "This key has sent reports of box 7.",
                2: "Another line admits a key for box 9.",
                3: "This key is named twice.",
            },
        )
        self.assertEqual(self.keys(), before)
        self.assertEqual(self.deeds(), [])

    def test_many(self) -> None:
        """More keys than a condition takes are admitted at once."""
        wanted = [(number, f"{number:032x}") for number in range(1, 2501)]
        self.add(1, f"{1:032x}")
        self.add(2500, A)
        self.assertEqual(self.admit(*wanted), Admitted(2500, 1))
        self.assertEqual(len(self.keys()), 2501)
