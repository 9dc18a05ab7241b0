"""How a figure is told: what was measured, against whom, and whether it is what it should be."""


def tell(
    what: str,
    ours: float,
    peer: str,
    theirs: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Print a figure with its ratio to a peer's, which the aim is for."""
    ratio = ours / theirs
    aim = _aim(ratio, at_least, at_most)
    print(f"{what}: {_told(ours)}, {peer} {_told(theirs)}: ratio {ratio:.2f}{aim}", flush=True)


def tell_alone(what: str, ours: float, *, at_most: float) -> None:
    """Print a figure whose aim is absolute."""
    print(f"{what}: {_told(ours)}{_aim(ours, None, at_most)}", flush=True)


def _told(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aim(value: float, at_least: float | None, at_most: float | None) -> str:
    if at_least is not None:
        return f" (aim: at least {at_least:g}: {'met' if value >= at_least else 'MISSED'})"
    if at_most is not None:
        return f" (aim: at most {at_most:g}: {'met' if value <= at_most else 'MISSED'})"
    return ""
