#!/usr/bin/env python3
"""Build `opq-box-update-VERSION.tar.bz2`, an update for OPQ Boxes, in the current folder."""

import sys

if sys.version_info < (3, 11):
    sys.exit("build_update.py needs Python 3.11 or newer: run it with that.")

import argparse
import os
import signal
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from opq_twisted import __version__
from opq_twisted.archive.build.components import (
    AGENT,
    REQUIREMENTS,
    TRUSTED_ROOT,
    WHEELS,
    check_components,
    component_folders,
)
from opq_twisted.archive.build.contents import (
    Contents,
    find_file,
    find_script,
    find_trusted_root,
    gather,
)
from opq_twisted.archive.build.pack import destination, pack
from opq_twisted.archive.build.wheels import fetch_wheels
from opq_twisted.archive.name import (
    INSTALL_SCRIPT,
    TOP_FOLDER,
    VERIFY_SCRIPT,
    UpdateName,
    parse_version,
)
from opq_twisted.cli.parser import Parser
from opq_twisted.cli.program import say, say_line, warn
from opq_twisted.common import wording
from opq_twisted.common.errors import BuildFailed, OpqError
from opq_twisted.common.progress_bar import ProgressBar

CHECKOUT = Path(__file__).resolve().parent
BOX = CHECKOUT / "deploy" / "box"
PIP_LOCK = CHECKOUT / "requirements-pip.lock"

#: The packages of `opq_twisted` that only the server and the maintainer's machine need.
NOT_FOR_BOXES = (
    *("archive/build/", "cli/daemon", "cli/fleet/", "cli/release/"),
    *("fleet/", "server/", "signing/"),
)

DESCRIPTION = f"""\
{__doc__}

The update is complete in itself: it holds the install script, the sources of the box agent, the
Python packages that the agent needs, and what --component adds, with the Python packages in its
requirements.txt. Its path is printed.

The same files and VERSION give the same bytes on each machine. Files that do not change from one
update to the next give the same bytes in both, so that a box downloads only the others."""

EPILOG = """\
Python packages for another machine than this one, here a Raspberry Pi with the 64-bit Raspberry Pi
OS 12, and for the time after an upgrade to 13:

  ./build_update.py --python-version 3.11 --python-version 3.13 --platform manylinux2014_aarch64

environment:
  SOURCE_DATE_EPOCH     the default for --version
"""


def main() -> int:
    """Build an update as the command line says; return the exit code."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    options = make_parser().parse_args()
    if options.version is False:
        say(f"build_update.py {__version__}")
        return 0
    try:
        archive = build(options)
    except OpqError as error:
        warn(str(error))
        return 1
    except OSError as error:
        warn(f"The update was not built ({error}): fix that, then try again.")
        return 1
    if not say_line(str(archive)):
        warn(f"The update was built: {archive}")
    return 0


def build(options: argparse.Namespace) -> Path:
    """
    Build an update and return its path.

    :raises OpqError: if the update cannot be built; the text says why.
    """
    name = _name(options.version)
    destination(name, options.output_dir)
    contents = _contents(options)
    with tempfile.TemporaryDirectory(prefix="opq-wheels-") as wheels:
        if options.wheels:
            fetch_wheels(contents, Path(wheels), PIP_LOCK, options.platform, options.python_version)
            contents |= gather(Path(wheels), WHEELS)
        top_folder = name.folder if options.folder_with_version else TOP_FOLDER
        with ProgressBar(sum(file.size for file in contents.values() if file)) as progress:
            archive = pack(
                name, contents, options.output_dir, top_folder=top_folder, progress=progress
            )
        if not _write_sbom(archive, name, contents):
            warn(
                "No SBOM was written: to get one beside each update, install the Python package "
                "cyclonedx-python-lib."
            )
        return archive


def _write_sbom(archive: Path, name: UpdateName, contents: Contents) -> bool:
    """Write the SBOM beside an update, and return whether the package for that is installed."""
    try:
        from opq_twisted.archive.build.sbom import write_sbom
    except ModuleNotFoundError as error:
        if error.name not in ("cyclonedx", "packageurl"):
            raise
        return False
    write_sbom(archive, name, contents)
    return True


def _contents(options: argparse.Namespace) -> Contents:
    folders = component_folders(options.component)
    contents: Contents = {INSTALL_SCRIPT: find_script(options.install_script)}
    if options.verify_script is not None:
        contents[VERIFY_SCRIPT] = find_script(options.verify_script)
    if options.trusted_root is not None:
        contents[TRUSTED_ROOT] = find_trusted_root(options.trusted_root, datetime.now(UTC))
    if AGENT not in folders:
        contents |= own_agent()
    for component, folder in folders.items():
        contents |= gather(folder, component)
    check_components(contents)
    return contents


def own_agent() -> Contents:
    """Return this project's own files for a box."""
    code = gather(CHECKOUT / "opq_twisted", f"{AGENT}/opq_twisted")
    plugin = "twisted/plugins/opq_box_agent.py"
    deployed = gather(BOX, AGENT)
    deployed.pop(f"{AGENT}/{INSTALL_SCRIPT}", None)
    return {
        **{path: file for path, file in code.items() if file and _is_for_boxes(path)},
        f"{AGENT}/{plugin}": find_file(CHECKOUT / plugin),
        f"{AGENT}/{REQUIREMENTS}": find_file(CHECKOUT / REQUIREMENTS),
        **deployed,
    }


def _is_for_boxes(path: str) -> bool:
    inside = path.removeprefix(f"{AGENT}/opq_twisted/")
    if inside.startswith(NOT_FOR_BOXES):
        return False
    pages = ("box/web/page/", "http/page/")
    return inside.startswith(pages) or inside.endswith((".py", ".sh", "py.typed"))


def _source_date() -> int | None:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise BuildFailed(f"SOURCE_DATE_EPOCH must be seconds since the epoch, not {text!r}.")
    return int(text)


def _name(version: str | None) -> UpdateName:
    now, source_date = int(time.time()), _source_date()
    built = now if source_date is None else source_date
    name = UpdateName(parse_version(str(built) if version is None else version))
    if name.version > now:
        raise BuildFailed(
            f"Version {name.version} lies in the future ({wording.utc(name.version)}; this "
            f"machine's clock shows {wording.utc(now)}), and boxes want each release to be newer "
            "than the one before: give an earlier --version, or set this clock if it is behind."
        )
    return name


def _stop(number: int, _frame: FrameType | None) -> None:
    """Raise an exception at the first signal, so that all drafts are removed."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def make_parser() -> Parser:
    """Define the command line."""
    parser = Parser(
        prog="build_update.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="put the folder DIR into the update as NAME, such as mysensor; can be given once for "
        f"each component (default for {AGENT}: this project's own box sources)",
    )
    parser.add_argument(
        "--version",
        nargs="?",
        const=False,
        metavar="VERSION",
        help="the update's version, in seconds since the epoch (default: now); without VERSION, "
        "the version of this program is printed",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the folder to build in (default: the current one)",
    )
    parser.add_argument(
        "--install-script",
        type=Path,
        default=BOX / INSTALL_SCRIPT,
        metavar="FILE",
        help=f"the {INSTALL_SCRIPT} of the update (default: this project's own)",
    )
    parser.add_argument(
        "--verify-script",
        type=Path,
        metavar="FILE",
        help=f"the {VERIFY_SCRIPT} of the update, with which a box checks after the reboot whether "
        "the release is healthy (default: none)",
    )
    parser.add_argument(
        "--trusted-root",
        type=Path,
        metavar="FILE",
        help=f"the {TRUSTED_ROOT} for boxes that have none; it names the keys that sign updates "
        "(default: none)",
    )
    parser.add_argument(
        "--no-wheels",
        dest="wheels",
        action="store_false",
        help="leave out the Python packages: the box must have them already",
    )
    parser.add_argument(
        "--folder-with-version",
        action="store_true",
        help="name the folder in the archive after VERSION: boxes whose agent is 0.2.0 or older "
        "refuse and block other updates, while newer ones download more of these",
    )
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        help="fetch Python packages for this platform, in pip's words; can be given more than once "
        "and for several machines (default: this machine's)",
    )
    parser.add_argument(
        "--python-version",
        action="append",
        default=[],
        metavar="X.Y",
        help="fetch Python packages for this version of Python; can be given more than once "
        "(default: the one that runs this)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
