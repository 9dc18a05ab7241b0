"""`opq-box`: for those who set up a box, or look after one."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from opq_twisted import durable
from opq_twisted.box.archives import Archives
from opq_twisted.box.config import read_config
from opq_twisted.box.installed import read_version
from opq_twisted.box.journal import Release
from opq_twisted.box.unpacker import child_command
from opq_twisted.cli.program import run, say
from opq_twisted.errors import AdoptFailed
from opq_twisted.progress import Progress, ProgressBar
from opq_twisted.release.name import UpdateName

_CHUNK = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; give the exit code."""
    return run("opq-box", _parser().parse_args(arguments))


def adopt(options: argparse.Namespace) -> int:
    """Keep the archive of the release that runs, so that the box can return to it."""
    installed = read_version(read_config(options.config).updater.version_file)
    name = UpdateName.parse(options.archive.name)
    if name.version != installed:
        raise AdoptFailed(
            f"The box runs release {installed or 'nobody knows which'}, and not {name.version}: "
            "give the archive that it was made from."
        )
    archives = Archives(options.state_dir / "archives")
    archives.folder.mkdir(parents=True, exist_ok=True)
    if archives.last_good is not None and archives.last_good.version == name.version:
        say(f"Release {name.version} is the last good one already.")
        return 0
    with options.archive.open("rb") as source, ProgressBar(_size(source)) as progress:
        _vet(source, name, options.state_dir)
        with _copied(source, options.state_dir, progress) as (copy, digest), archives.locked():
            durable.rename(copy, archives.path(name.version))
            archives.keep_as_last_good(Release(name.version, None, {"sha256": digest}))
    say(f"Release {name.version} is the one to which this box returns when an update fails.")
    return 0


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _vet(archive: BinaryIO, name: UpdateName, state_dir: Path) -> None:
    """Unpack it as an update is, for a moment: then it is known that the box can return to it."""
    with tempfile.TemporaryDirectory(prefix="adopt-", dir=state_dir) as folder:
        ended = subprocess.run(
            child_command(Path(folder, "unpacked"), name.version),
            stdin=archive,
            capture_output=True,
            text=True,
        )
    if ended.returncode != 0:
        reason = (ended.stderr or ended.stdout).strip().rpartition("\n")[2]
        raise AdoptFailed(reason or f"The archive cannot be unpacked: {ended.returncode}.")


@contextmanager
def _copied(source: BinaryIO, state_dir: Path, progress: Progress) -> Iterator[tuple[Path, str]]:
    """Give a copy that is on the disk, and its digest; it is gone if it is not moved away."""
    copy, digest = state_dir / ".adopted.part", sha256()
    source.seek(0)
    try:
        with durable.create(copy, 0o600) as file:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
                progress(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        yield copy, digest.hexdigest()
    finally:
        copy.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opq-box", description="Look after an OPQ box.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser(
        "adopt", help=adopt.__doc__, description=adopt.__doc__, allow_abbrev=False
    )
    sub.set_defaults(command=adopt)
    sub.add_argument("archive", type=Path, metavar="ARCHIVE", help="what build_update.py made")
    sub.add_argument(
        "--config",
        type=Path,
        default=Path("/etc/opq/opqbox_config.json"),
        metavar="FILE",
        help="the box's configuration (default: %(default)s)",
    )
    sub.add_argument(
        "--state-dir",
        type=Path,
        default=Path("/var/lib/opq/updater"),
        metavar="DIR",
        help="the agent's state directory (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
