"""Copies files to and from the updates directory of a server with rsync."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import field, frozen

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.trust.metadata_files import max_size

#: `HOST:PATH` of rsync, with a user before it; no part can be taken for an option, or for more than
#: one word by a shell on the server.
_REMOTE = re.compile(
    r"((?:\w[\w.+-]*@)?(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\]))::?[\w./~][\w./~+=,@%-]*"
)

#: Seconds without a byte after which rsync gives up.
_SILENCE = 60

#: The exit codes of rsync if it has no connection to the other one; 127: there is no other one.
_NO_CONNECTION = (5, 10, 12, 14, 30, 35, 127, 255)


@frozen
class Destination:
    """The updates directory of a server, or of this machine, as rsync reaches it."""

    #: What the user typed.
    name: str
    #: The machine to which `name` leads; None if it is this one.
    host: str | None
    #: With a slash at its end.
    _path: str
    _environment: Mapping[str, str] = field(factory=lambda: dict(os.environ))

    @contextmanager
    def fetched(self, names: Sequence[str]) -> Iterator[Path]:
        """
        Copy files of the folder `tuf`, those that are there, to a temporary folder of this name.

        :returns: the folder in which that folder is.
        :raises ReleaseFailed: if the directory is missing, or cannot be reached.
        """
        limit = max(map(max_size, names))
        with tempfile.TemporaryDirectory(prefix="opq-push-") as folder:
            self._run(
                *("-rL", "--chmod=D700,F600", f"--max-size={limit}", "--include=/tuf/"),
                *(f"--include=/tuf/{name}" for name in names),
                *("--exclude=*", "--", self._path, f"{folder}/"),
            )
            yield Path(folder)

    def send(self, files: Sequence[Path], folder: str = "") -> None:
        """
        Copy files into the directory, or a folder in it; each appears when it is complete.

        :param folder: with a slash at its end.
        :raises ReleaseFailed: if that fails. An interrupted copy is continued the next time.
        """
        if files:
            is_seen = sys.stdout is not None and sys.stdout.isatty()
            # Of archives only, because the files in folders are small.
            shown = ["--info=name1,progress1"] if is_seen and not folder else []
            # Readable by the server's user, whatever the umask there is.
            options = ("-Ltp", "--chmod=F644", "--partial-dir=.rsync-partial", *shown)
            paths = (os.path.abspath(file) for file in files)
            self._run(*options, "--", *paths, f"{self._path}{folder}")

    def remove(self, names: Sequence[str]) -> list[str]:
        """
        Remove files from the directory, and return the names of those that were there.

        :raises ReleaseFailed: if that fails.
        """
        if not names:
            return []
        with tempfile.TemporaryDirectory(prefix="opq-push-") as empty:
            # rsync deletes all files, because the source is empty, except the excluded ones.
            said = self._run(
                *("-di", "--delete", *(f"--include=/{name}" for name in names), "--exclude=*"),
                *("--", f"{empty}/", self._path),
                capture=True,
            )
        gone = {line.split()[-1] for line in said.splitlines() if line.startswith("*deleting ")}
        return [name for name in names if name in gone]

    def _run(self, *arguments: str, capture: bool = False) -> str:
        command = ["rsync", f"--timeout={_SILENCE}", *arguments]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if capture else None,
                env=self._environment,
                encoding="utf-8",
                errors="replace",
            )
        except FileNotFoundError:
            raise ReleaseFailed(
                "There is no rsync on this machine: install it, as with apt-get install rsync."
            ) from None
        if done.returncode:
            raise ReleaseFailed(self._explain(done.returncode))
        return done.stdout or ""

    def _explain(self, status: int) -> str:
        if self.host is not None and status in _NO_CONNECTION:
            return (
                f"rsync has no connection to {self.host}; the reason is above. See whether "
                f"ssh {self.host} rsync --version works, and run opq-release push {self.name} "
                "again: it continues."
            )
        return (
            f"rsync could not finish with {self.name} (status {status}); the reason is above. See "
            "whether the directory exists, and whether you may write in it and in its folder tuf; "
            f"then run opq-release push {self.name} again: it continues."
        )


@contextmanager
def connected(name: str) -> Iterator[Destination]:
    """
    Open a destination: `HOST:/DIR`, or `/DIR` on this machine.

    All copies use one login by ssh, so a passphrase or password is typed once.

    :raises ReleaseFailed: if it is neither.
    """
    host = None
    path = name
    if ":" in name.partition("/")[0]:
        found = _REMOTE.fullmatch(name)
        if found is None:
            raise ReleaseFailed(
                f"{name[:80]!r} is no destination: give SERVER:/DIR, with letters, digits and "
                "._-/~+=,@% only, or a directory of this machine."
            )
        host = found[1]
    elif not name or not Path(name).is_dir():
        raise ReleaseFailed(
            f"There is no directory {name[:200]!r} on this machine: give SERVER:/DIR, or make it."
        )
    else:
        path = os.path.abspath(name)
    with ExitStack() as stack:
        environment = dict(os.environ)
        if host is not None and "RSYNC_RSH" not in environment:
            environment["RSYNC_RSH"] = stack.enter_context(_shared_login(host))
        yield Destination(name, host, f"{path.rstrip('/')}/", environment)


@contextmanager
def _shared_login(host: str) -> Iterator[str]:
    """Give the command of an ssh whose first connection serves the next ones, too."""
    with tempfile.TemporaryDirectory(prefix="opq-push-", dir="/tmp") as folder:
        # The path is short: a socket's has at most 108 bytes.
        path = f"-oControlPath={folder}/ssh"
        try:
            yield f"ssh -oControlMaster=auto -oControlPersist=60 {path}"
        finally:
            if os.path.exists(f"{folder}/ssh"):
                command = ["ssh", path, "-O", "exit", "--", host]
                subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
