"""Claims the folder of a demo, so that several can run at the same time."""

import itertools
import shutil
from contextlib import suppress
from pathlib import Path

from demo.programs import ROOT
from demo.terminal import DemoFailed
from opq_twisted.common import files

#: Each demo has a folder of its own in this one.
DEMOS = ROOT / ".demo"


def claim_folder() -> Path:
    """
    Make an empty folder which no other demo uses until this process ends.

    :raises DemoFailed: if it cannot be made.
    """
    try:
        DEMOS.mkdir(exist_ok=True)
        for number in itertools.count(1):
            with suppress(BlockingIOError):
                files.lock(DEMOS / f"{number}.lock")
                break
        folder = DEMOS / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    except OSError as error:
        raise DemoFailed(
            f"Cannot make a folder in {DEMOS}: {error.strerror}. Remove {DEMOS}, as root if root "
            "has run a demo before."
        ) from None
    return folder
