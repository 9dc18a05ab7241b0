"""Runs an update server, and sends requests to it."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.vm.releases import Keys
from tests.vm.report import Broken

_TIMEOUT = 60.0


def answer(url: str, seconds: float = _TIMEOUT, accept: str = "*/*") -> str:
    """Send a request to a server that may still be starting; returns the response."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                text: str = response.read().decode()
            return text
        except OSError as error:
            if time.monotonic() > deadline:
                raise Broken(f"{url} does not answer: {error}.") from None
        time.sleep(0.1)


class UpdateServer:
    """`twistd opq-update-server`, which signs timestamps."""

    def __init__(self, keys: Keys, port: int, log: Path, *options: str) -> None:
        """Start the server, and wait until it has signed a timestamp."""
        twistd = os.fspath(Path(sys.executable).with_name("twistd"))
        command = [
            *("setpriv", "--pdeathsig=TERM", twistd, "--nodaemon", "--pidfile="),
            *("opq-update-server", f"--port=tcp:{port}:interface=127.0.0.1"),
            *(f"--updates-dir={keys.updates}", f"--timestamp-key={keys.timestamp}"),
            f"--timestamp-passphrase-file={keys.passphrase}",
            *options,
        ]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self._port = port
        self._wait()

    def offers(self, version: int, seconds: float = 60.0) -> None:
        """Wait until a release is offered."""
        deadline = time.monotonic() + seconds
        while self._get("version").strip() != str(version).encode():
            if time.monotonic() > deadline:
                raise Broken(f"The update server does not offer release {version}.")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self._get("tuf/timestamp.json")
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise Broken("The update server does not answer.")

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=10) as answer:
            content: bytes = answer.read()
        return content
