"""Measures the time until clients see a new update, against a server that lists its directory."""

import argparse
import bz2
import http.client
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from benchmarks import servers
from opq_twisted.archive.name import UpdateName

FIRST = 1_500_000_000
CONTENT = bz2.compress(b"an update")


def fill(directory: Path, archives: int) -> None:
    for version in range(FIRST, FIRST + archives):
        (directory / str(UpdateName(version))).write_bytes(CONTENT)


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes, str]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read(), response.headers.get("Location", "")


def connect(server: servers.Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=servers.TIMEOUT)


@contextmanager
def our_server(directory: Path) -> Iterator[tuple[http.client.HTTPConnection, float]]:
    """Start the update server; returns a connection, and the seconds until the first download."""
    start = time.perf_counter()
    with servers.update_server(directory, directory.parent) as server:
        connection = connect(server)
        _, _, location = get(connection, "/latest")
        status, body, _ = get(connection, f"/{location}")
        seconds = time.perf_counter() - start
        assert (status, body) == (200, CONTENT)
        yield connection, seconds


def answering(connection: http.client.HTTPConnection, rounds: int) -> list[float]:
    """Return the milliseconds of a response of `/version`."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        get(connection, "/version")
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def noticing(connection: http.client.HTTPConnection, directory: Path, rounds: int) -> list[float]:
    """Return the milliseconds from the rename of a new archive until a response names it."""
    upload = directory.with_name("upload")
    newest = int(get(connection, "/version")[1])
    taken = []
    for version in range(newest + 1, newest + 1 + rounds):
        upload.write_bytes(CONTENT)
        expected = str(version).encode()
        start = time.perf_counter()
        upload.rename(directory / str(UpdateName(version)))
        while get(connection, "/version")[1] != expected:
            pass
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def worst(taken: list[float]) -> float:
    """Return the 99th percentile."""
    return quantiles(taken, n=100)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch", description=__doc__)
    parser.add_argument("--archives", type=int, default=10_000, help="in the directory (10000)")
    parser.add_argument("--rounds", type=int, default=200, help="new archives (200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, servers.on_core(servers.LOAD_CORE):
        directory = Path(place) / "updates"
        directory.mkdir()
        fill(directory, options.archives)
        with our_server(directory) as (connection, start):
            ours = noticing(connection, directory, options.rounds)
            our_answer = median(answering(connection, options.rounds))
        with servers.peer("lists", directory, Path(place)) as server:
            connection = connect(server)
            theirs = noticing(connection, directory, options.rounds)
            their_answer = median(answering(connection, options.rounds))
    print(f"{options.archives} archives; a server that lists them for each request takes")
    print(f"{median(theirs):.1f} ms to notice a new one and {their_answer:.1f} ms for an answer:")
    print(f"noticed after {median(ours):.1f} ms, 99 % after {worst(ours):.1f} ms (aim: under 20)")
    print(f"noticing / listing: {median(ours) / median(theirs):.2f}")
    print(f"answering / listing: {our_answer / their_answer:.2f} ({our_answer:.2f} ms)")
    print(f"first download {start:.2f} s after the start (aim: at most 1)")


if __name__ == "__main__":
    main()
