"""Runs small boxes in one process until it gets a signal: `python -m demo.small_boxes`."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver

from demo.fates import Fate, Fates
from demo.small_box import Habits, SmallBox, make_identity
from opq_twisted.common.monotonic import use_monotonic_time


def write_admissions(folder: Path, numbers: Iterable[int]) -> Path:
    """
    Make the keys of boxes before they start; return the file for `opq-fleet admit`.

    :param folder: for the keys, the same as `--folder`.
    """
    lines = [f"{number},{make_identity(folder / str(number)).fingerprint}\n" for number in numbers]
    path = folder / "admit"
    path.write_text("".join(lines))
    return path


def main() -> int:
    """Start the boxes of the command line."""
    options = make_parser().parse_args()
    use_monotonic_time(reactor)
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    fates = {
        int(release): [Fate(each) for each in dealt]
        for release, dealt in json.loads(options.fates).items()
    }
    habits = Habits(
        server=options.server,
        root=options.root.read_bytes(),
        release=options.release,
        report_every=options.report_every,
        spread=options.spread,
        install=options.install,
        fates=Fates(fates),
    )
    for number in options.boxes:
        SmallBox(reactor, habits, number, options.folder / str(number)).start()
    reactor.run()
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.small_boxes", description=__doc__)
    parser.add_argument("--server", required=True, help="URL of the update server")
    parser.add_argument("--root", type=Path, required=True, help="file of the trusted root")
    parser.add_argument("--folder", type=Path, required=True, help="for keys and metadata")
    parser.add_argument("--release", type=int, required=True, help="the release that they run")
    parser.add_argument("--report-every", type=float, default=2.0, help="seconds between reports")
    parser.add_argument("--spread", type=float, default=2.0, help="longest delay of a check")
    parser.add_argument("--install", type=float, default=3.0, help="longest installation")
    parser.add_argument(
        "--fates",
        default="{}",
        help="JSON, the fates of the boxes that install a release: "
        f'{{"VERSION": ["{Fate.RETURNED}", "{Fate.SILENT}"]}}',
    )
    parser.add_argument("boxes", type=int, nargs="+", help="the numbers of the boxes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
