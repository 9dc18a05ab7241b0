"""Runs commands in the machine, as root."""

import json
import socket
import time
from pathlib import Path

from attrs import frozen

from tests.vm.report import Broken

#: Additional seconds for the response to a command.
_GRACE = 15.0

#: Seconds between two attempts to reach a machine that boots.
_AGAIN = 3.0


@frozen
class Ended:
    """How a command ended."""

    #: None if the command was ended by its timeout.
    status: int | None
    #: The text of both output streams.
    output: str


class Shell:
    """A client of opq-vm-shell in the machine; commands and responses are lines of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._socket: socket.socket | None = None
        self._unread = b""

    def run(self, command: str, *, input: str = "", seconds: float = 60.0) -> str:
        """
        Run a command for sh; returns its output.

        :param seconds: how long it may take.
        :raises Broken: when it fails, or the machine does not answer.
        """
        ended = self.attempt(command, input=input, seconds=seconds)
        if ended.status != 0:
            raise Broken(f"{command!r} ended with {ended.status}: {ended.output.strip()[-500:]}")
        return ended.output

    def attempt(self, command: str, *, input: str = "", seconds: float = 60.0) -> Ended:
        """
        Run a command that may fail.

        :raises Broken: when the machine does not answer.
        """
        self._number += 1
        request = {"id": self._number, "command": command, "input": input, "seconds": seconds}
        try:
            return self._ask(request, time.monotonic() + seconds + _GRACE)
        except OSError as error:
            self.close()
            raise Broken(f"The machine does not run {command[:60]!r}: {error}.") from None

    def ready(self, seconds: float) -> None:
        """Wait until the machine runs commands."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._number += 1
                request = {"id": self._number, "command": ":", "input": "", "seconds": 1}
                self._ask(request, time.monotonic() + _AGAIN)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise Broken("The machine runs no commands.") from None

    def close(self) -> None:
        """Close the connection; the next command opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._unread = b""

    def _ask(self, request: dict[str, object], deadline: float) -> Ended:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(_AGAIN)
            self._socket.connect(str(self._path))
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            # Responses to earlier commands, which timed out, come first.
            answer = json.loads(self._read_line(self._socket, deadline))
            if answer["id"] == request["id"]:
                return Ended(answer["status"], answer["output"])

    def _read_line(self, connection: socket.socket, deadline: float) -> bytes:
        while b"\n" not in self._unread:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            data = connection.recv(65536)
            if not data:
                raise ConnectionResetError("it was switched off")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line
