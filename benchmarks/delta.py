"""Compares updates of which a box has most already with whole ones, zsync, zchunk and casync."""

import argparse
import hashlib
import random
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from attrs import frozen

from benchmarks import servers
from benchmarks.agents import box, daemon, update
from benchmarks.delta_peers import casync, is_here, zchunk, zsync
from benchmarks.figures import report, report_ratio
from benchmarks.relay import Link, relay
from benchmarks.trees import change_some, idle_script, insert, sample_system
from build_update import PIP_LOCK, own_agent
from opq_twisted.archive.build.components import AGENT, WHEELS
from opq_twisted.archive.build.contents import Contents, find_file, find_script, gather
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.build.wheels import fetch_wheels
from opq_twisted.archive.name import INSTALL_SCRIPT, TOP_FOLDER, UpdateName
from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.common.errors import BuildFailed

OLD, NEW = UpdateName(1_600_000_000), UpdateName(1_600_086_400)

#: A module of the agent in which a line changes.
MODULE = f"{AGENT}/opq_twisted/box/update/workflow.py"

#: Megabytes of the binary, and of the updates that have nothing in common.
_IMAGE, _NOISE = 50, 50

#: As fast as the machine.
_LOOPBACK = Link()

_MEGABYTE = 1_000_000


@frozen
class Pair:
    """Two updates; a box has the older one."""

    old: Path
    new: Path

    @property
    def size(self) -> int:
        """Bytes of the newer one."""
        return self.new.stat().st_size


@frozen
class Download:
    """The download of an update by a box."""

    #: All bytes on the connections between the box and the server.
    bytes: int
    seconds: float
    #: The agent's peak over idle, in MB.
    memory: float


def build(place: Path, old: Contents, new: Contents) -> Pair:
    """Build two updates that install nothing."""
    first: Contents = {INSTALL_SCRIPT: find_script(idle_script(place))}
    return Pair(pack(OLD, first | old, place), pack(NEW, first | new, place))


def download(new: Path, old: Path | None, link: Link) -> Download:
    """Let a real agent, whose last good archive is `old`, update its box."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        updates = folder / "updates"
        updates.mkdir()
        shutil.copy(new, updates)
        if old is not None:
            store_last_good(old, folder / "state" / "archives")
        with daemon(folder, "opq-update-server", "--updates-dir", updates) as server:
            wait_for_index(f"{server.url}/update/{new.name}.pieces")
            port = int(server.url.rpartition(":")[2])
            with relay(port, link) as between, box(folder, between.url) as agent:
                memory, seconds = update(agent)
            return Download(between.bytes, seconds, memory)


def store_last_good(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(archive, folder)
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    release = Release(UpdateName.parse(archive.name).version, None, {"sha256": sha256})
    ArchiveStore(folder).keep_as_last_good(release)


def wait_for_index(url: str) -> None:
    """Wait until the server has computed an index, as it has for all boxes but the first."""
    until = time.monotonic() + servers.TIMEOUT
    while True:
        try:
            urllib.request.urlopen(url, timeout=servers.TIMEOUT).close()
            return
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:
                raise SystemExit(f"{url} is not there: {error}") from None
            time.sleep(0.1)


def compare_with_peers(what: str, ours: int, pair: Pair, place: Path) -> None:
    """Compare our bytes with those that peers fetch for the same files."""
    archives = (pair.old, pair.new)
    tars = [tar(each, place) for each in archives]
    # What the builder wrote before its headers stayed the same.
    versioned = [tar(each, place, has_version=True) for each in archives]
    for peer, of_what, files in (
        (zsync, "its tar file", tars),
        (zchunk, "its tar file", tars),
        (casync, "its files", tars),
        (zsync, "the archive", archives),
        (zsync, "a tar file with the version in all headers", versioned),
        (zchunk, "a tar file with the version in all headers", versioned),
    ):
        if is_here(peer):
            theirs = peer(*files)
            report_ratio(what, ours, f"{peer.__name__} of {of_what}", theirs, at_most=1)


def tar(archive: Path, place: Path, *, has_version: bool = False) -> Path:
    """Write the uncompressed tar file of an archive."""
    version = str(UpdateName.parse(archive.name).version)
    folder, target = place / version, place / f"{version}-{has_version}.tar"
    if not folder.exists():
        folder.mkdir()
        subprocess.run(["tar", "xf", archive, "-C", folder], check=True)
    options = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]
    if has_version:
        options += [f"--mtime=@{version}", f"--transform=s/^{TOP_FOLDER}/opq-box-update-{version}/"]
    subprocess.run(["tar", "cf", target, *options, "-C", folder, TOP_FOLDER], check=True)
    return target


def one_line(place: Path) -> None:
    """Change a line in a module of the agent."""
    contents = own_agent()
    try:
        fetch_wheels(contents, place / "wheels", PIP_LOCK, [], [])
    except BuildFailed as error:
        print(f"ONE CHANGED LINE IS NOT MEASURED: {error}", flush=True)
        return
    contents |= gather(place / "wheels", WHEELS)
    module = contents[MODULE]
    assert module is not None
    changed = insert(b"# A line.\n", module, module.size // 2, place / "changed.py")
    pair = build(place, contents, contents | {MODULE: changed})
    ours = download(pair.new, pair.old, _LOOPBACK).bytes
    what = "one changed line, bytes"
    report_ratio(what, ours, "the archive", pair.size, at_most=0.01)
    compare_with_peers(what, ours, pair, place)


def some_files(place: Path, contents: Contents, link: Link) -> None:
    """Change 1 % of the files of a large tree."""
    pair = build(place, contents, change_some(contents, 0.01, place / "changed"))
    size = sum(file.size for file in contents.values() if file)
    print(f"{len(contents)} files of {size / 1e6:.0f} MB, archive {pair.size / 1e6:.0f} MB:")
    what = "1 % of the files changed,"
    delta, whole = (download(pair.new, old, _LOOPBACK) for old in (pair.old, None))
    report_ratio(f"{what} bytes", delta.bytes, "the archive", pair.size, at_most=0.04)
    more = delta.memory - whole.memory
    report(f"{what} MB of memory more than for the whole", more, at_most=3)
    delta, whole = (download(pair.new, old, link) for old in (pair.old, None))
    report_ratio(f"{what} s", delta.seconds, "the whole", whole.seconds, at_most=0.1)
    compare_with_peers(f"{what} bytes", delta.bytes, pair, place)


def inserted_bytes(place: Path) -> None:
    """Insert bytes in the middle of a large binary file."""
    image = place / "image"
    with image.open("wb") as file:
        for part in sample_system(_IMAGE, ".so").values():
            assert part is not None
            file.write(part.source.read_bytes())
    old = find_file(image)
    new = insert(random.Random(0).randbytes(1000), old, old.size // 2, place / "changed")
    pair = build(place, {"firmware/image": old}, {"firmware/image": new})
    ours = download(pair.new, pair.old, _LOOPBACK).bytes
    what = f"1 kB inserted in a binary of {old.size / 1e6:.0f} MB, MB"
    report(what, ours / _MEGABYTE, at_most=3)


def nothing_in_common(place: Path, link: Link) -> None:
    """Update to an archive of which the box has nothing."""
    pair = build(place, noise(place / "old", 0), noise(place / "new", 1))
    ours, today = (download(pair.new, old, link) for old in (pair.old, None))
    what = "nothing in common,"
    report_ratio(f"{what} bytes", ours.bytes, "without an index", today.bytes, at_most=1.01)
    report_ratio(f"{what} s", ours.seconds, "without an index", today.seconds, at_most=1.05)


def noise(folder: Path, seed: int) -> Contents:
    source = random.Random(seed)
    folder.mkdir()
    for number in range(_NOISE):
        (folder / str(number)).write_bytes(source.randbytes(_MEGABYTE))
    return gather(folder, "firmware")


def _folder(place: str, name: str) -> Path:
    folder = Path(place, name)
    folder.mkdir()
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delta", description=__doc__)
    parser.add_argument(
        "--tree",
        type=Path,
        help="folder for the update of which 1 %% changes (files of this machine)",
    )
    parser.add_argument(
        "--megabytes", type=int, default=300, help="files of this machine instead of --tree (300)"
    )
    parser.add_argument(
        "--megabits", type=float, default=20, help="rate of the slow link in Mbit/s (20)"
    )
    options = parser.parse_args()
    tree: Path | None = options.tree
    contents = sample_system(options.megabytes) if tree is None else gather(tree, "firmware")
    # The time of a round trip to a server on the same continent.
    link = Link(options.megabits * _MEGABYTE / 8, delay=0.03)
    with tempfile.TemporaryDirectory() as place:
        one_line(_folder(place, "line"))
        inserted_bytes(_folder(place, "image"))
        nothing_in_common(_folder(place, "noise"), link)
        some_files(_folder(place, "tree"), contents, link)


if __name__ == "__main__":
    main()
