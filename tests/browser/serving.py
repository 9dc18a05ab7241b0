"""Serves a page in each of its states: here until the process is stopped, or in another one."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.web.resource import IResource

from opq_twisted.http.site import BoundedSite


def listen(root: IResource) -> int:
    """Serve resources on a free port of loopback, and return its number."""
    site = cast(Any, BoundedSite(cast(Any, reactor), root))
    port: int = cast(Any, reactor).listenTCP(0, site, interface="127.0.0.1").getHost().port
    return port


@contextmanager
def served(gallery: str, path: str) -> Iterator[dict[str, str]]:
    """
    Serve all states of a gallery in another process while the context lasts; gives their URLs.

    :param gallery: the name of its module in this package.
    :param path: that of the page, with a slash.
    """
    command = [sys.executable, "-m", f"{__package__}.{gallery}"]
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    try:
        ports = json.loads(serving.stdout.readline())
        yield {state: f"http://127.0.0.1:{port}{path}" for state, port in ports.items()}
    finally:
        serving.terminate()
        serving.wait()


def serve_all(states: Iterable[str], serve: Callable[[str, Path], int]) -> None:
    """
    Serve all states; print the ports as one line of JSON.

    :param serve: serves a state with files in an empty folder, and returns the port.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ports = {}
        for state in states:
            folder = Path(scratch, state)
            folder.mkdir()
            ports[state] = serve(state, folder)
        print(json.dumps(ports), flush=True)
        cast(Any, reactor).run()
