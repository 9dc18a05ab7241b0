"""What can be done to a box on its command line."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.web.auth import PasswordHash
from opq_twisted.cli.box import main as box
from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.main import main
from opq_twisted.common.errors import AgentAway
from tests.helpers.archives import make_archive, name_of
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.failing_disk import counting
from tests.helpers.fake_agent import FakeAgent, FakeClock
from tests.helpers.terminal import on_terminal
from tests.helpers.time_zones import move_to

PROGRAM = str(Path(sys.executable).with_name("opq-box"))

#: What became of an update that began and ended then.
UPDATED = {
    "version": NEW,
    "started": NEW,
    "ended": NEW + 200,
    "outcome": "updated",
    "reason": f"The box runs release {NEW}.",
}
FAILED = {**UPDATED, "outcome": "failed", "reason": "The disk is full."}
RETURNED = {**UPDATED, "outcome": "returned", "reason": f"Release {NEW} failed."}
DOWNLOAD = {"stage": "downloading", "message": "Downloading the new release."}

#: What would change a terminal's title, turn text around, and end a line.
HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202egnp \x7f\ud800 \r\nopq-box: all is well"


class AdoptTests(SynchronousTestCase):
    """A box gets a release to return to."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        self.state_dir = self.place / "state"
        self.state_dir.mkdir(parents=True)
        self.version_file = self.place / "VERSION"
        self.version_file.write_text(f"{OLD}\n")
        self.config = self.place / "config.json"
        settings = {"version_file": str(self.version_file)}
        self.config.write_text(json.dumps({"updates_ep": "http://x.example", "updater": settings}))
        self.archive = make_archive(self.place / name_of(OLD), OLD)
        self.archives = ArchiveStore(self.state_dir / "archives")

    def adopt(self, archive: Path, *more: str, status: int = 0) -> str:
        options = [f"--config={self.config}", f"--state-dir={self.state_dir}", *more]
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = main(["adopt", *options, str(archive)])
        self.assertEqual(code, status, error.getvalue())
        return (error if status else out).getvalue()

    def assert_refused(self, archive: Path, *words: str) -> None:
        """Nothing is adopted, nothing stays, and a sentence says why."""
        said = self.adopt(archive, status=1)
        self.assertEqual((said[:9], said.count("\n"), said[-2:]), ("opq-box: ", 1, ".\n"), said)
        for word in words:
            self.assertIn(word, said)
        self.assertIsNone(self.archives.last_good)
        left = {path.name for path in self.state_dir.rglob("*")}
        self.assertLessEqual(left, {"archives", ".lock"})

    def test_adopted(self) -> None:
        """The archive of the release that runs is copied, and is the last good one."""
        self.assertIn(f"goes back to release {OLD}", self.adopt(self.archive))
        good = self.archives.last_good
        assert good is not None
        self.assertEqual(good.version, OLD)
        self.assertEqual(self.archives.path(OLD).read_bytes(), self.archive.read_bytes())
        self.assertEqual([path.name for path in self.state_dir.iterdir()], ["archives"])
        self.assertIn("already", self.adopt(self.archive))
        said = json.loads(self.adopt(self.archive, "--json"))
        self.assertIn("already", said["status"])

    def test_lost(self) -> None:
        """A last good archive that is gone, or not what it was, is adopted anew."""
        self.adopt(self.archive)
        kept = self.archives.path(OLD)
        kept.write_bytes(bytes(100))
        self.assertIn("goes back to release", self.adopt(self.archive))
        kept.unlink()
        self.assertIn("goes back to release", self.adopt(self.archive))
        self.assertEqual(kept.read_bytes(), self.archive.read_bytes())

    def test_another_release(self) -> None:
        """Another than that which runs is refused; so is any where nobody knows what runs."""
        other = make_archive(self.place / name_of(NEW), NEW)
        self.assert_refused(other, f"The installed release is {OLD}, and not {NEW}")
        self.version_file.unlink()
        self.assert_refused(self.archive, "The installed release is unknown")

    def test_damaged(self) -> None:
        """What the box could not unpack is no release to return to."""
        data = self.archive.read_bytes()
        self.archive.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 1 :])
        self.assert_refused(self.archive, name_of(OLD))
        inner = make_archive(self.place / "inner.tar.bz2", NEW)
        inner.replace(self.archive)
        self.assert_refused(self.archive, "VERSION")

    def test_not_an_archive(self) -> None:
        """A file with another name, and one that is not there."""
        self.assert_refused(self.place / "VERSION", "VERSION")
        self.archive.unlink()
        self.assert_refused(self.archive, "No such file")

    def test_disk_full(self) -> None:
        """On a full disk nothing is adopted."""
        with counting(1):
            self.assert_refused(self.archive, "No space left")
        self.adopt(self.archive)

    def test_no_configuration(self) -> None:
        """Without a configuration it is not known what runs."""
        self.config.unlink()
        self.assert_refused(self.archive, "configuration")

    def test_program(self) -> None:
        """It is a program of its own, and says what it does."""
        said = subprocess.run([PROGRAM, "adopt", "--help"], capture_output=True, text=True).stdout
        self.assertIn("--state-dir", said)


class AgentCase(SynchronousTestCase):
    """Somebody types, and an agent answers."""

    def setUp(self) -> None:
        move_to(self, "UTC")
        self.agent = FakeAgent()
        self.addCleanup(self.agent.close)
        self.clock = FakeClock()
        self.patch(box, "time", self.clock)
        #: What was said on standard error.
        self.warned = ""

    def type(self, command: str, *more: str, status: int = 0, url: str | None = None) -> str:
        """Type a command; returns what it prints."""
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                code = main([command, "--url", url or self.agent.url, *more])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
        self.warned = error.getvalue()
        self.assertEqual(code, status, self.warned)
        return out.getvalue()

    def lines(self, command: str, *more: str, status: int = 0) -> list[Any]:
        """Type a command for programs; returns what it prints, line by line."""
        said = self.type(command, "--json", *more, status=status)
        return [json.loads(line) for line in said.splitlines()]

    def assert_refused(self, command: str, *more: str, url: str | None = None, words: str) -> None:
        """Nothing is printed but a sentence that says why; for programs it is in JSON, too."""
        printed, said = self.type(command, *more, status=1, url=url), self.warned
        error = json.dumps({"error": said.removeprefix("opq-box: ").strip()})
        self.assertEqual(printed, f"{error}\n" if "--json" in more else "")
        self.assertEqual((said[:9], said.count("\n"), said[-2:]), ("opq-box: ", 1, ".\n"), said)
        self.assertIn(words, said)


class StatusTests(AgentCase):
    """How the box is."""

    def test_all(self) -> None:
        """People are told all there is to know; versions are times."""
        self.agent.status |= {
            "available": NEW,
            "update_available": True,
            "stage": "downloading",
            "progress": {"received": 5_000_000, "total": 20_000_000, "rate": 1_500_000.0},
            "message": "Downloading the new release.",
            "unsigned": True,
            "last_check": NEW,
            "next_check": NEW + 3600,
            "last_attempt": FAILED,
        }
        self.assertEqual(
            self.type("status"),
            """\
Installed    1700000000 (2023-11-14 22:13)
Available    1700000100 (2023-11-14 22:15)
Stage        downloading, 5.0 MB of 20.0 MB, 1.5 MB a second
             Downloading the new release.
Last check   2023-11-14 22:15
Next check   2023-11-14 23:15
Unsigned     This box installs releases without checking who made them.
Last update  2023-11-14 22:18  failed in 3 min 20 s, release 1700000100 (2023-11-14 22:15). \
The disk is full.
""",
        )

    def test_available(self) -> None:
        """What installs an update is told while nothing does."""
        self.agent.status |= {"available": NEW, "update_available": True, "notes": "Less\nnoise."}
        self.assertIn("What is new  Less noise.\n", self.type("status"))
        for stage, is_told in (("idle", True), ("failed", True), ("installing", False)):
            with self.subTest(stage=stage):
                self.agent.status["stage"] = stage
                said = self.type("status")
                self.assertEqual("opq-box update installs it." in said, is_told)

    def test_nothing_known(self) -> None:
        """What is not known, or is none of what one could know, is said not to be."""
        for status in (self.agent.status, {}, {key: [1] for key in self.agent.status}):
            self.agent.status = status
            said = self.type("status")
            self.assertIn("Available    unknown", said)
            self.assertNotIn("Last update", said)

    def test_json(self) -> None:
        """Programs are told what the agent says, fields that we do not know as well."""
        self.agent.status["new"] = {"field": HOSTILE}
        self.assertEqual(self.lines("status"), [self.agent.status])

    def test_hostile(self) -> None:
        """What an agent says does not control the terminal, and looks like nothing of ours."""
        attempt = {**FAILED, "outcome": HOSTILE, "reason": HOSTILE}
        self.agent.status |= {"stage": HOSTILE, "message": HOSTILE, "last_attempt": attempt}
        self.agent.history = {"attempts": [attempt], "refused": [{"reason": HOSTILE}]}
        self.agent.log = HOSTILE.encode(errors="surrogatepass")
        for command in ("status", "history", "log"):
            for more in ((), ("--json",)):
                said = self.type(command, *more)
                self.assertTrue(said.replace("\n", "").isprintable(), said)
                self.assertIn("\\u001b]0;owned\\u0007", said)
        self.assertNotIn("\nopq-box", self.type("status"))

    def test_other_encoding(self) -> None:
        """A terminal that has not all characters shows which they are."""
        self.agent.status["message"] = "The box\u2019s disk is full."
        ended = subprocess.run(
            [PROGRAM, "status", "--url", self.agent.url],
            env={"PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            timeout=60,
        )
        self.assertIn(b"The box\\u2019s disk", ended.stdout)

    def test_environment(self) -> None:
        """The box may be named in the environment."""
        ended = subprocess.run(
            [PROGRAM, "status"],
            env={"OPQ_BOX_URL": f"{self.agent.url}/", "http_proxy": "http://127.0.0.1:1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertIn(f"Installed    {OLD}", ended.stdout)


class CheckTests(AgentCase):
    """Is there an update?"""

    def test_up_to_date(self) -> None:
        """When not the exit code is 0."""
        self.agent.found = {"available": OLD, "message": "The box is up to date."}
        said = self.type("check")
        self.assertIn(f"Available    {OLD} (2023-11-14 22:13)\nThe box is up to date.\n", said)

    def test_available(self) -> None:
        """When there is one it is 10."""
        message = f"Release {NEW} is available."
        self.agent.found = {"available": NEW, "update_available": True, "message": message}
        self.assertIn(message, self.type("check", status=10))
        [said] = self.lines("check", status=10)
        expected = {"installed": OLD, "available": NEW, "update_available": True}
        self.assertEqual(said, {**expected, "status": message})

    def test_no_answer(self) -> None:
        """When the box cannot tell it is neither, and the agent says why."""
        self.agent.raw["/check"] = b'HTTP/1.0 502 Bad\r\n\r\n{"status": "Nobody is there."}'
        self.assert_refused("check", words="Nobody is there.")
        self.assert_refused("check", "--json", words="Nobody is there.")


class UpdateTests(AgentCase):
    """Update Box."""

    def end(self, attempt: dict[str, Any]) -> dict[str, Any]:
        stage = "failed" if attempt["outcome"] == "failed" else "idle"
        return {"stage": stage, "message": attempt["reason"], "last_attempt": attempt}

    def test_through_reboot(self) -> None:
        """It is followed to its end, with a line for each stage."""
        progress = {"received": 5, "total": 10, "rate": 1.0}
        self.agent.course = [
            {"stage": "checking", "message": "Asking."},
            *(DOWNLOAD, {"progress": progress}, {"progress": None}),
            {"stage": "rebooting", "message": "Rebooting. This page waits for the box."},
            2,
            {"stage": "confirming", "message": "Is it healthy?"},
            self.end(UPDATED),
        ]
        *stages, end = self.type("update").splitlines()
        self.assertEqual(
            stages,
            [
                "checking: Asking.",
                "downloading: Downloading the new release.",
                "rebooting: The box reboots now. On the box itself this ends the command, too: "
                "opq-box status shows the result afterwards.",
                "The box does not answer now. This command waits for it.",
                "confirming: Is it healthy?",
            ],
        )
        self.assertEqual((end, self.warned), (UPDATED["reason"], ""))

    def test_json(self) -> None:
        """Programs get the status whenever it has changed, and the last one tells the outcome."""
        self.agent.course = [DOWNLOAD, {}, 1, {"stage": "confirming"}, self.end(UPDATED)]
        said = self.lines("update")
        stages = [status["stage"] for status in said]
        self.assertEqual(stages, ["downloading", "confirming", "idle"])
        self.assertEqual(said[-1]["last_attempt"], UPDATED)
        self.assertIn("does not answer", self.warned)

    def test_nothing_to_do(self) -> None:
        """A box that is up to date is that; what became of an earlier update does not matter."""
        self.agent.status |= {"message": "The box is up to date.", "last_attempt": FAILED}
        self.assertEqual(self.type("update"), "The box is up to date.\n")
        self.assertEqual(self.lines("update"), [self.agent.status])

    def test_under_way(self) -> None:
        """An update that somebody else began is followed as well."""
        self.agent.status |= DOWNLOAD
        self.agent.course = [self.end(UPDATED)]
        self.assertIn(UPDATED["reason"], self.type("update"))

    def test_bad_end(self) -> None:
        """When the box is not on the new release the exit code is 1, and a sentence says why."""
        for attempt, words in (
            (FAILED, "The update failed: The disk is full."),
            (RETURNED, "fail"),
        ):
            for more in ((), ("--json",)):
                self.agent.status |= {"stage": "idle", "last_attempt": None}
                self.agent.course = [DOWNLOAD, self.end(attempt)]
                self.type("update", *more, status=1)
                self.assertEqual(self.warned.count("\n"), 1)
                self.assertIn(words, self.warned)

    def test_refused(self) -> None:
        """A box that does not want to begin says why."""
        self.agent.raw["/box_update"] = (
            b"HTTP/1.0 403 No\r\nContent-Type: text/plain\r\n\r\nAnother page asked for this."
        )
        self.assert_refused("update", words="403: Another page asked for this.")

    def test_signals(self) -> None:
        """Ctrl-C ends this, and not the update; it says so."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.agent.status |= DOWNLOAD
            self.agent.followed.clear()
            process = subprocess.Popen(
                # What starts the tests in the background may have them ignore SIGINT.
                ["env", "--default-signal=INT", PROGRAM, "update", "--url", self.agent.url],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            assert process.stdout is not None
            self.assertTrue(process.stdout.readline().startswith("downloading: "))
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 128 + number)
            self.assertIn("an update that has begun goes on", error)
            self.assertEqual(error.count("\n"), 1)

    def test_terminal(self) -> None:
        """On a terminal one sees how far the download is, whatever numbers an agent sends."""
        self.agent.course = [
            DOWNLOAD,
            *({"progress": {"received": each, "total": 10**7}} for each in (0, 4_000_000, 10**9)),
            *({"progress": {"received": 10**6, "total": each}} for each in (10**6, 0, -1, 10**18)),
            {"stage": "verifying", "progress": None},
            self.end(UPDATED),
        ]
        said, status = on_terminal(PROGRAM, "update", "--url", self.agent.url, prompts={})
        self.assertEqual(status, 0, said)
        self.assertIn("\r[##########               ]  40 % of 10.0 MB", said)
        self.assertIn("100 % of 10.0 MB\r\n", said)
        self.assertIn("\r\nverifying: ", said)


class LogTests(AgentCase):
    """What the installer said."""

    def test_print(self) -> None:
        """Lines for people, a document for programs."""
        self.agent.log = b"one\ntwo\tthree"
        self.assertEqual(self.type("log"), "one\ntwo\tthree\n")
        self.assertEqual(self.lines("log"), [{"lines": ["one", "two\tthree"]}])
        self.agent.log = b""
        self.assertEqual(self.type("log"), "")
        self.assertEqual(self.warned, "No installer has run yet.\n")

    def test_follow(self) -> None:
        """It is followed until Ctrl-C, and not when nobody reads any more."""
        self.agent.log = b"one\n"
        process = subprocess.Popen(
            [PROGRAM, "log", "--follow", "--json", "--url", self.agent.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.addCleanup(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        self.addCleanup(process.stderr.close)
        self.assertEqual(json.loads(process.stdout.readline()), {"line": "one"})
        self.agent.log += b"two\n"
        self.assertEqual(json.loads(process.stdout.readline()), {"line": "two"})
        process.stdout.close()
        self.agent.log += b"three\n"
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(process.stderr.read(), b"")

    def test_older_agent(self) -> None:
        """An agent that has no log to give is none of today."""
        self.agent.raw["/log"] = b"HTTP/1.0 404 Not Found\r\n\r\nThere is nothing here.\n"
        self.assert_refused("log", words="has no /log")


class HistoryTests(AgentCase):
    """What was, and what shall not be."""

    def test_none(self) -> None:
        """A box that was never updated says so."""
        self.assertEqual(self.type("history"), "No update has been tried yet.\n")

    def test_all(self) -> None:
        """The last is the last; what is refused is listed, and how to change that."""
        asked = {**FAILED, "version": None, "reason": "Nobody is there."}
        refused = {"version": NEW, "sha256": None, "reason": "It was bad."}
        self.agent.history = {"attempts": [asked, UPDATED], "refused": [refused]}
        self.assertEqual(
            self.type("history"),
            """\
2023-11-14 22:18  failed in 3 min 20 s. Nobody is there.
2023-11-14 22:18  updated in 3 min 20 s, release 1700000100 (2023-11-14 22:15). \
The box runs release 1700000100.
Refused: 1700000100 (2023-11-14 22:15). It was bad.
  To let the box try it again: opq-box forgive 1700000100
""",
        )
        self.assertEqual(self.lines("history"), [self.agent.history])

    def test_forgive(self) -> None:
        """A refused release is forgiven, once."""
        self.agent.history["refused"] = [{"version": each, "reason": ""} for each in (OLD, NEW)]
        self.assertEqual(self.type("forgive", str(NEW)), f"Release {NEW} is forgiven.\n")
        self.assert_refused("forgive", str(NEW), words=f"Release {NEW} is not refused.")
        [said] = self.lines("forgive", str(OLD))
        self.assertEqual(said, {"status": f"Release {OLD} is forgiven."})

    def test_no_release(self) -> None:
        """What is no version is no release."""
        self.type("forgive", "the-last-one", status=2)
        self.assertIn("seconds since the epoch", self.warned)
        self.assertEqual(self.agent.asked, [])


class PasswordTests(AgentCase):
    """A box that wants to know who acts."""

    def setUp(self) -> None:
        super().setUp()
        self.agent.password = "öffne dich".encode()
        self.file = Path(self.mktemp())
        self.file.write_text("öffne dich\nand a second line")

    def test_file(self) -> None:
        """It comes from a file; a wrong one is told from none."""
        for command in ("check", "update"):
            self.type(command, "--password-file", str(self.file))
        self.file.write_text("wrong")
        self.assert_refused("check", "--password-file", str(self.file), words="password is wrong")
        self.file.unlink()
        self.assert_refused("check", "--password-file", str(self.file), words="No such file")

    def test_not_needed(self) -> None:
        """Who only asks need not say it."""
        for command in ("status", "history", "log"):
            self.type(command)

    def test_nobody_to_ask(self) -> None:
        """Without a file and a terminal a sentence says what to do."""
        self.patch(sys, "stdin", io.StringIO())
        self.assert_refused("check", words="--password-file")

    def test_other_scheme(self) -> None:
        """The password is sent in no other way."""
        self.agent.raw["/check"] = b"HTTP/1.0 401 No\r\nWWW-Authenticate: Digest\r\n\r\n"
        given = ("--password-file", str(self.file))
        self.assert_refused("check", *given, words="a login that is not a box's")

    def test_terminal(self) -> None:
        """On a terminal it is asked for, and not shown."""
        command = (PROGRAM, "check", "--url", self.agent.url)
        prompt = b"Password of the box: "
        for typed, code, words in (
            ("öffne dich\n".encode(), 0, "Installed"),
            (b"\x04", 1, "No password was typed"),
            (b"\xff\n", 1, "not UTF-8"),
        ):
            said, status = on_terminal(*command, prompts={prompt: typed})
            self.assertEqual(status, code, said)
            self.assertIn(words, said)
            self.assertNotIn("öffne", said)


class NewPasswordTests(SynchronousTestCase):
    """The password that a box is to ask for."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp())

    def choose(self, line: str, status: int = 0) -> str:
        out, error = io.StringIO(), io.StringIO()
        self.patch(sys, "stdin", io.StringIO(line))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = main(["password", str(self.file)])
        self.assertEqual(code, status, error.getvalue())
        return out.getvalue() or error.getvalue()

    def test_line(self) -> None:
        """It is a line of what comes in, and the file holds a hash that only its owner reads."""
        self.assertIn("web_password_file", self.choose("öffne dich\nand another line"))
        self.assertTrue(PasswordHash.read(self.file).matches("öffne dich"))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.choose("another")
        self.assertTrue(PasswordHash.read(self.file).matches("another"))

    def test_none(self) -> None:
        """None, or one that no agent takes, changes nothing."""
        for line in ("", "\n", "x" * 1025):
            self.assertIn("from 1 to 1024 characters", self.choose(line, status=1))
            self.assertFalse(self.file.exists())

    def test_terminal(self) -> None:
        """On a terminal it is typed twice."""
        first, again = b"New password of the box: ", b"Once more: "
        for second, code, words in ((b"one\n", 0, "web_password_file"), (b"two\n", 1, "differ")):
            prompts = {first: b"one\n", again: second}
            said, status = on_terminal(PROGRAM, "password", self.file, prompts=prompts)
            self.assertEqual(status, code, said)
            self.assertIn(words, said)
        self.assertTrue(PasswordHash.read(self.file).matches("one"))


class ConfigTests(SynchronousTestCase):
    """A configuration is checked without an agent."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp()).absolute()

    def check(self, content: dict[str, object], *options: str) -> tuple[int, str, str]:
        self.file.write_text(json.dumps(content))
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = main(["config", *options, str(self.file)])
        return code, out.getvalue(), error.getvalue()

    def test_usable(self) -> None:
        """All settings are printed as a configuration that means the same."""
        updater = {"window": "22:00-04:00", "services": ["a.service"], "hosts": []}
        given = {"updates_ep": "updates.example.org", "box_id": "7", "updater": updater, "cmd": 1}
        code, said, complaint = self.check(given)
        self.assertEqual((code, complaint), (0, ""))
        first, _, settings = said.partition("\n")
        self.assertEqual(
            first, f"The agent can use the configuration {self.file}, and reads it as:"
        )
        read = json.loads(settings)
        self.assertEqual((read["updates_ep"], read["box_id"]), ("http://updates.example.org", 7))
        self.assertEqual({key: read["updater"][key] for key in updater}, updater)
        self.assertEqual(read["updater"]["install"], "click")
        self.assertEqual(json.loads(self.check(read, "--json")[1]), read)

    def test_unusable(self) -> None:
        """One that the agent would not start with is refused in a sentence."""
        code, said, complaint = self.check({"updates_ep": "ftp://updates.example.org"})
        self.assertEqual((code, said, complaint.count("\n")), (1, "", 1))
        self.assertTrue(complaint.startswith(f"opq-box: The configuration {self.file} cannot be"))
        self.file.unlink()
        self.assertEqual(main(["config", str(self.file)]), 1)

    def test_password_file(self) -> None:
        """The agent does not start without the password file that is named."""
        settings = {"web_password_file": "/nonexistent/hash"}
        code, said, complaint = self.check({"updates_ep": "http://x", "updater": settings})
        self.assertEqual((code, said), (1, ""))
        self.assertIn("/nonexistent/hash", complaint)


class NoAgentTests(AgentCase):
    """Where there is no agent a sentence says so."""

    def test_nobody(self) -> None:
        """Nobody listens."""
        self.agent.close()
        for command in ("status", "check", "update", "log", "history"):
            self.assert_refused(command, words=f"No agent answers at {self.agent.url} (Connection")

    def test_something_else(self) -> None:
        """Something else listens, or something broken."""
        for raw, words in (
            (b"", "No agent answers"),
            (b"\x1b[31mSSH-2.0\r\n", "not in HTTP"),
            (b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n{}", "not in HTTP"),
            (b"HTTP/1.0 200 OK\r\n\r\n<p>It works!", "not as an agent does"),
            (b"HTTP/1.0 200 OK\r\n\r\n{" + b" " * (1 << 21), "not as an agent does"),
            (b"HTTP/1.0 301 Moved\r\nLocation: http://127.0.0.1:1\r\n\r\n", "answers 301"),
            (b"HTTP/1.0 500 No\r\nContent-Type: text/html\r\n\r\n<p>", "answers 500"),
            (b"HTTP/1.0 404 No\r\n\r\n<p>", "has no /status"),
        ):
            with self.subTest(raw=raw[:40]):
                self.agent.raw["/status"] = raw
                self.assert_refused("status", words=words)

    def test_no_url(self) -> None:
        """A slip in the URL."""
        for url in (
            *("box", "ftp://box", "http://", "http://:80", "http://box:x", "http://box:99999"),
            *("http://box/?x", "http://box#x", "http://b\u00f6x"),
            *("http://box /", "http://box/\n", "http://a..b", f"http://{'a' * 70}", "http://[::1"),
        ):
            with self.subTest(url=url):
                self.assert_refused("status", url=url, words="is not the URL of a box")

    def test_password_in_url(self) -> None:
        """A password in a URL is not taken, and not shown."""
        for url in ("http://user:secret@box", "user:secret@box", "http://user:sec ret@box:80"):
            with self.subTest(url=url):
                self.assert_refused(
                    "status", url=url, words="must not contain a user name or a password"
                )
                self.assertNotIn("ret", self.warned)

    def test_direct(self) -> None:
        """The box is asked directly, whatever proxy there is for the internet."""
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            self.patch(os, "environ", {**os.environ, name: "http://127.0.0.1:9"})
            self.assertIn("Installed", self.type("status"))

    def test_address(self) -> None:
        """Behind a proxy a box may have a path; it has IPv6 perhaps, or a name that is none."""
        self.agent.raw["/box/7/status"] = b'HTTP/1.0 200 OK\r\n\r\n{"installed": 7}'
        said = self.type("status", url=f"{self.agent.url}/box/7/")
        self.assertIn("Installed    7", said)
        for url in ("http://[::1]:1", "https://127.0.0.1:1", "http://no.such.name.invalid"):
            self.assert_refused("status", url=url, words=f"No agent answers at {url} (")

    def test_no_tls(self) -> None:
        """An agent that speaks no TLS is none at https."""
        url = self.agent.url.replace("http", "https")
        self.assert_refused("status", url=url, words="No agent answers")

    def test_slow(self) -> None:
        """Neither silence nor drops keep anybody for longer than was agreed."""
        head = b"HTTP/1.0 200 OK\r\n"
        for raw, drop in ((b"", b""), (b"", b"X"), (head, b"X"), (head + b"\r\n{", b" ")):
            self.agent.raw["/status"], self.agent.drop = raw, drop
            asking = AgentClient(self.agent.url, lambda: b"", timeout=0.2)
            with self.subTest(raw=raw, drop=drop):
                error = self.assertRaises(AgentAway, asking.status)
                self.assertIn("within 0 seconds", str(error))
