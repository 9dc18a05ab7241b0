"""Estimates how far an update is, and how long the rest of it takes."""

from attrs import frozen

from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Status

#: Seconds that each stage takes, until an update has shown how long it takes on this box.
_USUAL = {
    Stage.DOWNLOADING: 60.0,
    Stage.VERIFYING: 3.0,
    Stage.UNPACKING: 10.0,
    Stage.INSTALLING: 90.0,
    Stage.REBOOTING: 45.0,
    Stage.CONFIRMING: 70.0,
}

#: The part of a stage that counts as done at most before the next one begins.
_MOST = 0.95

#: A stage that has taken so many times as long as last time, and some seconds more, may take any
#: time.
_LATE, _GRACE = 1.5, 10.0


@frozen
class Estimate:
    """An estimate at one moment."""

    #: The part of the update that is done, from 0 to 1.
    done: float
    #: By how much that grows in a second without news, and where it stops.
    pace: float = 0.0
    limit: float = 0.0
    #: Seconds until the end of the update; None if nothing can be said.
    left: float | None = None


def estimate(status: Status, now: float) -> Estimate | None:
    """Estimate the rest of an update; None if none is under way, or if the box goes back."""
    stage = status.stage
    if stage is Stage.CHECKING:
        return Estimate(0.0)
    if stage not in _USUAL:
        return None
    known = status.stage_took
    took = {each: max(1.0, known.get(each, usual)) for each, usual in _USUAL.items()}
    stages = list(_USUAL)
    before, after = stages[: stages.index(stage)], stages[stages.index(stage) + 1 :]
    whole = sum(took.values())
    begun = sum(took[each] for each in before)
    part, left = _of_stage(status, took[stage], now)
    left = None if left is None else left + sum(took[each] for each in after)
    # The rate says how long a download takes.
    measured = {stage, *after} <= {Stage.DOWNLOADING, *known}
    # If the message is not that of the stage, there is a pause or a problem.
    usual = status.message == stage.message
    return Estimate(
        done=(begun + part * took[stage]) / whole,
        pace=1 / whole if stage is not Stage.DOWNLOADING and usual else 0.0,
        limit=(begun + max(part, _MOST) * took[stage]) / whole,
        left=left if measured and usual else None,
    )


def _of_stage(status: Status, expected: float, now: float) -> tuple[float, float | None]:
    """Return the part of the stage that is done, and the seconds until its end."""
    progress = status.progress
    if progress is not None and progress.total is not None:
        missing = max(0, progress.total - progress.received)
        if not missing:
            return 1.0, 0.0
        left = missing / progress.rate if progress.rate > 0 else None
        return 1.0 - missing / progress.total, left
    elapsed = 0.0 if status.stage_since is None else max(0.0, now - status.stage_since)
    if status.stage is Stage.DOWNLOADING:
        # Another download, of which more or less was fetched, says nothing about this one.
        return 0.0, None
    late = elapsed > _LATE * expected + _GRACE
    return min(_MOST, elapsed / expected), None if late else max(0.0, expected - elapsed)
