"""`opq-update-server` and `opq-box-agent` run in the foreground, as with twistd."""

import json
import re
import signal
import sys
from pathlib import Path

import pytest_twisted

from tests.functional.processes import Server, run

SERVER, AGENT = (
    str(Path(sys.executable).with_name(name)) for name in ("opq-update-server", "opq-box-agent")
)
_PORT = "--port=tcp:0:interface=127.0.0.1"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} "

#: The end of each log.
_END = [r"\[twisted\S+\] Received SIGTERM, shutting down\.", r"\[twisted\S+\] Server Shut Down\."]


async def _log(*command: object) -> list[str]:
    """Run a daemon until it listens, end it, and return the lines of its log."""
    daemon = Server([*map(str, command)])
    await daemon.ready()
    assert await daemon.stop() == -signal.SIGTERM
    return daemon.output.splitlines()


def _assert_lines(lines: list[str], *patterns: str) -> None:
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


@pytest_twisted.ensureDeferred
async def test_server(tmp_path: Path) -> None:
    """The log says what the server offers, and nothing about the parts of Twisted."""
    first = (
        rf"\[opq\S+\] Serving {tmp_path} on http://127\.0\.0\.1:\d+: there is no update in it yet\."
        " There is no signed metadata."
    )
    lines = await _log(SERVER, _PORT, "--no-access-log", "--updates-dir", tmp_path)
    _assert_lines(lines, *(_TIME + each for each in (first, *_END)))


@pytest_twisted.ensureDeferred
async def test_journal(tmp_path: Path) -> None:
    """systemd's journal, which has the time of each line, gets lines without a time."""
    journal = 'JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/$$/fd/1) exec "$@"'
    lines = await _log("sh", "-c", journal, "sh", SERVER, _PORT, "--updates-dir", tmp_path)
    _assert_lines(lines, r"\[opq\S+\] Serving .*", *_END)


@pytest_twisted.ensureDeferred
async def test_agent(tmp_path: Path) -> None:
    """The log of the agent has the URL of its page, and nothing about the parts of Twisted."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"updates_ep": "http://127.0.0.1:9", "box_id": 7}))
    state = tmp_path / "state"
    lines = await _log(AGENT, _PORT, "--config", config, "--state-dir", state)
    page = re.compile(_TIME + r"\[opq\S+\] The page is at http://127\.0\.0\.1:\d+\.")
    assert len([line for line in lines if page.fullmatch(line)]) == 1, lines
    assert not [line for line in lines if "actory" in line or "starting up" in line]


@pytest_twisted.ensureDeferred
async def test_mistakes(tmp_path: Path) -> None:
    """A wrong command line ends the program with 2, a setting that cannot be used with 1."""
    status, out, error = await run(SERVER, "--prot", "1")
    assert (status, out, error.count("\n")) == (2, "", 1)
    status, _, error = await run("sh", "-c", 'exec "$0" --help >/dev/full', SERVER)
    assert (status, error) == (1, "The output cannot be written: No space left on device.\n")
    status, out, error = await run(SERVER, "--updates-dir", str(tmp_path), "--port", "99999")
    assert (status, out) == (1, "")
    assert error == "--port 99999: a TCP port must be from 1 to 65535.\n"
