"""The delay before an attempt is repeated, which doubles with each failure."""


def doubling(first: float, maximum: float, failures: int) -> float:
    """Return `first`, doubled for each earlier failure, but at most `maximum`."""
    # A float has no greater powers of two than 2 ** 1023.
    return min(first * 2.0 ** min(failures, 100), maximum)
