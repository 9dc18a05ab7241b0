"""Prints figures: the measured value, its ratio to a peer, and whether it meets the aim."""


def report_ratio(
    what: str,
    ours: float,
    peer: str,
    theirs: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Print a figure and its ratio to a peer's; the aim is for the ratio."""
    ratio = ours / theirs
    aim = _aim(ratio, at_least, at_most)
    print(
        f"{what}: {_figure(ours)}, {peer} {_figure(theirs)}: ratio {_figure(ratio)}{aim}",
        flush=True,
    )


def report(what: str, ours: float, *, at_most: float | None = None) -> None:
    """Print a figure, with an aim of its own if there is one."""
    print(f"{what}: {_figure(ours)}{_aim(ours, None, at_most)}", flush=True)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aim(value: float, at_least: float | None, at_most: float | None) -> str:
    if at_least is not None:
        return f" (aim: at least {at_least:g}: {'met' if value >= at_least else 'MISSED'})"
    if at_most is not None:
        return f" (aim: at most {at_most:g}: {'met' if value <= at_most else 'MISSED'})"
    return ""
