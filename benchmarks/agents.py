"""Runs box agents and other daemons, each in a process of its own, on a free port of loopback."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def configure(folder: Path, endpoint: str, root: Path | None = None) -> Path:
    """Write a configuration with a reboot command that does nothing, so that the agent stays up."""
    updater = {
        "allow_unsigned": True,
        "trusted_root": str(root or folder / "root.json"),
        "prefix": str(folder / "prefix"),
        "log": str(folder / "box_update.log"),
        "reboot_command": ["true"],
    }
    config = folder / "config.json"
    config.write_text(json.dumps({"updates_ep": endpoint, "updater": updater}))
    return config


class Daemon:
    """A daemon of the project, or of Twisted, which logs to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pid = process.pid
        self._log = log
        # The project's daemons tell their URL, and Twisted's web server only its port.
        port = self.says(r"(?: (?:on|at) http://127\.0\.0\.1:|Site starting on )([0-9]+)")[1]
        self.url = f"http://127.0.0.1:{port}"

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a text in the log."""
        for _ in range(120_000):
            text = self._log.read_text()
            if found := re.search(pattern, text):
                return found
            if "The update failed" in text:
                break
            time.sleep(0.005)
        raise SystemExit(f"The daemon did not say {pattern!r}:\n{text}")

    def memory(self, key: str) -> float:
        """Return its memory in MB: VmRSS now, or VmHWM, the peak since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{key}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024 / 1e6

    def forget_peak(self) -> None:
        """Reset VmHWM to the current size."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def daemon(
    folder: Path,
    plugin: str,
    *options: str | Path,
    listen: str = "--port",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Run `twistd PLUGIN` on a free port of loopback; `listen` is the plugin's option for it."""
    log = folder / f"{plugin}.log"
    twistd = Path(sys.executable).with_name("twistd")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(twistd, "--nodaemon", "--pidfile=", plugin),
                *(listen, "tcp:0:interface=127.0.0.1", *options),
            ],
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=output,
        )
    try:
        yield Daemon(process, log)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def box(
    folder: Path,
    endpoint: str,
    root: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Run the agent of a box that asks this server."""
    options = ("--config", configure(folder, endpoint, root), "--state-dir", folder / "state")
    with daemon(folder, "opq-box-agent", *options, environment=environment) as agent:
        yield agent


def post(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=30).read()


def update(agent: Daemon) -> tuple[float, float]:
    """Update the box; returns the agent's peak over idle (MB) and the seconds of the download."""
    urllib.request.urlopen(f"{agent.url}/status", timeout=30).read()
    post(f"{agent.url}/check")
    idle = agent.memory("VmRSS")
    agent.forget_peak()
    post(f"{agent.url}/box_update")
    agent.says("Stage: downloading")
    start = time.perf_counter()
    agent.says("Stage: verifying")
    taken = time.perf_counter() - start
    agent.says("Stage: rebooting")
    peak = agent.memory("VmHWM")
    print(f"agent idle: {idle:.1f} MB, peak {peak:.1f} MB")
    return peak - idle, taken
