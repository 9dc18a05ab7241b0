"""
How much of an exhaustive test runs: a sample of its cases, or every case with `TORTURE=1`.

`make test` runs the samples, which are the same in each run, and `make torture` every case.
`SEED=7` chooses another sample, and other random cases.
"""

import os
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from hypothesis import settings

TORTURE = bool(os.environ.get("TORTURE"))
SEED = int(os.environ.get("SEED", "0"))

#: Hypothesis tries this many times as many examples under torture.
_MORE_EXAMPLES = 40

_Case = TypeVar("_Case")


def sample(cases: Sequence[_Case], number: int) -> list[_Case]:
    """Choose this many of the cases."""
    if TORTURE or len(cases) <= number:
        return list(cases)
    return Random(SEED).sample(cases, number)


def stride(step: int) -> int:
    """Give the step from one case to the next, for a test that tries every n-th of its cases."""
    return 1 if TORTURE else step


def examples(number: int) -> settings:
    """Let Hypothesis try this many examples, the same in each run, however long they take."""
    number *= _MORE_EXAMPLES if TORTURE else 1
    return settings(max_examples=number, derandomize=True, database=None, deadline=None)
