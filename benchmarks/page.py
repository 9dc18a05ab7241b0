"""Measures the box's page: its first paint, a click, the cost of open pages, and /status."""

import argparse
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page

from benchmarks.agents import Daemon, box, daemon
from benchmarks.figures import report, report_ratio
from benchmarks.servers import static_file
from benchmarks.trees import make_update
from tests.browser.chromium import browser

PAGES = 50
ROUNDS = 10

_PAINT = """() => new Promise(resolve => new PerformanceObserver(list => {
  const paint = list.getEntriesByName("first-contentful-paint")[0];
  if (paint) resolve(paint.startTime);
}).observe({type: "paint", buffered: true}))"""

_LOADED = """() => {
  const entries = [...performance.getEntriesByType("navigation"),
                   ...performance.getEntriesByType("resource")];
  return [entries.length, entries.reduce((sum, entry) => sum + entry.decodedBodySize, 0)];
}"""

#: Milliseconds from a click to the first stage in the row.
_CLICK = """() => new Promise(resolve => {
  const row = document.getElementById("under-way");
  const clicked = performance.now();
  new MutationObserver((_, observer) => {
    if (row.hidden) return;
    observer.disconnect();
    resolve(performance.now() - clicked);
  }).observe(row, {attributes: true});
  document.querySelector("#update button").click();
})"""


def paint(chromium: Browser, url: str) -> float:
    """Return the milliseconds until the first paint of a page in a new window."""
    return paint_in(chromium.new_context(), url)


def paint_in(window: BrowserContext, url: str) -> float:
    """Return the milliseconds until the first paint of a page in a window, which is closed."""
    page = window.new_page()
    page.goto(url)
    shown: float = page.evaluate(_PAINT)
    window.close()
    return shown


def loaded(page: Page) -> tuple[int, int]:
    """Return the number of a page's requests, and of their bytes after decompression."""
    page.locator("body[data-live]").wait_for()
    requests, size = page.evaluate(_LOADED)
    return requests, size


def click(page: Page) -> float:
    """Return the milliseconds from a click to the first stage on the page of an idle box."""
    # A box that is up to date hides the button; its script works all the same.
    page.locator("#update button[aria-disabled=false]").wait_for(state="attached")
    # The stream sends at most four events a second: wait until the last one is sent.
    time.sleep(0.5)
    took: float = page.evaluate(_CLICK)
    return took


def follow(agent: Daemon, count: int) -> list[socket.socket]:
    """Open event streams, as pages do, and wait until each has received the status."""
    where = urlsplit(agent.url)
    streams = []
    for number in range(count):
        # One address may have a quarter of the streams.
        source = (f"127.0.0.{1 + number % 10}", 0)
        stream = socket.create_connection((where.hostname or "", where.port or 0), 30, source)
        stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"data: " not in stream.recv(65536):
            pass
        streams.append(stream)
    return streams


def answers(agent: Daemon, until: threading.Event) -> list[float]:
    """Request the status repeatedly; returns the milliseconds of each response."""
    connection = HTTPConnection(urlsplit(agent.url).netloc, timeout=30)
    took = []
    while not until.is_set():
        start = time.perf_counter()
        connection.request("GET", "/status")
        connection.getresponse().read()
        took.append(1000 * (time.perf_counter() - start))
        time.sleep(0.002)
    return took


def while_unpacking(agent: Daemon) -> list[float]:
    """Request the status while an update is unpacked."""
    urllib.request.urlopen(f"{agent.url}/box_update", b"").read()
    agent.says("Stage: unpacking")
    over = threading.Event()

    def wait() -> None:
        agent.says("Stage: installing")
        over.set()

    threading.Thread(target=wait).start()
    return answers(agent, over)


def main() -> None:
    """Measure, and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--megabytes", type=int, default=300, help="of the archive")
    megabytes = arguments.parse_args().megabytes
    with tempfile.TemporaryDirectory() as scratch:
        quiet, large = Path(scratch, "quiet"), Path(scratch, "large")
        (quiet / "updates").mkdir(parents=True)
        with served_box(quiet) as agent, browser() as chromium:
            at_rest(quiet, agent, chromium)
        large.mkdir()
        make_update(large, megabytes)
        with served_box(large) as agent:
            took = while_unpacking(agent)
    print(f"answers while {megabytes} MB are unpacked: {len(took)}")
    report("99th percentile of /status, ms", quantiles(took, n=100)[98], at_most=50)


@contextmanager
def served_box(folder: Path) -> Iterator[Daemon]:
    """Run a server for the folder's updates, and a box that asks it."""
    with (
        daemon(folder, "opq-update-server", "--updates-dir", folder / "updates") as server,
        box(folder, server.url) as agent,
    ):
        yield agent


def at_rest(folder: Path, agent: Daemon, chromium: Browser) -> None:
    """Measure the page of an idle box."""
    static = folder / "static"
    static.mkdir()
    for path in ("", "page.css", "page.js", "icon.svg"):
        content = urllib.request.urlopen(f"{agent.url}/{path}").read()
        (static / (path or "index.html")).write_bytes(content)
    with static_file(static, folder) as peer:
        paints = [
            (paint(chromium, agent.url), paint(chromium, f"http://127.0.0.1:{peer.port}/"))
            for _ in range(ROUNDS)
        ]
    ours, theirs = (median(each) for each in zip(*paints, strict=True))
    report_ratio("first paint, ms", ours, "the same as files of static.File", theirs)
    window = chromium.new_page()
    window.goto(agent.url)
    requests, size = loaded(window)
    print(f"requests: {requests}")
    report("bytes of the page and all it takes", size, at_most=60_000)
    report(
        "from a click to the first stage, ms",
        median(click(window) for _ in range(ROUNDS)),
        at_most=100,
    )
    window.close()
    before = agent.memory("VmRSS")
    streams = follow(agent, PAGES)
    report(f"memory of {PAGES} open pages, MB", agent.memory("VmRSS") - before, at_most=5)
    for stream in streams:
        stream.close()


if __name__ == "__main__":
    main()
