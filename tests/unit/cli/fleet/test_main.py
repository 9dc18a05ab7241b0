"""The commands of opq-fleet."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.cli.fleet.export import COLUMNS
from opq_twisted.cli.fleet.main import main
from tests.helpers.fake_fleet_server import FakeFleetServer
from tests.helpers.fleet_contents import assessment
from tests.helpers.project import PROJECT
from tests.helpers.terminal import run_main
from tests.helpers.time_zones import move_to

NEW, OLD = 1547947203, 1547860803
NOW = 1_800_000_000.0
KEY = "9f2c" * 8

ROLLOUT: dict[str, Any] = {
    "channel": "stable",
    "release": NEW,
    "state": "baking",
    "bp": 500,
    "ceiling_bp": 10000,
    "critical": False,
    "announced_at": NOW - 9000,
    "since": NOW - 7200,
    "outcomes": [
        {"outcome": "returned", "reason": "unhealthy-service", "boxes": 2, "bad": True},
        {"outcome": "silent", "reason": "", "boxes": 1, "bad": True},
        {"outcome": "under way", "reason": "", "boxes": 9, "bad": False},
        {"outcome": "updated", "reason": "", "boxes": 212, "bad": False},
    ],
    "acknowledged_at": None,
    "sentence": None,
    "assessment": assessment(before={"release": OLD, "bad": 36, "boxes": 3987}, remaining=50_400.0),
    "not_judged": 0,
}
CHANGE = {
    "id": 5,
    "at": NOW - 7200,
    "who": "anna",
    "what": "widen",
    "channel": "stable",
    "release": NEW,
    "box": None,
    "key_id": None,
    "change": "From baking at 1 % to baking at 5 %.",
    "because": "all is well",
}
STATUS: dict[str, Any] = {
    "time": NOW,
    "rollouts": "auto",
    "channels": [ROLLOUT],
    "boxes": 4310,
    "releases": [{"release": NEW, "boxes": 212}, {"release": OLD, "boxes": 3987}],
    "others": 98,
    "unknown": 13,
    "waiting": {"turn": 3900},
    "waiting_now": 3902,
    "needs": {
        "silent": {"boxes": 1, "some": [90]},
        "blocked": {"boxes": 9, "some": [1, 4, 17, 20, 31]},
    },
    "changes": [CHANGE],
    "held": False,
}
#: Sequences that set a terminal's title, reverse text, and end a line.
HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202egnp \x7f\r\nopq-fleet: all is well"


class FleetCase(SynchronousTestCase):
    """A server that answers as the test tells it."""

    def setUp(self) -> None:
        move_to(self, "UTC")
        # The path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="opq-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.server = FakeFleetServer(self.folder / "s")
        self.addCleanup(self.server.close)

    def run_fleet(self, *arguments: object) -> tuple[int, str, str]:
        """Run a command; return the exit code, standard output and error."""
        return run_main(main, *arguments, "--socket", self.folder / "s")

    def said(self, *arguments: object, code: int = 0) -> str:
        """Run a command that ends with a code; return its output."""
        ended, out, error = self.run_fleet(*arguments)
        self.assertEqual((ended, error), (code, ""))
        return out

    def json(self, *arguments: object, code: int = 0) -> list[Any]:
        """Run a command with --json; return the values of all lines."""
        return [
            json.loads(line) for line in self.said(*arguments, "--json", code=code).splitlines()
        ]


class ReadingTests(FleetCase):
    """Commands that change nothing."""

    def test_status(self) -> None:
        """The first screen is that of the documentation, and fits into 80 columns."""
        self.server.answers["status"] = STATUS
        out = self.said("status")
        page = (PROJECT / "docs" / "operating-a-fleet.md").read_text(encoding="utf-8")
        self.assertIn(f"```console\n$ opq-fleet status\n{out}```\n", page)
        self.assertLessEqual(max(map(len, out.splitlines())), 80)
        self.assertEqual(self.json("status"), [STATUS])

    def test_no_boxes(self) -> None:
        """Outcomes of no box at all, from something that is no update server, are no attempts."""
        nothing = {**ROLLOUT, "outcomes": [{"outcome": "updated", "boxes": 0}]}
        self.server.answers["release"] = {"time": NOW, "channels": [nothing]}
        self.assertIn("no box has reported an attempt to install it yet", self.said("release", NEW))

    def test_held(self) -> None:
        """Commands that show a held release end with 10."""
        held = {**ROLLOUT, "state": "held"}
        self.server.answers |= {
            "status": {**STATUS, "channels": [held], "held": True},
            "release": {"time": NOW, "channels": [held], "boxes": 7, "held": True},
            "releases": {"rollouts": [{**held, "id": 1}], "more": False},
        }
        self.assertIn("held (at 5 % before)", self.said("status", code=10))
        self.assertIn("held (at 5 % before)", self.said("release", NEW, code=10))
        self.assertIn("held", self.said("releases", code=10))
        for command in (("status",), ("release", NEW), ("releases",)):
            self.json(*command, code=10)

    def test_not_judged(self) -> None:
        """Without an assessment nothing is said of one; boxes that do not count are told."""
        self.server.answers["release"] = {
            "channels": [{**ROLLOUT, "assessment": None, "not_judged": None}],
            "rollouts": "off",
        }
        out = self.said("release", NEW)
        for word in ("engine", "count:", "holds", "next"):
            self.assertNotIn(word, out)
        self.assertIn("off: the server does not judge them", out)
        self.server.answers["release"] = {
            "channels": [{**ROLLOUT, "not_judged": 1, "acknowledged_at": NOW - 60}]
        }
        out = " ".join(self.said("release", NEW).split())
        self.assertIn("1 box of those below does not count: the key was less than a day old", out)
        self.assertIn("or it was tried before the release was resumed.", out)

    def test_actions(self) -> None:
        """What comes next is said only if it comes by itself or may come."""
        judged = ROLLOUT["assessment"]
        for change, words in (
            ({"action": "wait", "remaining": 1800.0}, "next 20 % in about 30 minutes, unless"),
            ({"action": "widen", "remaining": None}, "next 20 %: nothing prevents it"),
            ({"action": "ask", "remaining": None}, ""),
            ({"action": None, "sentence": None}, ""),
            ({"action": "nothing", "next_bp": None}, ""),
        ):
            found = {**ROLLOUT, "assessment": {**judged, **change}}
            self.server.answers["release"] = {"channels": [found]}
            out = self.said("release", NEW)
            self.assertIn(words or "it holds at the 9th bad box of 224", out)
            self.assertEqual("next 20 %" in out, bool(words))

    def test_why(self) -> None:
        """A rollout says why it is held, in lines that fit."""
        sentence = "3 of 5 boxes are bad (rescued 3), 2 well, 0 under way. After 5 boxes 3 bad ones"
        held = {**ROLLOUT, "state": "held", "sentence": sentence}
        self.server.answers["status"] = {**STATUS, "channels": [held], "held": True}
        out = self.said("status", code=10)
        self.assertIn(f"Why: {sentence}", " ".join(out.split()))
        self.assertLessEqual(max(map(len, out.splitlines())), 80)

    def test_nothing(self) -> None:
        """An empty fleet is no error."""
        self.assertIn("No channel has named a release yet.", self.said("status"))
        self.assertIn("0 boxes", self.said("status"))
        self.assertEqual(self.said("boxes"), "No box matches.\n")
        self.assertEqual(self.said("releases"), "No channel has named a release yet.\n")
        self.assertEqual(self.said("audit"), "Nobody has changed anything yet.\n")
        self.assertIn("No attempt", self.said("box", "7"))

    def test_boxes(self) -> None:
        """Boxes are a table; filters go to the server."""
        row = {"id": 1, "box_id": 9007199254740991, "key_id": KEY, "state": "distrusted"}
        row |= {"release": NEW, "waiting": "measurement", "last_seen": None}
        # Its beginning could be the number of a box.
        digits = "1" * 14 + "a" * 18
        number = {"id": 2, "box_id": 0, "key_id": digits, "state": "known"}
        self.server.answers["boxes"] = {"boxes": [row, number], "more": False}
        out = self.said("boxes", "--release", NEW, "--not-seen-for", 7, "--state", "any")
        lines = out.splitlines()
        self.assertEqual(
            lines[0].split(), ["BOX", "KEY", "RELEASE", "STATE", "WAITS", "FOR", "SEEN"]
        )
        self.assertEqual(
            lines[1].split(),
            ["9007199254740991", KEY[:12], str(NEW), "distrusted", "measurement", "never"],
        )
        self.assertEqual(lines[2].split(), ["-", "1" * 14 + "a", "-", "known", "-", "never"])
        self.assertEqual(
            self.server.asked[0][1],
            {"limit": "100", "release": str(NEW), "not_seen_for": "7", "state": "any"},
        )
        self.assertEqual(self.json("boxes"), [row, number])

    def test_box(self) -> None:
        """A box is shown with its keys and attempts."""
        key = {"key_id": KEY, "box_id": 7, "state": "known", "release": NEW, "refused": [OLD, NEW]}
        key |= {"last_seen": NOW - 120, "cloned_at": NOW, "agent": "0.3", "arch": "aarch64"}
        attempt = {"received": NOW, "from_release": OLD, "release": NEW, "took": 200}
        attempts = [
            {**attempt, "outcome": "returned", "reason": "rescued", "inferred": True},
            {**attempt, "outcome": None, "stage": "installing"},
        ]
        self.server.answers["box"] = {"time": NOW, "keys": [key], "attempts": attempts}
        out = self.said("box", "7")
        for words in (
            *(
                f"Key          {KEY}\n",
                f"Blocked      {OLD}, {NEW}\n",
                "Last seen    2 minutes ago\n",
            ),
            *("Agent        0.3 on aarch64\n", "two boxes used this key 2027-01-15 08:00 UTC"),
            *("returned (rescued)      inferred\n", "under way (installing)  3 min 20 s\n"),
        ):
            self.assertIn(words, out)
        self.assertEqual(self.server.asked, [("box", {"name": "7"})])

    def test_release(self) -> None:
        """A release is shown with the boxes that it was bad for."""
        bad = {"box_id": 7, "key_id": KEY, "outcome": "returned", "reason": "rescued"}
        self.server.answers["release"] = {
            "time": NOW,
            "channels": [ROLLOUT],
            "boxes": 212,
            "bad": [bad],
            "changes": [CHANGE],
        }
        out = self.said("release", NEW)
        self.assertIn(f"Bad for      box 7 ({KEY[:12]}): returned (rescued)\n", out)
        self.assertIn("Run by       212 boxes\n", out)

    def test_audit(self) -> None:
        """The audit says who changed something, and why."""
        of_key = {**CHANGE, "id": 4, "what": "distrust", "release": None, "key_id": KEY}
        self.server.answers["audit"] = {"changes": [CHANGE, of_key], "more": False}
        out = self.said("audit")
        self.assertIn("anna  widen 1547947203 in stable\n", out)
        self.assertIn(f"anna  distrust {KEY[:12]}\n", out)
        self.assertEqual(self.json("audit"), [CHANGE, of_key])

    def test_hostile(self) -> None:
        """Control characters in any text are escaped, and end no line."""
        change = {**CHANGE, "who": HOSTILE, "because": HOSTILE, "change": HOSTILE}
        needs = {HOSTILE: {"boxes": 1}, "silent": {"boxes": 1, "some": [HOSTILE, {}, None]}}
        self.server.answers["status"] = {
            **STATUS,
            "channels": [{**ROLLOUT, "channel": HOSTILE, "state": HOSTILE}],
            "waiting": {HOSTILE: 1},
            "changes": [change],
            "needs": needs,
        }
        row = {"id": 1, "key_id": HOSTILE, "state": HOSTILE, "label": HOSTILE}
        self.server.answers["boxes"] = {"boxes": [row]}
        self.server.answers["box"] = {"keys": [row], "attempts": [{"outcome": HOSTILE}]}
        for command in (("status",), ("boxes",), ("box", "7")):
            out = self.said(*command)
            self.assertTrue(out.replace("\n", "").isprintable(), out)
            self.assertNotIn("\nopq-fleet: all is well", out)

    def test_wrong_types(self) -> None:
        """Values of other types than a server's count as missing."""
        values: tuple[Any, ...] = (None, "true", [], {}, "x", -1, 1e300)
        for value in values:
            self.server.answers["status"] = dict.fromkeys(STATUS, value)
            self.said("status")
            self.server.answers["status"] = {
                **STATUS,
                "channels": [dict.fromkeys(ROLLOUT, value)],
                "changes": [value],
                "needs": {"silent": {"boxes": 1, "some": value}},
            }
            self.said("status")
            self.server.answers["box"] = {"keys": [dict.fromkeys(("box_id", "last_seen"), value)]}
            self.said("box", "7")


class ChangingTests(FleetCase):
    """Commands that change something."""

    def test_pace(self) -> None:
        """An order says what was changed, and when boxes see it."""
        for command, more, sent in (
            ("hold", (), {}),
            ("resume", ("--at", "2.5"), {"at_bp": 250}),
            ("widen", ("--to", "20%", "--channel", "beta"), {"to_bp": 2000, "channel": "beta"}),
        ):
            self.server.answers[command] = {**ROLLOUT, "signs_here": True}
            out = self.said(command, NEW, "--because", "it hurts", *more)
            self.assertIn(
                "Release 1547947203 (2019-01-20 01:20 UTC) in stable is baking at 5 %", out
            )
            self.assertIn("signs a new timestamp now", out)
            name, body = self.server.asked[-1]
            given = {key: value for key, value in body.items() if value is not None}
            self.assertEqual(
                (name, given), (command, {"because": "it hurts", "release": NEW, **sent})
            )
        self.server.answers["hold"] = {**ROLLOUT, "signs_here": False}
        out = self.said("hold", NEW, "--because", "x")
        self.assertIn("The server with the timestamp's key signs a new timestamp", out)

    def test_error(self) -> None:
        """An error is one sentence, also in JSON."""
        self.server.status = 409
        self.server.answers["hold"] = {"error": "Release 1 is held already."}
        ended = self.run_fleet("hold", NEW, "--because", "x", "--json")
        self.assertEqual(
            ended,
            (
                1,
                '{"error": "Release 1 is held already."}\n',
                "opq-fleet: Release 1 is held already.\n",
            ),
        )

    def admit(self, content: str | bytes) -> tuple[int, str, str]:
        """Admit the keys of a file."""
        path = self.folder / "keys.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.run_fleet("admit", path, "--because", "new boxes")

    def test_admit(self) -> None:
        """A file of keys may have titles, comments, quotes, and capital letters."""
        self.server.answers["admit"] = {"admitted": 2, "replaced": 1}
        code, out, _ = self.admit(
            f'\ufeffbox_id,fingerprint\r\n# cellar\r\n7,{KEY}\r\n\r\n"0" , "{"AB" * 16}"\r\n'
        )
        self.assertEqual((code, out), (0, "Admitted: 2 keys. They replace 1 older key.\n"))
        keys = [{"box_id": 7, "key_id": KEY}, {"box_id": 0, "key_id": "ab" * 16}]
        self.assertEqual(self.server.asked, [("admit", {"because": "new boxes", "keys": keys})])

    def test_admit_titles(self) -> None:
        """The first line may name the two columns, as the manual does."""
        self.server.answers["admit"] = {"admitted": 1, "replaced": 0}
        self.assertEqual(self.admit(f"BOX_ID,FINGERPRINT\n7,{KEY}\n")[0], 0)

    def test_admit_mistakes(self) -> None:
        """Lines that are wrong are told, and nothing is sent."""
        for line in (
            "7",
            f"-7,{KEY}",
            f"7,{KEY}0",
            f"7;{KEY}",
            f"{2**53},{KEY}",
            "7,\0",
            f"7,{KEY},x",
        ):
            code, _, error = self.admit(f"1,{KEY}\n{line}\n")
            self.assertEqual(code, 1)
            self.assertIn("32 hexadecimal digits: line 2. Nothing was admitted.", error)
        self.assertIn("names no key", self.admit("")[2])
        self.assertIn("at most 10000 lines", self.admit(f"1,{KEY}\n" * 10_001)[2])
        self.assertIn("at most 10000 lines", self.admit(b"#" * (1 << 21))[2])
        self.assertIn("line 1, 2, 3", self.admit(b"\xff\n" * 100)[2])
        self.assertIn("No such file", self.run_fleet("admit", "/nowhere", "--because", "x")[2])
        self.assertEqual(self.server.asked, [])

    def test_not_admitted(self) -> None:
        """A line that the server refuses is told by its number in the file."""
        self.server.status = 409
        mistakes = {"1": "This key is named twice.", "7": "?"}
        self.server.answers["admit"] = {"error": "No key was admitted.", "mistakes": mistakes}
        code, _, error = self.admit(f"# titles\n1,{KEY}\n\n2,{KEY}\n")
        self.assertEqual(code, 1)
        self.assertIn("line 4: This key is named twice.\n", error)
        self.assertIn("keys.csv: No key was admitted.\n", error)
        self.assertNotIn("?", error)

    def test_boxes(self) -> None:
        """A key is distrusted, and a box forgotten."""
        self.server.answers |= {
            "distrust": {"key_id": KEY, "box_id": 7},
            "forget": {"box_id": 7, "keys": 1, "attempts": 12},
        }
        out = self.said("distrust", KEY, "--because", "stolen")
        self.assertEqual(
            out, f"The key {KEY} of box 7 is distrusted. To trust it again, admit it.\n"
        )
        out = self.said("forget", "7", "--because", "sold")
        self.assertEqual(out, "Deleted: 1 key and 12 attempts.\n")
        self.assertEqual([name for name, _ in self.server.asked], ["distrust", "forget"])


class ExportTests(FleetCase):
    """Boxes and attempts for other programs."""

    def test_boxes(self) -> None:
        """All keys are written as CSV, in which no cell is a formula."""
        row = {"id": 1, "box_id": 7, "key_id": KEY, "label": '=HYPERLINK("x"),\n', "last_seen": 1.5}
        row["refused"] = [OLD, NEW]
        self.server.answers["boxes"] = [
            {"boxes": [row], "more": True},
            {"boxes": [{**row, "id": 2}], "more": False},
        ]
        titles, *found = csv.reader(io.StringIO(self.said("export", "boxes")))
        self.assertEqual(tuple(titles), COLUMNS["boxes"])
        self.assertEqual(len(found), 2)
        cells = dict(zip(titles, found[0], strict=True))
        self.assertEqual((cells["key_id"], cells["last_seen"], cells["state"]), (KEY, "1.5", ""))
        self.assertEqual(cells["label"][:3], "'=H")
        self.assertEqual(cells["refused"], f"{OLD} {NEW}")
        self.assertEqual(self.server.asked[1], ("boxes", {"state": "any", "after": "1"}))

    def test_attempts(self) -> None:
        """All attempts are written as lines of JSON, page by page."""
        row = {"box": 1, "attempt_id": KEY, "outcome": "updated", "inferred": False, "more": "x"}
        self.server.answers["attempts"] = [
            {"attempts": [row], "more": True},
            {"attempts": [{**row, "box": 2}], "more": False},
        ]
        found = self.json("export", "attempts")
        self.assertEqual([each["box"] for each in found], [1, 2])
        self.assertEqual(tuple(found[0]), COLUMNS["attempts"])
        self.assertEqual(self.server.asked[1], ("attempts", {"after": "1", "after_attempt": KEY}))


class CommandLineTests(FleetCase):
    """The command line itself."""

    def test_wrong(self) -> None:
        """A wrong command line ends with 2, and a sentence."""
        for arguments in (
            (),
            ("statu",),
            ("hold", "1547947203"),
            ("hold", "x", "--because", "x"),
            ("resume", "1", "--because", "x", "--at", "101"),
            ("resume", "1", "--because", "x", "--at", "0.001"),
            ("boxes", "--state", "asleep"),
            ("boxes", "--not-seen-for", "-1"),
            ("boxes", "--not-seen-for", "99999"),
            ("export", "everything"),
            ("migrate",),
        ):
            code, out, error = run_main(main, *arguments)
            self.assertEqual((code, out), (2, ""), arguments)
            self.assertTrue(error.startswith("opq-fleet: "), error)
        self.assertEqual(self.server.asked, [])

    def test_socket_of_the_environment(self) -> None:
        """OPQ_FLEET_SOCKET is the default for --socket."""
        variables = {"OPQ_FLEET_SOCKET": str(self.folder / "s")}
        self.enterContext(patch.dict(os.environ, variables))
        self.assertEqual(run_main(main, "audit")[0], 0)

    def test_packages(self) -> None:
        """Only migrate loads the packages for databases."""
        script = (
            "import sys; from opq_twisted.cli.fleet.main import main\n"
            "try: main(['status', '--socket', '/nowhere'])\n"
            "finally: print(sorted({'sqlalchemy', 'alembic', 'twisted'} & set(sys.modules)))"
        )
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        self.assertEqual(ended.stdout, "[]\n")

    def test_migrate(self) -> None:
        """A database gets its tables without a server."""
        url = f"sqlite:///{self.folder / 'fleet.db'}"
        said = run_main(main, "migrate", "--fleet-db", url)
        self.assertEqual(said, (0, "The database has the tables of this program now.\n", ""))
        said = run_main(main, "migrate", "--fleet-db", url, "--json")
        sentence = "The database has the tables of this program already."
        self.assertEqual(json.loads(said[1]), {"status": sentence})
        self.assertEqual(run_main(main, "migrate", "--fleet-db", "mysql://x")[0], 1)
