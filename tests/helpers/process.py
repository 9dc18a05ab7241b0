"""Looks at the process that runs the tests."""

import contextlib
import os
from pathlib import Path


def open_descriptors() -> list[str]:
    """Return the targets of all descriptors of this process, as the kernel names them."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this listing
            targets.append(os.readlink(link))
    return targets
