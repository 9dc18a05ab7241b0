"""Starts the real update server for a demo; it also signs the timestamps."""

import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from attrs import frozen

from demo.folder import claim_port
from demo.programs import START_TIMEOUT, fetch
from demo.signer import Signer
from demo.terminal import DemoFailed


@frozen
class UpdateServer:
    """A running server."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def wait(self) -> NoReturn:
        """Wait until it ends, and raise `DemoFailed`: it should never end by itself."""
        self.process.wait()
        raise DemoFailed(f"The update server has ended; see {self.log}.")


def start_server(running: ExitStack, folder: Path, signer: Signer, *options: str) -> UpdateServer:
    """
    Start the update server in a folder, and wait until it has signed a timestamp.

    :param running: ends the server when it is closed.
    :raises DemoFailed: if it does not start.
    """
    port = claim_port(8151)
    log = folder / "server.log"
    command = [
        str(Path(sys.executable).with_name("opq-update-server")),
        f"--port=tcp:{port}:interface=127.0.0.1",
        *(f"--updates-dir={signer.updates}", f"--timestamp-key={signer.timestamp_key}"),
        f"--timestamp-passphrase-file={signer.passphrase}",
        *options,
    ]
    # Ctrl-C reaches only this process, which then ends the server and the boxes.
    server = running.enter_context(
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    )
    running.callback(server.terminate)
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            fetch(port, "tuf/timestamp.json")
            return UpdateServer(server, port, log)
        time.sleep(0.1)
    raise DemoFailed(f"The update server does not answer; see {log}.")
