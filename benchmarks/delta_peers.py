"""Counts the bytes that zsync, zchunk and casync fetch to turn an older file into a newer one."""

import filecmp
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from benchmarks import servers
from benchmarks.relay import Link, relay

#: Fetches the newer of two files, the second one, and returns the bytes on the wire.
Peer = Callable[[Path, Path], int]

#: Stands for the server's URL in a command.
_URL = "URL"


@frozen
class _Place:
    #: The folder of nginx: zckdl does not end with the ranges of Twisted's server.
    served: Path
    #: The folder of the client.
    own: Path

    def fetch(self, *command: str | Path) -> int:
        """Run a client, and return the bytes on its connections to the server."""
        location = f"location / {{ root {self.served}; }}"
        with servers.nginx(location, self.own) as nginx, relay(nginx.port, Link()) as link:
            _run(*(str(word).replace(_URL, link.url) for word in command), folder=self.own)
            return link.bytes


@contextmanager
def _place() -> Iterator[_Place]:
    with tempfile.TemporaryDirectory() as name:
        place = _Place(Path(name, "served"), Path(name, "own"))
        place.served.mkdir()
        place.own.mkdir()
        yield place


def zsync(old: Path, new: Path) -> int:
    """Fetch the blocks of a file that is served as it is."""
    with _place() as place:
        control = place.served / "new.zsync"
        _run("zsyncmake", "-u", new.name, "-o", control, new)
        shutil.copy(new, place.served)
        joined = place.own / "joined"
        fetched = place.fetch("zsync", "-q", "-i", old, "-o", joined, f"{_URL}/{control.name}")
        _require_same(joined, new)
    return fetched


def zchunk(old: Path, new: Path) -> int:
    """Fetch the chunks of a file that is served in zchunk's format."""
    with _place() as place:
        served, source = place.served / "new.zck", place.own / "old.zck"
        _run("zck", "-o", served, new)
        _run("zck", "-o", source, old)
        fetched = place.fetch("zckdl", "-s", source, f"{_URL}/{served.name}")
        _require_same(place.own / served.name, served)
    return fetched


def casync(old: Path, new: Path) -> int:
    """Fetch the chunks of the folder in a tar file, which are served as a store."""
    # Owners and times would only add bytes.
    features = ("--without=all", "--with=permissions")
    with _place() as place:
        index, store = place.served / "new.caidx", place.served / "store"
        seed, joined = place.own / "seed", place.own / "joined"
        for archive, folder in ((old, seed), (new, place.own / "new")):
            folder.mkdir()
            _run("tar", "xf", archive, "-C", folder)
        _run("casync", "make", *features, "--store", store, index, place.own / "new")
        stores = ("--store", f"{_URL}/{store.name}", "--seed", seed)
        command = ("casync", "extract", *features, *stores, f"{_URL}/{index.name}", joined)
        fetched = place.fetch(*command)
        _run("diff", "-r", joined, place.own / "new")
    return fetched


#: The program that each peer needs.
_PROGRAMS: dict[Peer, str] = {
    zsync: "zsyncmake",
    zchunk: "zckdl",
    casync: "casync",
}


def is_here(peer: Peer) -> bool:
    """Whether a peer can be measured; otherwise print that loudly."""
    name = _PROGRAMS[peer]
    if here := servers.NGINX is not None and shutil.which(name) is not None:
        return here
    print(f"NOT COMPARED WITH {peer.__name__}: it or nginx is not installed", flush=True)
    return False


def _run(*command: str | Path, folder: Path | None = None) -> None:
    result = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=1800,
        check=False,
    )
    if result.returncode:
        said = (result.stdout + result.stderr).decode(errors="replace")
        raise SystemExit(f"{command[0]} failed:\n{said}")


def _require_same(one: Path, other: Path) -> None:
    if not filecmp.cmp(one, other, shallow=False):
        raise SystemExit(f"{one.name} is not as it should be.")
