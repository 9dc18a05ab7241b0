"""Tests after each result whether a release fails on too many boxes."""

import math

from attrs import frozen

#: The probability that a good release is ever held, over all tests of its rollout together.
ALPHA = 0.01

#: With fewer bad boxes, no release is held.
_LEAST_BAD = 3

#: The smallest and the largest share of bad boxes that can be accepted. The largest one is a limit
#: because a previous release that was very bad must not let the next one be as bad.
_LEAST_ACCEPTED, _MOST_ACCEPTED = 0.01, 0.02

#: The share of bad boxes that is certainly too large is the larger one of two numbers: this share,
#: and this multiple of the accepted share.
_LEAST_REJECTED, _FACTOR = 0.05, 4

#: The quantiles of the normal distribution for an upper bound of 80 %, and an interval of 95 %.
_Z_80, _Z_95 = 0.8416, 1.9600


@frozen
class SequentialTest:
    """
    Wald's sequential probability ratio test ("Sequential Tests of Statistical Hypotheses", 1945).

    It may be repeated after each result. If the true share of bad boxes is at most `accepted`, the
    probability that any of these tests rejects the release is at most `ALPHA`. A box whose attempt
    is under way has to be counted as good, because an installation that fails ends earlier than one
    that succeeds.
    """

    accepted: float
    rejected: float

    @classmethod
    def after(cls, bad: int, boxes: int, silent: float) -> "SequentialTest":
        """
        Make the test of a release.

        :param bad: how many of the `boxes` were bad with the previous release.
        :param silent: the share of the controls that fell silent, if silent boxes are among the bad
            ones; otherwise 0.
        """
        before = interval(bad, boxes, _Z_80)[1] if boxes else 0.0
        accepted = min(_MOST_ACCEPTED, max(_LEAST_ACCEPTED, before + silent))
        return cls(accepted, max(_LEAST_REJECTED, _FACTOR * accepted))

    @property
    def middle(self) -> float:
        """If at least this share of the boxes is bad, only a person may widen the rollout."""
        return (self.accepted + self.rejected) / 2

    def rejects(self, bad: int, boxes: int) -> bool:
        """Whether a release has to be held with this number of bad boxes."""
        return bad >= _LEAST_BAD and self._log_ratio(bad, boxes) >= math.log(1 / ALPHA)

    def holds_at(self, boxes: int) -> int:
        """Return the smallest number of bad boxes among `boxes` for which a release is held."""
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
