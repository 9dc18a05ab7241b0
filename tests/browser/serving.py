"""Serves a page in each of its states, until the process is stopped."""

import json
import tempfile
from collections.abc import Callable, Iterable
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
