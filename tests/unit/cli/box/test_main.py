"""The commands of opq-box."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.extract.unpack import unpack
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.web.auth import read_password_hash
from opq_twisted.cli.box import commands
from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.main import main
from opq_twisted.common.errors import AgentAway
from tests.helpers.archives import make_archive, name_of
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.failing_disk import counting
from tests.helpers.fake_agent import FakeAgent, FakeClock
from tests.helpers.terminal import on_terminal, run_main
from tests.helpers.time_zones import move_to

PROGRAM = str(Path(sys.executable).with_name("opq-box"))

#: An update that succeeded.
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

#: Sequences that set a terminal's title, reverse text, and end a line.
HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202egnp \x7f\ud800 \r\nopq-box: all is well"


def opq_box(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return the exit code, standard output and error."""
    return run_main(main, *arguments)


class AdoptTests(SynchronousTestCase):
    """`adopt`."""

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
        code, out, error = opq_box("adopt", *options, archive)
        self.assertEqual(code, status, error)
        return error if status else out

    def assert_refused(self, archive: Path, *words: str) -> None:
        """Assert that nothing is adopted, no file stays, and a sentence says why."""
        options = [word for word in words if word.startswith("--")]
        words = tuple(word for word in words if word not in options)
        said = self.adopt(archive, *options, status=1)
        self.assertEqual((said[:9], said.count("\n"), said[-2:]), ("opq-box: ", 1, ".\n"), said)
        for word in words:
            self.assertIn(word, said)
        self.assertIsNone(self.archives.last_good)
        left = {path.name for path in self.state_dir.rglob("*")}
        self.assertLessEqual(left, {"archives", ".lock"})

    def test_adopted(self) -> None:
        """The archive of the installed release is copied, and is the last good one."""
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
        """A last good archive that is missing or damaged is adopted again."""
        self.adopt(self.archive)
        kept = self.archives.path(OLD)
        kept.write_bytes(bytes(100))
        self.assertIn("goes back to release", self.adopt(self.archive))
        kept.unlink()
        self.assertIn("goes back to release", self.adopt(self.archive))
        self.assertEqual(kept.read_bytes(), self.archive.read_bytes())

    def test_another_release(self) -> None:
        """Another release's archive is refused; so is any if the installed release is unknown."""
        other = make_archive(self.place / name_of(NEW), NEW)
        self.assert_refused(other, f"The installed release is {OLD}, and not {NEW}")
        self.version_file.unlink()
        self.assert_refused(self.archive, "The installed release is unknown")

    def test_damaged(self) -> None:
        """An archive that the box cannot unpack is refused."""
        data = self.archive.read_bytes()
        self.archive.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 1 :])
        self.assert_refused(self.archive, name_of(OLD))
        inner = make_archive(self.place / "inner.tar.bz2", NEW)
        inner.replace(self.archive)
        self.assert_refused(self.archive, "VERSION")

    def test_not_an_archive(self) -> None:
        """A file with another name and a missing file are refused."""
        self.assert_refused(self.place / "VERSION", "VERSION")
        self.archive.unlink()
        self.assert_refused(self.archive, "No such file")

    def unpack(self) -> Path:
        """Lay out the folder that is unpacked from the archive."""
        folder = self.place / "unpacked"
        unpack(self.archive, folder, OLD)
        return folder

    def test_before_an_installation(self) -> None:
        """An archive is stored, and becomes the last good one only after the installation."""
        self.version_file.unlink()
        self.config.unlink()
        said = self.adopt(self.archive, f"--unpacked={self.unpack()}")
        self.assertIn("is stored", said)
        self.assertIsNone(self.archives.last_good)
        kept = self.archives.path(OLD)
        self.assertEqual(kept.read_bytes(), self.archive.read_bytes())
        subprocess.run(
            ["sha256sum", "--check", f"{kept.name}.sha256"],
            cwd=kept.parent,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.assertEqual([path.name for path in self.state_dir.iterdir()], ["archives"])

    def test_another_content(self) -> None:
        """An archive is refused if the folder that is installed has another content."""
        folder = self.unpack()
        script, added = folder / "install_update.sh", folder / "added"
        original = script.read_bytes()
        script.write_bytes(original[::-1])
        self.assert_refused(self.archive, "install_update.sh in", f"--unpacked={folder}")
        script.unlink()
        self.assert_refused(self.archive, "install_update.sh in", f"--unpacked={folder}")
        script.symlink_to(self.place / "elsewhere")
        (self.place / "elsewhere").write_bytes(original)
        self.assert_refused(self.archive, "install_update.sh in", f"--unpacked={folder}")
        script.unlink()
        script.write_bytes(original)
        added.touch()
        self.assert_refused(self.archive, "added in", f"--unpacked={folder}")
        added.unlink()
        self.adopt(self.archive, f"--unpacked={folder}")

    def test_disk_full(self) -> None:
        """On a full disk nothing is adopted."""
        with counting(1):
            self.assert_refused(self.archive, "No space left")
        self.adopt(self.archive)

    def test_no_configuration(self) -> None:
        """Without a configuration the installed release is unknown."""
        self.config.unlink()
        self.assert_refused(self.archive, "configuration")

    def test_program(self) -> None:
        """opq-box is an installed program, and has help."""
        said = subprocess.run([PROGRAM, "adopt", "--help"], capture_output=True, text=True).stdout
        self.assertIn("--state-dir", said)


class AgentCase(SynchronousTestCase):
    """Commands are typed, and a fake agent answers."""

    def setUp(self) -> None:
        move_to(self, "UTC")
        self.agent = FakeAgent()
        self.addCleanup(self.agent.close)
        self.clock = FakeClock()
        self.patch(commands, "time", self.clock)
        #: The text on standard error.
        self.warned = ""

    def type(self, command: str, *more: str, status: int = 0, url: str | None = None) -> str:
        """Type a command, and return its output."""
        code, out, self.warned = opq_box(command, "--url", url or self.agent.url, *more)
        self.assertEqual(code, status, self.warned)
        return out

    def lines(self, command: str, *more: str, status: int = 0) -> list[Any]:
        """Type a command with `--json`, and return the lines of its output."""
        said = self.type(command, "--json", *more, status=status)
        return [json.loads(line) for line in said.splitlines()]

    def assert_refused(self, command: str, *more: str, url: str | None = None, words: str) -> None:
        """Assert that only a sentence is printed; with `--json` it is in JSON, too."""
        printed, said = self.type(command, *more, status=1, url=url), self.warned
        error = json.dumps({"error": said.removeprefix("opq-box: ").strip()})
        self.assertEqual(printed, f"{error}\n" if "--json" in more else "")
        self.assertEqual((said[:9], said.count("\n"), said[-2:]), ("opq-box: ", 1, ".\n"), said)
        self.assertIn(words, said)


class StatusTests(AgentCase):
    """`status`."""

    def test_box(self) -> None:
        """The box is named, if its agent says its name."""
        for box_id, words in ((7, "Kitchen (id 7)"), (0, "Kitchen (no box_id in its configur")):
            self.agent.status |= {"name": "Kitchen", "box_id": box_id}
            self.assertIn(f"Box          {words}", self.type("status"))

    def test_all(self) -> None:
        """People see everything; versions are shown with their times."""
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
Installed    1700000000 (2023-11-14 22:13 UTC)
Available    1700000100 (2023-11-14 22:15 UTC)
Stage        downloading, 5.0 MB of 20.0 MB, 1.5 MB a second
             Downloading the new release.
Last check   2023-11-14 22:15 UTC
Next check   2023-11-14 23:15 UTC
Unsigned     This box installs releases without checking who made them.
Last update  2023-11-14 22:18 UTC  failed in 3 min 20 s, release 1700000100 \
(2023-11-14 22:15 UTC). The disk is full.
""",
        )

    def test_reports(self) -> None:
        """The fingerprint and the time of the last report are shown by a box that reports."""
        self.assertNotIn("Fingerprint", self.type("status"))
        self.agent.status |= {"fingerprint": "ab" * 16, "last_report": None, "report_answer": ""}
        end = f"Fingerprint  {'ab' * 16}\nLast report  none since the agent started\n"
        self.assertTrue(self.type("status").endswith(end))
        self.agent.status |= {"last_report": NEW, "report_answer": "It is accepted."}
        self.assertTrue(
            self.type("status").endswith("Last report  2023-11-14 22:15 UTC  It is accepted.\n")
        )

    def test_part_of_a_download(self) -> None:
        """People see how much travels, also after the update."""
        progress = {"received": 50_000, "total": 80_000, "rate": 2e5, "here": 12_220_000}
        last = {**UPDATED, "size": 12_300_000, "fetched": 80_000}
        self.agent.status |= {"stage": "downloading", "progress": progress, "last_attempt": last}
        said = self.type("status")
        self.assertIn(
            "downloading, 0.05 MB of 0.08 MB, 0.2 MB a second; the other 12.2 MB are here "
            "already\n",
            said,
        )
        end = "Fetched 0.08 MB of 12.3 MB; the rest was here already.\n"
        self.assertTrue(said.endswith(end), said)
        self.agent.history["attempts"] = [last]
        self.assertTrue(self.type("history").endswith(end))
        last |= {"fetched": 12_300_000}
        self.assertTrue(self.type("status").endswith(" Fetched 12.3 MB.\n"))

    def test_impossible_bytes(self) -> None:
        """Numbers of bytes that cannot be are shown as unknown."""
        numbers: tuple[Any, ...] = (True, -1, 1e16, 10**400, "1", None, [1], {})
        for number in numbers:
            with self.subTest(number=number):
                progress = {"received": 5_000_000, "total": 20_000_000, "rate": 1e6}
                last = {**UPDATED, "size": number, "fetched": number}
                self.agent.status |= {
                    "stage": "downloading",
                    "progress": {**progress, "here": number},
                    "last_attempt": last,
                }
                self.agent.history["attempts"] = [last]
                said = self.type("status")
                self.assertIn("downloading, 5.0 MB of 20.0 MB, 1.0 MB a second\n", said)
                self.assertNotIn("Fetched", said + self.type("history"))

    def test_available(self) -> None:
        """The command for an update is named only while the box is idle."""
        self.agent.status |= {
            "available": NEW,
            "update_available": True,
            "notes": "Less\nnoise.\x1b",
        }
        notes = "What is new  Less\n             noise.\\u001b\n"
        self.assertIn(notes, self.type("status"))
        self.assertIn(notes, self.type("check", status=10))
        for stage, is_told in (("idle", True), ("failed", True), ("installing", False)):
            with self.subTest(stage=stage):
                self.agent.status["stage"] = stage
                said = self.type("status")
                self.assertEqual("opq-box update installs it." in said, is_told)

    def test_blocked(self) -> None:
        """A blocked release is said to be so once, and its reason too."""
        self.agent.status |= {
            "stage": "idle",
            "available": NEW,
            "update_available": True,
            "message": f"Release {NEW} is blocked: {FAILED['reason']}",
            "last_attempt": FAILED,
        }
        said = self.type("status")
        self.assertIn("opq-box update tries it again.\n", said)
        self.assertIn(f"             Release {NEW} is blocked.\n", said)
        self.assertEqual(said.count(str(FAILED["reason"])), 1)

    def test_over(self) -> None:
        """A failure is not shown as the present state after a check has found something else."""
        self.agent.status |= {"stage": "failed", "last_attempt": FAILED, "message": "All is well."}
        self.assertIn("Stage        idle\n             All is well.\n", self.type("status"))
        self.agent.status["message"] = FAILED["reason"]
        self.assertIn("Stage        failed\nLast check", self.type("status"))

    def test_nothing_known(self) -> None:
        """Missing and malformed values are shown as unknown."""
        for status in (self.agent.status, {}, {key: [1] for key in self.agent.status}):
            self.agent.status = status
            said = self.type("status")
            self.assertIn("Available    unknown", said)
            self.assertNotIn("Last update", said)

    def test_json(self) -> None:
        """Programs get the agent's object, including unknown fields."""
        self.agent.status["new"] = {"field": HOSTILE}
        self.assertEqual(self.lines("status"), [self.agent.status])

    def test_hostile(self) -> None:
        """Text of the agent cannot control the terminal or look like text of opq-box."""
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
        """Characters that the terminal cannot encode are escaped."""
        self.agent.status["message"] = "The box\u2019s disk is full."
        ended = subprocess.run(
            [PROGRAM, "status", "--url", self.agent.url],
            env={"PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            timeout=60,
        )
        self.assertIn(b"The box\\u2019s disk", ended.stdout)

    def test_environment(self) -> None:
        """The environment can name the box."""
        ended = subprocess.run(
            [PROGRAM, "status"],
            env={"OPQ_BOX_URL": f"{self.agent.url}/", "http_proxy": "http://127.0.0.1:1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertIn(f"Installed    {OLD}", ended.stdout)


class CheckTests(AgentCase):
    """`check`."""

    def test_up_to_date(self) -> None:
        """Without an update the exit code is 0."""
        self.agent.found = {"available": OLD, "message": "The box is up to date."}
        said = self.type("check")
        self.assertIn(f"Available    {OLD} (2023-11-14 22:13 UTC)\nThe box is up to date.\n", said)

    def test_available(self) -> None:
        """With an update the exit code is 10."""
        message = f"Release {NEW} is available."
        self.agent.found = {"available": NEW, "update_available": True, "message": message}
        self.assertIn(message, self.type("check", status=10))
        [said] = self.lines("check", status=10)
        expected = {"installed": OLD, "available": NEW, "update_available": True}
        self.assertEqual(said, {**expected, "status": message})

    def test_no_answer(self) -> None:
        """If the check fails, the exit code is neither, and the agent's reason is printed."""
        self.agent.raw["/check"] = b'HTTP/1.0 502 Bad\r\n\r\n{"status": "Nobody is there."}'
        self.assert_refused("check", words="Nobody is there.")
        self.assert_refused("check", "--json", words="Nobody is there.")


class UpdateTests(AgentCase):
    """`update`."""

    def end(self, attempt: dict[str, Any]) -> dict[str, Any]:
        stage = "failed" if attempt["outcome"] == "failed" else "idle"
        return {"stage": stage, "message": attempt["reason"], "last_attempt": attempt}

    def test_through_reboot(self) -> None:
        """An update is followed to its end, with a line for each stage."""
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

    def test_part_of_a_download(self) -> None:
        """Before such a download a line says once how much travels."""
        progress = {"total": 80_000, "rate": 1.0, "here": 12_220_000}
        self.agent.course = [
            DOWNLOAD,
            *({"progress": {**progress, "received": each}} for each in (0, 50_000, 80_000)),
            self.end(UPDATED),
        ]
        self.assertEqual(
            self.type("update").splitlines(),
            [
                "downloading: Downloading the new release.",
                "0.08 MB of 12.3 MB to download, the rest is here already.",
                UPDATED["reason"],
            ],
        )

    def test_json(self) -> None:
        """Programs get the status after each change, and the last one has the outcome."""
        self.agent.course = [DOWNLOAD, {}, 1, {"stage": "confirming"}, self.end(UPDATED)]
        said = self.lines("update")
        stages = [status["stage"] for status in said]
        self.assertEqual(stages, ["downloading", "confirming", "idle"])
        self.assertEqual(said[-1]["last_attempt"], UPDATED)
        self.assertIn("does not answer", self.warned)

    def test_nothing_to_do(self) -> None:
        """A box that is up to date says so; the result of an earlier update does not matter."""
        self.agent.status |= {"message": "The box is up to date.", "last_attempt": FAILED}
        self.assertEqual(self.type("update"), "The box is up to date.\n")
        self.assertEqual(self.lines("update"), [self.agent.status])

    def test_under_way(self) -> None:
        """An update that somebody else started is followed as well."""
        self.agent.status |= DOWNLOAD
        self.agent.course = [self.end(UPDATED)]
        self.assertIn(UPDATED["reason"], self.type("update"))

    def test_bad_end(self) -> None:
        """If the box does not have the new release, the exit code is 1, and a sentence says why."""
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
        """If the box does not start an update, its reason is printed."""
        self.agent.raw["/box_update"] = (
            b"HTTP/1.0 403 No\r\nContent-Type: text/plain\r\n\r\nAnother page asked for this."
        )
        self.assert_refused("update", words="403: Another page asked for this.")

    def test_signals(self) -> None:
        """Ctrl-C ends the command and not the update, and the command says so."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.agent.status |= DOWNLOAD
            self.agent.followed.clear()
            process = subprocess.Popen(
                # A shell that starts the tests in the background makes them ignore SIGINT.
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
        """On a terminal there is a progress bar, whatever numbers the agent sends."""
        self.agent.course = [
            DOWNLOAD,
            *({"progress": {"received": each, "total": 10**7}} for each in (0, 4_000_000, 10**9)),
            *({"progress": {"received": 10**6, "total": each}} for each in (10**6, 0, -1, 10**18)),
            *({"progress": {"received": 0, "total": 5, "here": each}} for each in (10**18, 0, "x")),
            {"stage": "verifying", "progress": None},
            self.end(UPDATED),
        ]
        said, status = on_terminal(PROGRAM, "update", "--url", self.agent.url, prompts={})
        self.assertEqual(status, 0, said)
        self.assertIn("\r[##########               ]  40 % of 10.0 MB", said)
        self.assertIn("100 % of 10.0 MB\r\n", said)
        self.assertIn("\r\nverifying: ", said)


class LogTests(AgentCase):
    """`log`."""

    def test_print(self) -> None:
        """People get lines, and programs a document."""
        self.agent.log = b"one\ntwo\tthree"
        self.assertEqual(self.type("log"), "one\ntwo\tthree\n")
        self.assertEqual(self.lines("log"), [{"lines": ["one", "two\tthree"]}])
        self.agent.log = b""
        self.assertEqual(self.type("log"), "")
        self.assertEqual(self.warned, "No installer has run yet.\n")

    def test_follow(self) -> None:
        """The log is followed until Ctrl-C, or until standard output is closed."""
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
        """An agent without a log is an older one."""
        self.agent.raw["/log"] = b"HTTP/1.0 404 Not Found\r\n\r\nThere is nothing here.\n"
        self.assert_refused("log", words="has no /log")


class HistoryTests(AgentCase):
    """`history` and `forgive`."""

    def test_none(self) -> None:
        """A box that was never updated says so, also during its first update."""
        self.assertEqual(self.type("history"), "No update has been tried yet.\n")
        self.agent.status |= DOWNLOAD
        self.assertEqual(self.type("history"), "The first update is under way: downloading.\n")

    def test_all(self) -> None:
        """The last attempt comes last; blocked releases have the command to unblock them."""
        asked = {**FAILED, "version": None, "reason": "Nobody is there."}
        refused = {"version": NEW, "sha256": None, "reason": "It was bad."}
        self.agent.history = {"attempts": [asked, UPDATED], "refused": [refused]}
        self.assertEqual(
            self.type("history"),
            """\
2023-11-14 22:18 UTC  failed in 3 min 20 s. Nobody is there.
2023-11-14 22:18 UTC  updated in 3 min 20 s, release 1700000100 (2023-11-14 22:15 UTC).
Blocked: 1700000100 (2023-11-14 22:15 UTC). It was bad.
  To let the box try it again: opq-box forgive 1700000100
""",
        )
        self.assertEqual(self.lines("history"), [self.agent.history])

    def test_forgive(self) -> None:
        """A blocked release is unblocked once."""
        self.agent.history["refused"] = [{"version": each, "reason": ""} for each in (OLD, NEW)]
        self.assertEqual(self.type("forgive", str(NEW)), f"Release {NEW} is forgiven.\n")
        self.assert_refused("forgive", str(NEW), words=f"Release {NEW} is not blocked.")
        [said] = self.lines("forgive", str(OLD))
        self.assertEqual(said, {"status": f"Release {OLD} is forgiven."})

    def test_no_release(self) -> None:
        """A malformed version is refused."""
        self.type("forgive", "the-last-one", status=2)
        self.assertIn("seconds since the epoch", self.warned)
        self.assertEqual(self.agent.asked, [])


class ReportTests(AgentCase):
    """`report`."""

    def setUp(self) -> None:
        super().setUp()
        body = '{"format":1,"key":"ab","seq":7,"waiting":null}'
        last = {"body": body, "sent": NEW, "answer": "It is accepted."}
        self.agent.report = {"fingerprint": "ab" * 16, "last": last}

    def test_facts(self) -> None:
        """Without an option, the fingerprint and the answer are shown."""
        self.assertEqual(
            self.type("report"),
            f"Fingerprint  {'ab' * 16}\nLast report  2023-11-14 22:15 UTC  It is accepted.\n",
        )

    def test_word_for_word(self) -> None:
        """The report is shown as it was sent, with line breaks."""
        shown = '{\n  "format": 1,\n  "key": "ab",\n  "seq": 7,\n  "waiting": null\n}\n'
        self.assertEqual(self.type("report", "--show"), shown)
        for options in ((), ("--show",)):
            self.assertEqual(self.lines("report", *options), [self.agent.report])

    def test_none(self) -> None:
        """A box that has not reported since its start says so, and so does one that never does."""
        self.agent.report["last"] = None
        none = "The box has sent no report since its agent started.\n"
        self.assertEqual(self.type("report", "--show"), none)
        self.assertIn("Last report  none since the agent started\n", self.type("report"))
        self.agent.report["fingerprint"] = None
        self.assertIn("Fingerprint  none: this box sends no reports\n", self.type("report"))
        self.assertEqual(self.type("report", "--show"), none)

    def test_hostile(self) -> None:
        """A report from another program cannot control the terminal."""
        bodies = (HOSTILE, json.dumps({HOSTILE: [HOSTILE]}), [1], None, "[" * 9999, '{"a":NaN}')
        for body in bodies:
            for words in (HOSTILE, 7):
                with self.subTest(body=body, words=words):
                    last = {"body": body, "sent": words, "answer": words}
                    self.agent.report = {"fingerprint": words, "last": last}
                    for options in ((), ("--show",), ("--json",)):
                        said = self.type("report", *options)
                        self.assertTrue(said.replace("\n", "").isprintable(), said)

    def test_older_agent(self) -> None:
        """An agent without reports is an older one."""
        self.agent.raw["/report"] = b"HTTP/1.0 404 Not Found\r\n\r\nThere is nothing here.\n"
        self.assert_refused("report", words="has no /report")


class PasswordTests(AgentCase):
    """A box with a password."""

    def setUp(self) -> None:
        super().setUp()
        self.agent.password = "öffne dich".encode()
        self.file = Path(self.mktemp())
        self.file.write_text("öffne dich\nand a second line")

    def test_file(self) -> None:
        """The password is read from a file; wrong and missing ones have their own sentences."""
        for command in ("check", "update"):
            self.type(command, "--password-file", str(self.file))
        self.file.write_text("wrong")
        self.assert_refused("check", "--password-file", str(self.file), words="password is wrong")
        self.file.unlink()
        self.assert_refused("check", "--password-file", str(self.file), words="No such file")

    def test_not_needed(self) -> None:
        """Reading needs no password."""
        for command in ("status", "history", "report", "log"):
            self.type(command)

    def test_nobody_to_ask(self) -> None:
        """Without a file and a terminal a sentence says what to do."""
        self.patch(sys, "stdin", io.StringIO())
        self.assert_refused("check", words="--password-file")

    def test_other_scheme(self) -> None:
        """The password is sent for basic authentication only."""
        self.agent.raw["/check"] = b"HTTP/1.0 401 No\r\nWWW-Authenticate: Digest\r\n\r\n"
        given = ("--password-file", str(self.file))
        self.assert_refused("check", *given, words="a login that is not a box's")

    def test_terminal(self) -> None:
        """On a terminal the command asks for the password, and does not show it."""
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
    """`password`."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp())

    def choose(self, line: str, status: int = 0) -> str:
        self.patch(sys, "stdin", io.StringIO(line))
        code, out, error = opq_box("password", self.file)
        self.assertEqual(code, status, error)
        return out or error

    def test_line(self) -> None:
        """The password is the first line of standard input; only the owner can read the file."""
        self.assertIn("web_password_file", self.choose("öffne dich\nand another line"))
        self.assertTrue(read_password_hash(self.file).matches("öffne dich"))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.choose("another")
        self.assertTrue(read_password_hash(self.file).matches("another"))

    def test_none(self) -> None:
        """An empty password, or one that is too long, changes nothing."""
        for line in ("", "\n", "x" * 1025):
            self.assertIn("from 1 to 1024 characters", self.choose(line, status=1))
            self.assertFalse(self.file.exists())

    def test_terminal(self) -> None:
        """On a terminal the password is typed twice."""
        first, again = b"New password of the box: ", b"Once more: "
        for second, code, words in ((b"one\n", 0, "web_password_file"), (b"two\n", 1, "differ")):
            prompts = {first: b"one\n", again: second}
            said, status = on_terminal(PROGRAM, "password", self.file, prompts=prompts)
            self.assertEqual(status, code, said)
            self.assertIn(words, said)
        self.assertTrue(read_password_hash(self.file).matches("one"))


class ConfigTests(SynchronousTestCase):
    """`config`."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp()).absolute()

    def check(self, content: dict[str, object], *options: str) -> tuple[int, str, str]:
        self.file.write_text(json.dumps(content))
        return opq_box("config", *options, self.file)

    def test_usable(self) -> None:
        """All settings are printed, and give the same configuration when read again."""
        updater = {"window": "22:00-04:00", "services": ["a.service"], "hosts": []}
        given = {"updates_ep": "updates.example.org", "box_id": "7", "updater": updater, "cmd": 1}
        code, said, complaint = self.check(given)
        self.assertEqual((code, complaint), (0, ""))
        first, _, rest = said.partition("\n")
        self.assertEqual(
            first, f"The agent can use the configuration {self.file}, and reads it as:"
        )
        settings, *warnings = rest.split("\nWarning: ")
        read = json.loads(settings)
        self.assertEqual((read["updates_ep"], read["box_id"]), ("http://updates.example.org", 7))
        self.assertEqual({key: read["updater"][key] for key in updater}, updater)
        self.assertEqual(read["updater"]["install"], "click")
        again = json.loads(self.check(read, "--json")[1])
        self.assertEqual(again, {**read, "warnings": [line.strip() for line in warnings]})

    def test_token(self) -> None:
        """The token of the fleet is not printed."""
        updater = {"report": True, "enrol_token": "open sesame"}
        content: dict[str, object] = {
            "updates_ep": "http://updates.example.org",
            "updater": updater,
        }
        for options in ((), ("--json",)):
            code, said, complaint = self.check(content, *options)
            self.assertEqual((code, complaint), (0, ""))
            self.assertNotIn("sesame", said)
            self.assertIn('"enrol_token": "(not shown)"', said)

    def test_warnings(self) -> None:
        """A setting that is probably a mistake gets a warning, and the exit code stays 0."""
        code, said, complaint = self.check({"updates_ep": "http://updates.example.net"})
        self.assertEqual((code, complaint), (0, ""))
        self.assertIn("\nWarning: box_id is 0 or missing, ", said)

    def test_unusable(self) -> None:
        """A configuration with which the agent would not start is refused in a sentence."""
        code, said, complaint = self.check({"updates_ep": "ftp://updates.example.org"})
        self.assertEqual((code, said, complaint.count("\n")), (1, "", 1))
        self.assertTrue(complaint.startswith(f"opq-box: The configuration {self.file} cannot be"))
        self.file.unlink()
        self.assertEqual(main(["config", str(self.file)]), 1)

    def test_password_file(self) -> None:
        """A missing password file is refused."""
        settings = {"web_password_file": "/nonexistent/hash"}
        code, said, complaint = self.check({"updates_ep": "http://x", "updater": settings})
        self.assertEqual((code, said), (1, ""))
        self.assertIn("/nonexistent/hash", complaint)


class NoAgentTests(AgentCase):
    """Errors without an agent."""

    def test_nobody(self) -> None:
        """Nobody listens."""
        self.agent.close()
        for command in ("status", "check", "update", "log", "history"):
            self.assert_refused(command, words=f"No agent answers at {self.agent.url} (Connection")

    def test_something_else(self) -> None:
        """Another program listens, or a broken one."""
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
        """A malformed URL is refused."""
        for url in (
            *("box", "ftp://box", "http://", "http://:80", "http://box:x", "http://box:99999"),
            *("http://box/?x", "http://box#x", "http://b\u00f6x"),
            *("http://box /", "http://box/\n", "http://a..b", f"http://{'a' * 70}", "http://[::1"),
        ):
            with self.subTest(url=url):
                self.assert_refused("status", url=url, words="is not the URL of a box")

    def test_password_in_url(self) -> None:
        """A password in a URL is refused, and not printed."""
        for url in ("http://user:secret@box", "user:secret@box", "http://user:sec ret@box:80"):
            with self.subTest(url=url):
                self.assert_refused(
                    "status", url=url, words="must not contain a user name or a password"
                )
                self.assertNotIn("ret", self.warned)

    def test_direct(self) -> None:
        """The environment's proxies are not used for the box."""
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            self.patch(os, "environ", {**os.environ, name: "http://127.0.0.1:9"})
            self.assertIn("Installed", self.type("status"))

    def test_address(self) -> None:
        """A box behind a proxy may have a path; its host may be an IPv6 address or unusual name."""
        self.agent.raw["/box/7/status"] = b'HTTP/1.0 200 OK\r\n\r\n{"installed": 7}'
        said = self.type("status", url=f"{self.agent.url}/box/7/")
        self.assertIn("Installed    7", said)
        for url in ("http://[::1]:1", "https://127.0.0.1:1", "http://no.such.name.invalid"):
            self.assert_refused("status", url=url, words=f"No agent answers at {url} (")

    def test_no_tls(self) -> None:
        """An agent without TLS is not reached over https."""
        url = self.agent.url.replace("http", "https")
        self.assert_refused("status", url=url, words="No agent answers")

    def test_slow(self) -> None:
        """Neither silence nor slow bytes exceed the timeout."""
        head = b"HTTP/1.0 200 OK\r\n"
        for raw, drop in ((b"", b""), (b"", b"X"), (head, b"X"), (head + b"\r\n{", b" ")):
            self.agent.raw["/status"], self.agent.drop = raw, drop
            asking = AgentClient(self.agent.url, lambda: b"", timeout=0.2)
            with self.subTest(raw=raw, drop=drop):
                error = self.assertRaises(AgentAway, asking.status)
                self.assertIn("within 0 seconds", str(error))
