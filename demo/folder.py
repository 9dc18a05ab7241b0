"""Claims the folder and the ports of a demo, so that several can run at the same time."""

import itertools
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from demo.programs import ROOT
from demo.terminal import DemoFailed
from opq_twisted.common import files

#: Each demo has a folder of its own in this one.
DEMOS = ROOT / ".demo"


def claim_folder() -> Path:
    """
    Make an empty folder which no other demo uses until this process ends.

    :raises DemoFailed: if it cannot be made.
    """
    try:
        DEMOS.mkdir(exist_ok=True)
        for number in itertools.count(1):
            with suppress(BlockingIOError):
                files.lock(DEMOS / f"{number}.lock")
                break
        folder = DEMOS / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    except OSError as error:
        raise DemoFailed(
            f"Cannot make a folder in {DEMOS}: {error.strerror}. Remove {DEMOS}, as root if root "
            "has run a demo before."
        ) from None
    return folder


def claim_port(preferred: int) -> int:
    """Find a port that is free and no other demo has claimed, one of ten if possible."""
    for port in range(preferred, preferred + 10):
        # A program may take a while until it listens.
        with suppress(OSError):
            files.lock(DEMOS / f"port-{port}.lock")
            return _bind(port)
    return _bind(0)


def _bind(port: int) -> int:
    """Return the port, or any free one for 0; raise `OSError` if it is not free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        number: int = listener.getsockname()[1]
    return number
