"""Interrupts the work of key holders by an exception, as a signal does, at each step."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

#: What a signal may come before: a wait for the disk, or a change of a name.
STEPS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "hardlink_to"),
)


def stops_at(number: int, work: Callable[[], object]) -> bool:
    """Interrupt work before its n-th step; returns whether it got there."""
    with _stopping_before(number):
        try:
            work()
        except SystemExit:
            return True
    return False


@contextmanager
def _stopping_before(number: int) -> Iterator[None]:
    count = 0

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                # Only once: what cleans up after it is not stopped again.
                raise SystemExit(128 + signal.SIGTERM)
            return real(*arguments, **named)

        return step

    with ExitStack() as stack:
        for place, name in STEPS:
            real = getattr(place, name)
            stack.callback(setattr, place, name, real)
            setattr(place, name, before(real))
        yield
