"""The command line of `make demo`."""

import argparse
import signal
import sys
from types import FrameType

from demo.folder import claim_folder
from demo.one_box import OneBoxDemo
from demo.terminal import DemoFailed, say

#: The signals that end the demo and all its programs.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Read the command line, and show the demo; Ctrl-C ends it."""
    options = make_parser().parse_args()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        if options.fleet:
            # The packages of the fleet may be missing.
            from demo.fleet import FleetDemo

            return FleetDemo(claim_folder(), options.click).show()
        return OneBoxDemo(claim_folder(), options.click).show()
    except KeyboardInterrupt:
        # The terminal has printed ^C.
        say("\rThe demo has ended. `make clean` removes its files.")
        return 130 if options.click else 0
    except DemoFailed as error:
        say(str(error))
        return 1


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--click", action="store_true", help="click by itself, and end afterwards")
    parser.add_argument("--fleet", action="store_true", help="show a fleet of 25 small boxes")
    return parser


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the demo; a second signal must not interrupt the clean-up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
