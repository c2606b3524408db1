"""Percentiles in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Histogram", "Percentiles"]

#: Two neighbouring bins differ by this factor; a bin's middle is then within 1 % of all that is in it.
STEP = 1.02
#: What is smaller counts as this: seconds that nobody sees.
LEAST = 1e-6
_PER_LOG = 1 / math.log(STEP)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """A mean and percentiles; NaN where there was nothing."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


class Histogram:
    """Counts of positive numbers in bins that grow by 2 %. A percentile is wrong by 1 % at most."""

    __slots__ = ("_bins", "_most", "_sum", "count")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._sum = 0.0
        self._most = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        """Takes one number in. Negative ones and 0 count as the smallest there is."""
        place = math.floor(math.log(max(value, LEAST)) * _PER_LOG)
        bins = self._bins
        bins[place] = bins.get(place, 0) + 1
        self._sum += value
        self._most = max(self._most, value)
        self.count += 1

    @property
    def mean(self) -> float:
        """The mean, exactly; NaN if there is nothing."""
        return self._sum / self.count if self.count else math.nan

    def quantile(self, share: float) -> float:
        """The least number that this share of all does not exceed; NaN if there is nothing."""
        if not self.count:
            return math.nan
        left = max(math.ceil(share * self.count), 1)
        for place in sorted(self._bins):
            left -= self._bins[place]
            if left <= 0:
                return min(math.exp((place + 0.5) / _PER_LOG), self._most)
        return self._most

    def percentiles(self) -> Percentiles:
        """The figures that a report shows."""
        p50, p90, p95, p99 = (self.quantile(share) for share in (0.5, 0.9, 0.95, 0.99))
        return Percentiles(self.mean, p50, p90, p95, p99)
