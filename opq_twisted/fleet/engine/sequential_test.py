"""Tests after each outcome whether a release fails on more boxes than it may."""

import math

from attrs import frozen

#: The probability of a wrong hold, over all looks at a rollout together.
ALPHA = 0.01

#: Bad boxes below which nothing is held.
_LEAST_BAD = 3

#: The share of bad boxes that is accepted always, and the largest one that is ever accepted: a
#: release before that was worse than this must not let the next one be as bad.
_LEAST_ACCEPTED, _MOST_ACCEPTED = 0.01, 0.02

#: A share of bad boxes that is certainly too large: this one, or so many times the accepted one.
_LEAST_REJECTED, _FACTOR = 0.05, 4

#: The quantiles of the normal distribution for an upper bound of 80 %, and an interval of 95 %.
_Z_80, _Z_95 = 0.8416, 1.9600


@frozen
class SequentialTest:
    """
    Wald's sequential probability ratio test ("Sequential Tests of Statistical Hypotheses", 1945).

    It may be asked after each outcome: the probability that it ever rejects a release whose share
    of bad boxes is at most `accepted` is at most `ALPHA`. A box whose attempt is under way has to
    be counted as good: bad outcomes come before good ones, because an installation that fails ends
    early.
    """

    accepted: float
    rejected: float

    @classmethod
    def after(cls, bad: int, boxes: int, silent: float) -> "SequentialTest":
        """
        Make the test of a release.

        :param bad: how many of the `boxes` were bad with the release before.
        :param silent: the share of the boxes that fell silent without installing anything, if
            silent boxes are among the bad ones; otherwise 0.
        """
        before = interval(bad, boxes, _Z_80)[1] if boxes else 0.0
        accepted = min(_MOST_ACCEPTED, max(_LEAST_ACCEPTED, before + silent))
        return cls(accepted, max(_LEAST_REJECTED, _FACTOR * accepted))

    @property
    def middle(self) -> float:
        """The share of bad boxes from which on a rollout is not widened without a person."""
        return (self.accepted + self.rejected) / 2

    def rejects(self, bad: int, boxes: int) -> bool:
        """Whether a release with so many bad ones among the boxes that began has to be held."""
        return bad >= _LEAST_BAD and self._log_ratio(bad, boxes) >= math.log(1 / ALPHA)

    def holds_at(self, boxes: int) -> int:
        """Return the number of bad ones at which a release is held after so many boxes."""
        per_bad, per_good = self._weights()
        needed = (math.log(1 / ALPHA) + boxes * per_good) / (per_bad + per_good)
        return max(_LEAST_BAD, math.ceil(needed - 1e-9))

    def _log_ratio(self, bad: int, boxes: int) -> float:
        per_bad, per_good = self._weights()
        return bad * per_bad - (boxes - bad) * per_good

    def _weights(self) -> tuple[float, float]:
        per_bad = math.log(self.rejected / self.accepted)
        return per_bad, math.log((1 - self.accepted) / (1 - self.rejected))


def interval(bad: int, boxes: int, z: float = _Z_95) -> tuple[float, float]:
    """
    Return Wilson's interval for the share of bad boxes ("Probable Inference", 1927).

    :param boxes: at least 1.
    :param z: the quantile of the normal distribution; by default the interval is one of 95 %.
    """
    share, square = bad / boxes, z * z
    middle = share + square / (2 * boxes)
    spread = z * math.sqrt(share * (1 - share) / boxes + square / (4 * boxes * boxes))
    whole = 1 + square / boxes
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)
