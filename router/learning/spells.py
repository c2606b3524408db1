"""How often a model's attempts fail, and how long that takes. Failures come in spells, so minutes count."""

from __future__ import annotations

import math

__all__ = ["Failures"]

#: The weight of "never fails", in attempts; the least weight of one; seconds until a failure counts for 1/e
#: of itself.
NEVER_FAILS, LEAST_FAILURE, FAILURE_LIFETIME = 20.0, 0.05, 300.0


class Failures:
    """How often one model's attempts fail, and how long that takes."""

    __slots__ = ("_at", "_count", "_seconds", "_share")

    def __init__(self, before: int) -> None:
        self._count = before
        self._share = 0.0
        self._seconds = 0.0
        self._at = -math.inf

    def add(self, failed: float, seconds: float | None, now: float) -> None:
        """An attempt was answered (0) or failed (1)."""
        self._share = self._faded(now)
        self._at = max(now, self._at)
        self._count += 1
        weight = max(1.0 / (self._count + NEVER_FAILS), LEAST_FAILURE)
        self._share += weight * (failed - self._share)
        if seconds is not None:
            seconds = min(max(0.0, seconds), 1e6)  # in this order a NaN is nothing
            self._seconds += (seconds - self._seconds) * (0.3 if self._seconds else 1.0)

    def _faded(self, now: float) -> float:
        return self._share * math.exp(-max(now - self._at, 0.0) / FAILURE_LIFETIME) if self._share else 0.0

    def at(self, now: float) -> tuple[float, float]:
        """The probability of a failure, and the seconds that failures cost a request in the mean."""
        share = min(self._faded(now), 0.95)
        return share, share / (1.0 - share) * self._seconds
