"""The resources behind the fleet's socket."""

import getpass
import json
from typing import Any

from sqlalchemy import Connection

from opq_twisted.fleet.control import site
from opq_twisted.fleet.store.states import RolloutState
from tests.helpers.fleet_control import Control, DatabaseInPlace
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_attempt, add_box, add_rollout
from tests.helpers.store_case import StoreCase, on_each_database

A = "a" * 32


class ControlCase(StoreCase):
    """Some boxes, one of which has tried the release on offer."""

    def setUp(self) -> None:
        super().setUp()
        self.control = Control(self.database)

        def change(connection: Connection) -> None:
            add_rollout(connection, OLD, state=RolloutState.SUPERSEDED)
            add_rollout(connection, NEW)
            add_attempt(connection, add_box(connection, 7), "returned", "rescued")
            add_box(connection, 8, waiting="turn")

        self.write(change)


@on_each_database
class ReadingTests(ControlCase):
    """What can be asked for."""

    def test_status(self) -> None:
        """The state of the fleet has everything that the first screen shows."""
        found = self.control.get("/status")
        (channel,) = found["channels"]
        self.assertEqual(
            {name: channel[name] for name in ("channel", "release", "state", "bp", "ceiling_bp")},
            {
                "channel": "stable",
                "release": NEW,
                "state": "baking",
                "bp": 500,
                "ceiling_bp": 10000,
            },
        )
        self.assertEqual(
            channel["outcomes"],
            [{"outcome": "returned", "reason": "rescued", "boxes": 1, "bad": True}],
        )
        self.assertEqual((found["boxes"], found["releases"]), (2, [{"release": OLD, "boxes": 2}]))
        self.assertEqual((found["unknown"], found["others"]), (0, 0))
        self.assertEqual(found["waiting"], {"turn": 1})
        self.assertEqual(found["waiting_now"], 3)
        self.assertEqual(found["needs"]["silent"], {"boxes": 0, "some": []})
        self.assertEqual((found["held"], found["time"]), (False, NOW))

    def test_strange_releases(self) -> None:
        """Boxes that report releases that there never were do not hide those of the fleet."""

        def change(connection: Connection) -> None:
            for number in range(100, 120):
                add_box(connection, number, release=2**52 + number)
            add_box(connection, 9, release=NEW)

        self.write(change)
        found = self.control.get("/status")
        shown = {each["release"]: each["boxes"] for each in found["releases"]}
        self.assertEqual((len(shown), shown[NEW], shown[OLD], found["others"]), (12, 1, 2, 10))
        self.assertEqual(list(shown), sorted(shown, reverse=True))

    def test_release(self) -> None:
        """A release is shown with the boxes that it was bad for; an unknown one is not there."""
        found = self.control.get(f"/release?release={NEW}")
        self.assertEqual([each["box_id"] for each in found["bad"]], [7])
        self.assertEqual(found["boxes"], 0)
        self.assertEqual(found["channels"][0]["state"], "baking")
        answer = self.control.exchange("GET", "/release?release=12")
        self.assertEqual(answer.status, 404)
        self.assertIn("No channel has named release 12", json.loads(answer.body)["error"])

    def test_older_release(self) -> None:
        """A release that boxes ran before there was a fleet is shown without a channel."""
        self.write(lambda connection: add_box(connection, 9, release=11))
        found = self.control.get("/release?release=11")
        self.assertEqual((found["channels"], found["boxes"], found["held"]), ([], 1, False))

    def test_pages(self) -> None:
        """Lists come in pages of at most a limit, and say whether more may follow."""
        page = self.control.get("/boxes?limit=1")
        self.assertEqual(([each["box_id"] for each in page["boxes"]], page["more"]), ([7], True))
        page = self.control.get(f"/boxes?limit=5&after={page['boxes'][0]['id']}")
        self.assertEqual(([each["box_id"] for each in page["boxes"]], page["more"]), ([8], False))
        page = self.control.get("/releases?limit=1")
        self.assertEqual([each["release"] for each in page["rollouts"]], [NEW])
        page = self.control.get(f"/releases?before={page['rollouts'][0]['id']}")
        self.assertEqual([each["release"] for each in page["rollouts"]], [OLD])
        self.assertEqual(self.control.get("/audit"), {"changes": [], "more": False})
        (attempt,) = self.control.get("/attempts")["attempts"]
        after = f"after={attempt['box']}&after_attempt={attempt['attempt_id']}"
        self.assertEqual(self.control.get(f"/attempts?{after}")["attempts"], [])

    def test_filter(self) -> None:
        """The list of boxes has filters."""
        found = self.control.get("/boxes?waiting=turn&channel=stable&state=known")["boxes"]
        self.assertEqual([each["box_id"] for each in found], [8])
        self.assertEqual(self.control.get("/boxes?not_seen_for=7")["boxes"], [])
        self.assertEqual(self.control.get("/boxes?need=not-seen")["boxes"], [])

    def test_box(self) -> None:
        """A box is shown by its number, or by its key."""
        for name in ("7", f"{7:032x}"):
            found = self.control.get(f"/box?name={name}")
            self.assertEqual([each["box_id"] for each in found["keys"]], [7])
            self.assertEqual([each["reason"] for each in found["attempts"]], ["rescued"])
        self.assertEqual(self.control.exchange("GET", "/box?name=9").status, 404)

    def test_mistakes(self) -> None:
        """A query that opq-fleet does not send is refused with a sentence."""
        for query in (
            *("/boxes?limit=501", "/boxes?limit=-1", "/boxes?after=x", "/boxes?after=1&after=2"),
            *("/boxes?channel=%27", "/boxes?state=A", "/boxes?release=1e3", "/release"),
            *(
                "/boxes?not_seen_for=99999",
                "/boxes?need=money",
                "/attempts?after_attempt=zz",
                "/audit?before=%00",
            ),
            f"/boxes?after={2**63}",
        ):
            answer = self.control.exchange("GET", query)
            self.assertEqual(answer.status, 400, query)
            self.assertIn("The field", json.loads(answer.body)["error"])

    def test_away(self) -> None:
        """While the database cannot be used, each answer is 503 with a sentence."""
        self.control.database.is_away = True
        answer = self.control.exchange("GET", "/status")
        self.assertEqual(answer.status, 503)
        self.assertIn("the disk is full", json.loads(answer.body)["error"])

    def test_nothing_else(self) -> None:
        """There is nothing else, and reading is not done by POST."""
        self.assertEqual(self.control.exchange("GET", "/").status, 404)
        self.assertEqual(self.control.exchange("GET", "/status/more").status, 404)
        self.assertEqual(self.control.exchange("POST", "/status", b"{}").status, 405)
        self.assertEqual(self.control.exchange("GET", "/hold").status, 405)


@on_each_database
class ChangingTests(ControlCase):
    """What can be changed."""

    def audit(self) -> list[tuple[str, str, str]]:
        """Return who changed what, and why; the first change first."""
        changes = self.control.get("/audit")["changes"]
        return [(each["who"], each["what"], each["because"]) for each in reversed(changes)]

    def test_pace(self) -> None:
        """A rollout is held, resumed and widened; the timestamp is made anew each time."""
        answer = self.control.post("/hold", release=NEW, because="it hurts")
        self.assertEqual((answer["code"], answer["state"], answer["bp"]), (200, "held", 500))
        self.assertTrue(answer["signs_here"])
        self.assertTrue(self.control.get("/status")["held"])
        self.control.signs = False
        answer = self.control.post("/resume", release=NEW, at_bp=100, because="slowly")
        self.assertEqual((answer["state"], answer["bp"]), ("baking", 100))
        self.assertFalse(answer["signs_here"])
        answer = self.control.post(
            "/widen", release=NEW, to_bp=200, because="well", channel="stable"
        )
        self.assertEqual((answer["state"], answer["bp"]), ("baking", 200))
        self.assertEqual(self.control.changed, 3)
        me = getpass.getuser()
        self.assertEqual(
            self.audit(),
            [(me, "hold", "it hurts"), (me, "resume", "slowly"), (me, "widen", "well")],
        )

    def test_slow_name(self) -> None:
        """The user's name is looked up in no transaction that reports would have to wait for."""
        database, calls = self.control.database, list[str]()

        def write(change: Any) -> Any:
            calls.append("write")
            return DatabaseInPlace.write(database, change)

        def name(_uid: int) -> str:
            calls.append("name")
            return "anna"

        self.patch(database, "write", write)
        self.patch(site, "user_name", name)
        self.control.post("/hold", release=NEW, because="It fails.")
        self.assertEqual(calls, ["name", "write"])

    def test_refused(self) -> None:
        """An order that is refused changes nothing, and makes no timestamp."""
        answer = self.control.post("/widen", release=NEW, to_bp=1, because="x")
        self.assertEqual(answer["code"], 409)
        self.assertIn("is at 5 %", answer["error"])
        self.assertEqual(self.control.post("/hold", release=12, because="x")["code"], 404)
        self.assertEqual(self.control.changed, 0)
        self.assertEqual(self.audit(), [])

    def test_because(self) -> None:
        """Each change needs a reason of one line."""
        for because in ("", " ", "a\nb", "\x1b[31m", "x" * 501, "\u202e"):
            answer = self.control.post("/hold", release=NEW, because=because)
            self.assertEqual(answer["code"], 400, because)
        self.assertEqual(self.control.post("/hold", release=NEW)["code"], 400)
        self.assertEqual(self.control.post("/hold", release=NEW, because=1)["code"], 400)
        self.assertEqual(self.audit(), [])

    def test_hostile_because(self) -> None:
        """SQL and HTML in a reason are text."""
        because = "'; DROP TABLE box; -- <script>alert(1)</script>"
        self.control.post("/hold", release=NEW, because=because)
        self.assertEqual(self.audit()[0][2], because)
        self.assertEqual(self.control.get("/status")["boxes"], 2)

    def test_keys(self) -> None:
        """Keys are admitted and distrusted, and boxes forgotten."""
        answer = self.control.post(
            "/admit", keys=[{"box_id": 7, "key_id": A}], because="a new card"
        )
        self.assertEqual((answer["admitted"], answer["replaced"]), (1, 1))
        answer = self.control.post("/distrust", key=A, because="stolen")
        self.assertEqual((answer["box_id"], answer["state_before"]), (7, "admitted"))
        answer = self.control.post("/forget", name="8", because="sold")
        self.assertEqual((answer["box_id"], answer["keys"], answer["attempts"]), (8, 1, 0))
        self.assertEqual([what for _, what, _ in self.audit()], ["admit", "distrust", "forget"])
        self.assertEqual(self.control.changed, 0)

    def test_not_admitted(self) -> None:
        """Mistakes in a list of keys are told by their positions."""
        keys = [{"box_id": 1, "key_id": A}, {"box_id": 2, "key_id": A}]
        answer = self.control.post("/admit", keys=keys, because="x")
        self.assertEqual(answer["code"], 409)
        self.assertEqual(answer["mistakes"], {"1": "This key is named twice."})

    def test_bodies(self) -> None:
        """A body that opq-fleet does not send is refused with a sentence."""
        key = {"box_id": 7, "key_id": A}
        for path, body in (
            *(("/hold", body) for body in (b"", b"[]", b"{", b"[" * 5000, b'{"release": NaN}')),
            ("/hold", b"\xff"),
            ("/hold", json.dumps({"release": str(NEW), "because": "x"}).encode()),
            ("/hold", json.dumps({"release": True, "because": "x"}).encode()),
            ("/resume", json.dumps({"release": NEW, "at_bp": 10001, "because": "x"}).encode()),
            ("/admit", json.dumps({"keys": [key] * 10_001, "because": "x"}).encode()),
            ("/admit", json.dumps({"keys": [{"box_id": 7}], "because": "x"}).encode()),
            ("/admit", json.dumps({"keys": ["7"], "because": "x"}).encode()),
            ("/admit", json.dumps({"keys": [{**key, "key_id": "A" * 32}]}).encode()),
            ("/admit", json.dumps({"keys": [{**key, "box_id": 2**53}]}).encode()),
        ):
            answer = self.control.exchange("POST", path, body)
            self.assertEqual(answer.status, 400, body[:40])
            self.assertTrue(json.loads(answer.body)["error"])
        too_large = self.control.exchange("POST", "/admit", b" " * (1024 * 1024 + 1))
        self.assertEqual(too_large.status, 413)
        self.assertEqual(self.audit(), [])

    def test_away(self) -> None:
        """While the database cannot be used, nothing is changed, and nobody told."""
        self.control.database.is_away = True
        answer = self.control.post("/hold", release=NEW, because="x")
        self.assertEqual(answer["code"], 503)
        self.assertEqual(self.control.changed, 0)
