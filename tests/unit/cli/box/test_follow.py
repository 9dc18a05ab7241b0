"""Following a box while its agent is away and back."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.cli.box import follow
from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.follow import RetryTimer, log_lines, statuses
from opq_twisted.common.errors import AgentAway, AgentFailed
from tests.helpers.fake_agent import FakeAgent, FakeClock


class FollowingCase(SynchronousTestCase):
    """An agent, and a client that follows it."""

    def setUp(self) -> None:
        self.fake = FakeAgent()
        self.addCleanup(self.fake.close)
        self.agent = AgentClient(self.fake.url, lambda: b"")
        self.clock = FakeClock()
        self.notices: list[str] = []
        self.timer = RetryTimer(self.clock, self.notices.append)


class StatusTests(FollowingCase):
    """The status, and each change of it."""

    def follow(self, last: str) -> list[str]:
        stages = []
        for status in statuses(self.agent, self.timer):
            stages.append(status.text("stage"))
            if stages[-1] == last:
                return stages
        raise AssertionError("it does not end by itself")

    def test_events(self) -> None:
        """An agent with an event stream gets one request."""
        self.fake.course = [{"stage": "checking"}, {"stage": "failed"}]
        self.assertEqual(self.follow("failed"), ["idle", "checking", "failed"])
        self.assertEqual(self.fake.asked, ["GET /events"])
        self.assertEqual(self.clock.naps, [])

    def test_without_events(self) -> None:
        """An agent without an event stream is polled."""
        self.fake.has_events = False
        self.fake.course = [{"stage": "checking"}, {"stage": "failed"}]
        self.assertEqual(self.follow("failed"), ["checking", "failed"])
        self.assertEqual(self.clock.naps, [1.0])

    def test_too_many(self) -> None:
        """So is an agent with too many streams."""
        self.fake.raw["/events"] = b"HTTP/1.0 503 Busy\r\n\r\nToo many.\n"
        self.assertEqual(self.follow("idle"), ["idle"])

    def test_away(self) -> None:
        """While the agent is away the client waits, and says so once."""
        self.fake.course = [{"stage": "rebooting"}, 3, {"stage": "failed"}, 2]
        self.assertEqual(self.follow("failed"), ["idle", "rebooting", "rebooting", "failed"])
        self.assertEqual(len(self.notices), 1, self.notices)
        self.assertEqual(self.clock.naps, [1.0] * 4)

    def test_nonsense(self) -> None:
        """Responses of another program are ignored."""
        self.patch(follow, "_MAX_ABSENCE", 120.0)
        self.patch(follow, "_RETRY_DELAY", 30.0)
        for raw in (b"", b"HTTP/1.0 200 OK\r\n\r\ndata: []\n\n", b"HTTP/1.0 200 OK\r\n\r\n<p>"):
            self.fake.raw = {"/events": raw, "/status": b"HTTP/1.0 502 Bad\r\n\r\n<p>"}
            with self.subTest(raw=raw):
                error = self.assertRaises(AgentAway, self.follow, "idle")
                self.assertIn("has not answered for 2 minutes", str(error))
                self.timer.reset()

    def test_timer(self) -> None:
        """The timer gives up after an hour, and is reset by each response."""
        failure = AgentFailed("It is away.")
        for _ in range(2):
            for _ in range(3600):
                self.timer.wait(failure)
            self.timer.reset()
        self.assertEqual(len(self.notices), 2)
        for _ in range(3601):
            self.timer.wait(failure)
        self.assertRaises(AgentAway, self.timer.wait, failure)


class LogTests(FollowingCase):
    """The installer's output."""

    def test_whole(self) -> None:
        """All line ends are recognised, and pieces of any size are joined."""
        self.fake.log = "one\r\ntwo\rthr\u00e9e\n\nlast".encode()
        self.assertEqual([*log_lines(self.agent)], ["one", "two", "thrée", "", "last"])
        self.fake.has_whole_log_only = True
        self.assertEqual([*log_lines(self.agent)], ["one", "two", "thrée", "", "last"])
        self.fake.log = b""
        self.assertEqual([*log_lines(self.agent)], [])

    def test_large(self) -> None:
        """A long log comes in several pieces, and long lines are split."""
        line = "é" * 100_000
        self.fake.log = f"{line}\n".encode() * 15
        lines = [*log_lines(self.agent)]
        self.assertEqual("".join(lines), line * 15)
        self.assertGreater(self.fake.asked.count("GET /log"), 2)
        self.assertLess(max(map(len, lines)), 2_000_000)

    def test_follow(self) -> None:
        """Later output is printed when it is there; a new log is printed from its start."""
        self.fake.log = b"one\ntw"
        lines = log_lines(self.agent, self.timer)
        self.assertEqual(next(lines), "one")
        self.fake.log += b"o\nthree\n"
        self.assertEqual([next(lines), next(lines)], ["two", "three"])
        self.fake.log = b"new\n"
        self.assertEqual(next(lines), "new")

    def test_away(self) -> None:
        """A follower waits through a reboot; without `--follow` it is an error."""
        lines = log_lines(self.agent, self.timer)
        self.fake.log = b"one\n"
        self.assertEqual(next(lines), "one")
        self.fake.log += b"two\n"
        self.fake.course = [2]
        self.fake.advance()
        self.assertEqual(next(lines), "two")
        self.assertEqual(len(self.notices), 1)
        self.fake.course = [1]
        self.fake.advance()
        self.assertRaises(AgentAway, list, log_lines(self.agent))

    def test_endless(self) -> None:
        """A log without an end is an error."""
        body = (b"x" * 999 + b"\n") * 2_000
        head = b"HTTP/1.0 206 Partial Content\r\n\r\n"
        self.fake.raw["/log"] = head + body
        with self.assertRaises(AgentFailed):
            for _ in log_lines(self.agent):
                pass
